"""The catalogue of devices: exact names only, nearest names in the error, never a guess by substring."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from profiles.errors import UsageError, nearest
from profiles.hardware.catalogue.entry import GIB, CatalogueEntry, normalised
from profiles.hardware.schema import DeviceKind

PLAUSIBLE_MEMORY = (0.93, 1.04)
"""A driver's total must lie within this share of an entry's interval to be that device: sizes sold under
one name differ by 20 % and more (RTX 3080 10/12 GB), driver versions by 0.5 %."""

__all__ = ["CatalogueEntry", "entries", "find_entry", "match_driver", "normalised"]


@cache
def entries() -> tuple[CatalogueEntry, ...]:
    """Every device of the catalogue."""
    raw = json.loads(Path(__file__).with_name("devices.json").read_bytes())
    return tuple(CatalogueEntry.model_validate(item) for item in raw)


@cache
def _by_name() -> dict[str, CatalogueEntry]:
    """Normalised key, name and alias to entry; the integrity test holds them unique."""
    return {normalised(n): e for e in entries() for n in (e.key, e.name, *e.aliases)}


@cache
def _by_driver_name() -> dict[str, tuple[CatalogueEntry, ...]]:
    found: dict[str, tuple[CatalogueEntry, ...]] = {}
    for entry in entries():
        for name in {normalised(n) for n in entry.driver_names}:
            found[name] = (*found.get(name, ()), entry)
    return found


def find_entry(name: str) -> CatalogueEntry:
    """The entry with exactly that key, alias or name, case and separators aside.

    Raises:
        UsageError: nothing has that name, or several sizes do.
    """
    wanted = normalised(name)
    if wanted in _by_name():
        return _by_name()[wanted]
    several = _by_driver_name().get(wanted, ())
    if len(several) == 1:
        return several[0]
    if several:
        raise UsageError(
            f"{name!r} is sold with different memory",
            got=name,
            allowed=", ".join(e.key for e in several),
            next_step="name one of them",
        )
    known = [*(e.key for e in entries()), *(a for e in entries() for a in e.aliases)]
    raise UsageError(
        f"unknown device {name!r}",
        got=name,
        allowed=nearest(name, known, count=4),
        next_step="advisor hardware --all lists the catalogue",
    )


def match_driver(name: str, total_bytes: float | None, kind: DeviceKind) -> CatalogueEntry | None:
    """The entry that a driver's answer stands for: same name, and a memory size that it can have.

    `total_bytes` is None where memory says nothing about the device (unified memory, CPUs).
    """
    same_name = [e for e in _by_driver_name().get(normalised(name), ()) if e.kind is kind]
    if total_bytes is None:
        return same_name[0] if len(same_name) == 1 else None
    plausible = [
        e
        for e in same_name
        if e.memory_low_gib * PLAUSIBLE_MEMORY[0]
        <= total_bytes / GIB
        <= e.memory_high_gib * PLAUSIBLE_MEMORY[1]
    ]
    return plausible[0] if len(plausible) == 1 else None
