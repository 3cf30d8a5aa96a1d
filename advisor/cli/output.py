"""What goes to stdout: data as JSON, or text for people. Nothing else prints there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from profiles.provenance import Figure, Provenance
from profiles.sizes import UNITS, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MARKS = {
    Provenance.EXACT: "exact",
    Provenance.MEASURED: "measured",
    Provenance.CALIBRATED: "calibrated",
    Provenance.ESTIMATED: "estimated",
}


def plain(value: Any) -> Any:
    """Contracts, and mappings and sequences of them, as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    return value


def print_json(value: Any) -> None:
    """The one JSON document that a command prints."""
    json.dump(plain(value), sys.stdout, indent=1, allow_nan=False, default=str)
    sys.stdout.write("\n")


def console() -> Console:
    """Rich on stdout; without a terminal as wide as COLUMNS says or 110, colours only where welcome."""
    from rich.console import Console

    asked = os.environ.get("COLUMNS", "")
    width = int(asked) if asked.isascii() and asked.isdigit() and 20 <= int(asked) <= 1000 else 110
    return Console(width=None if sys.stdout.isatty() else width, highlight=False, soft_wrap=False)


def table(title: str | None, columns: Sequence[str], *, right: Sequence[int] = ()) -> Table:
    """A plain table: no box drawing, so that it pastes anywhere."""
    from rich.table import Table

    out = Table(title=title, title_justify="left", box=None, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        out.add_column(column, justify="right" if index in right else "left", overflow="fold")
    return out


def shown(figure: Figure | None) -> str:
    """A figure with its interval when it has one; the unit decides how the number is written."""
    if figure is None:
        return "-"
    text = _number(figure.value, figure.unit)
    if figure.low != figure.high:
        text += f" ({_number(figure.low, figure.unit)} to {_number(figure.high, figure.unit)})"
    return text


def number(figure: Figure) -> str:
    """The value alone, with its unit."""
    return _number(figure.value, figure.unit)


def in_unit_of(figure: Figure, value: float) -> str:
    """Another number of the same figure, written in the unit that the value is shown in, unit left out."""
    if figure.unit in {"B", "bytes", "byte"} and value not in (float("inf"), float("-inf")):
        divisor = next((d for _, d in UNITS if abs(figure.value) >= d), 1)
        return f"{value / divisor:,.2f}" if divisor > 1 else f"{value:,.0f}"
    text = _number(value, figure.unit)
    return text.removesuffix(figure.unit).rstrip() if figure.unit else text


def provenance(figure: Figure | None) -> str:
    """How a figure is known and from where."""
    return "" if figure is None else f"{MARKS[figure.provenance]}: {figure.source}"


def _number(value: float, unit: str) -> str:
    if value in (float("inf"), float("-inf")):
        return "unbounded"
    if unit in {"B", "bytes", "byte"}:
        return size(value)
    if unit in {"B/s", "bytes/s"}:
        return f"{value / 1e9:,.1f} GB/s"
    if unit in {"ops/s", "op/s", "FLOP/s", "flop/s"}:
        return f"{value / 1e12:,.2f} Tops/s"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,} {unit}".rstrip()
    return f"{value:,.{0 if abs(value) >= 100 else 2}f} {unit}".rstrip()
