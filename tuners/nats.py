"""How a loss in nats per token is written, everywhere."""

from __future__ import annotations


def nats(value: float) -> str:
    """Three significant digits: 0.137, 0.0584, 3.47e-05."""
    return f"{value:#.3g}".removesuffix(".") if value else "0"


def signed(value: float) -> str:
    """A difference of two, with its sign."""
    return f"{'' if value < 0 or not value else '+'}{nats(value)}"
