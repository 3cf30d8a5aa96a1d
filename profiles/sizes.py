"""Bytes as people read them."""

from __future__ import annotations

UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def size(count: float, digits: int = 2) -> str:
    """Bytes for people: binary units, the name of the unit always there."""
    for unit, divisor in UNITS:
        if abs(count) >= divisor:
            return f"{count / divisor:,.{digits}f} {unit}"
    return f"{count:,.0f} B"
