"""Rows by role, a cell per decoder block: the plan's formats, or how much each format costs."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

from rich.text import Text

FAMILY_CELLS = {
    "16-bit": ("B", "black on white"),
    "fp8": ("Fghijk", "black on cyan"),
    "int8": ("8uvwxyz", "black on green"),
    "int4": ("4abcdefopqr", "black on yellow"),
    "fp4": ("NMLK", "white on magenta"),
}
"""Letters and a colour per family of formats: a letter for each of its formats, in the menu's order. The
letter alone is enough."""

HEAT = ("on #0b3d0b", "on #2e5d0a", "on #6b6b00", "on #8a5a00", "on #9a3b00", "on #a01010")
LETTERS = "0123456789"


class Place(NamedTuple):
    """Where a unit stands: its role's row and its block's column (None: outside the blocks)."""

    role: str
    block: int | None


def places(units: Mapping[str, Place], names: list[str]) -> dict[str, Place]:
    """The place of every unit; one that is not known stands in a row of its own."""
    return {name: units.get(name, Place(name.rsplit(".", 1)[-1], _block(name))) for name in names}


def _block(name: str) -> int | None:
    numbers = [part for part in name.split(".") if part.isdigit()]
    return int(numbers[0]) if numbers else None


@functools.cache
def format_cell(name: str) -> tuple[str, str]:
    """The letter and the colour of a format, the same in every plan."""
    from profiles.formats import MENU, get_format

    family = get_format(name).family
    letters, style = FAMILY_CELLS[family]
    siblings = [n for n, f in MENU.items() if f.family == family]
    index = siblings.index(name) if name in siblings else len(letters)
    return (letters[index] if index < len(letters) else "?"), style


def plan_text(formats: Mapping[str, str], units: Mapping[str, Place], width: int) -> Text:
    """A plan as a strip per role, and the legend of the letters that occur."""
    rows: dict[str, dict[int, tuple[str, str]]] = {}
    for name, place in places(units, list(formats)).items():
        cell = format_cell(formats[name])
        rows.setdefault(place.role, {})[-1 if place.block is None else place.block] = cell
    out = _grid(rows, width)
    seen: dict[str, int] = {}
    used = 0
    for name in formats.values():
        seen[name] = seen.get(name, 0) + 1
    for name, count in sorted(seen.items(), key=lambda item: -item[1]):
        letter, style = format_cell(name)
        words = f" {name} x {count}   "
        if used and used + 3 + len(words.rstrip()) > width:
            out.append("\n")
            used = 0
        out.append(f" {letter} ", style=style)
        out.append(words)
        used += 3 + len(words)
    return out


def heat_text(sensitivity: Mapping[str, Mapping[str, float]], units: Mapping[str, Place], width: int) -> Text:
    """Measured KL by unit and format: a digit on a logarithmic scale, 0 the least and 9 the most."""
    values = [v for row in sensitivity.values() for v in row.values() if v > 0]
    if not values:
        return Text("nothing measured yet", style="dim")
    low, high = math.log10(min(values)), math.log10(max(values))
    span = max(high - low, 1e-9)
    rows: dict[str, dict[int, tuple[str, str]]] = {}
    formats = sorted({f for row in sensitivity.values() for f in row})
    found = places(units, list(sensitivity))
    for fmt in formats:
        for name, row in sensitivity.items():
            if fmt not in row:
                continue
            place = found[name]
            share = 0.0 if row[fmt] <= 0 else (math.log10(row[fmt]) - low) / span
            cell = (LETTERS[min(9, int(share * 10))], "white " + HEAT[min(5, int(share * 6))])
            key = f"{fmt} {place.role}"
            rows.setdefault(key, {})[-1 if place.block is None else place.block] = cell
    out = Text(f"0 is KL {min(values):.1e}, 9 is KL {max(values):.1e} nats per token (logarithmic)\n")
    out.append_text(_grid(rows, width))
    return out


def _grid(rows: Mapping[str, Mapping[int, tuple[str, str]]], width: int) -> Text:
    """Rows with a name each; many blocks are wrapped into several grids below each other."""
    blocks = sorted({b for row in rows.values() for b in row})
    label = max((len(name) for name in rows), default=0) + 1
    per_line = max(8, width - label - 1)
    cell = 2 if len(blocks) * 2 <= per_line else 1
    per_line = max(4, per_line // cell)
    out = Text()
    for start in range(0, len(blocks), per_line):
        chunk = blocks[start : start + per_line]
        ruler = [" "] * (len(chunk) * cell)
        for index, block in enumerate(chunk):
            if block >= 0 and block % 5 == 0 and index * cell + len(str(block)) <= len(ruler):
                ruler[index * cell : index * cell + len(str(block))] = str(block)
        out.append(" " * label + "".join(ruler) + "\n", style="dim")
        for name, row in rows.items():
            out.append(name.ljust(label))
            cells = ((row.get(block, (" ", ""))) for block in chunk)
            for style, run in itertools.groupby(cells, key=lambda c: c[1]):
                out.append("".join(letter.center(cell) for letter, _ in run), style=style)
            out.append("\n")
    return out
