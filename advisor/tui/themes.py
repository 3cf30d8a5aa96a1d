"""Themes: Textual's own and one of high contrast; the user's choice is in the config file."""

from __future__ import annotations

from textual.theme import Theme

HIGH_CONTRAST = Theme(
    name="high-contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#ffff00",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1a1a1a",
    success="#00ff00",
    warning="#ffff00",
    error="#ff6060",
    dark=True,
)
CYCLE = ("textual-dark", "textual-light", "high-contrast", "ansi-dark", "ansi-light", "nord", "gruvbox")
"""What `t` goes through; the palette (ctrl+p) offers every theme."""


def following(name: str) -> str:
    """The theme after `name`."""
    return CYCLE[(CYCLE.index(name) + 1) % len(CYCLE)] if name in CYCLE else CYCLE[0]
