"""Plotly charts as plain data: traces and layout, drawn by the library that the page carries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from advisor.report.schema import HeatCell, PlanCell, Point, RunReport

Chart = dict[str, Any]

FAMILY_COLOURS = {
    "16-bit": "#4c566a",
    "fp8": "#1b9e77",
    "int8": "#3182bd",
    "int4": "#e6853d",
    "fp4": "#a6559d",
}
"""A colour per family of formats; the letter in the cell says the same without colour."""

PROMISE_COLOURS = {True: "#3182bd", False: "#c0392b", None: "#8a8a8a"}
"""Of a line that a gate judges, and of one that only informs."""

LETTERS = {"16-bit": "B", "fp8": "F", "int8": "8", "int4": "4", "fp4": "N"}


def charts(report: RunReport) -> dict[str, Chart]:
    """Name to chart; a part that the run has not measured has none."""
    out: dict[str, Chart] = {}
    if report.points:
        out["front"] = front(report.points)
    if report.plan:
        out["plan"] = strip(report.plan)
    if report.sensitivity:
        out["heat"] = heat(report.sensitivity)
    compared = [line for line in report.lines if line.predicted]
    if compared:
        out["promise"] = {
            "data": [
                {
                    "type": "bar",
                    "orientation": "h",
                    "y": [line.name for line in compared],
                    "x": [100 * (line.measured / (line.predicted or math.nan) - 1) for line in compared],
                    "marker": {"color": [PROMISE_COLOURS[line.ok] for line in compared]},
                    "hovertemplate": "%{y}: %{x:+.2f} %<extra></extra>",
                }
            ],
            "layout": _layout("measured, percent above or below the prediction", "", height=260)
            | {"margin": {"l": 170, "r": 20, "t": 20, "b": 45}},
        }
    return out


def front(points: Sequence[Point]) -> Chart:
    """KL against bits per weight, a series per text split; the chosen plan is a star."""
    traces: list[dict[str, Any]] = []
    for split in dict.fromkeys(p.split for p in points):
        shown = sorted((p for p in points if p.split == split), key=lambda p: p.bits_per_weight)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text" if split == "evaluate" else "markers",
                "name": "held-out text" if split == "evaluate" else f"{split} text",
                "x": [p.bits_per_weight for p in shown],
                "y": [p.kl for p in shown],
                "text": [p.label for p in shown],
                "textposition": "top right",
                "textfont": {"size": 10},
                "customdata": [[p.perplexity, p.top1 * 100, p.checkpoint_bytes / 2**20] for p in shown],
                "hovertemplate": "%{text}<br>%{x:.3f} bits, %{customdata[2]:.1f} MiB<br>KL %{y:.3g}, "
                "perplexity %{customdata[0]:.3f}, same top token %{customdata[1]:.1f} %<extra></extra>",
                "marker": {
                    "size": [15 if p.chosen else 9 for p in shown],
                    "symbol": ["star" if p.chosen else "circle" for p in shown],
                },
            }
        )
    return {
        "data": traces,
        "layout": _layout("bits per quantizable weight, scales included", "KL, nats per token", height=400),
    }


def strip(plan: Sequence[PlanCell]) -> Chart:
    """A row per role, a cell per block, coloured by the family of the format."""
    from profiles.formats import get_format

    rows, columns = _axes(plan)
    families = list(FAMILY_COLOURS)
    at = {(c.role, c.block): c for c in plan}
    z: list[list[int | None]] = []
    text, hover = [], []
    for role in rows:
        cells = [at.get((role, block)) for block in columns]
        kinds = [get_format(c.format).family if c else None for c in cells]
        z.append([families.index(k) if k else None for k in kinds])
        text.append([LETTERS[k] if k else "" for k in kinds])
        hover.append([f"{c.unit}: {c.format}, {c.bytes:,} bytes" if c else "" for c in cells])
    steps = len(families)
    scale = [
        [edge / steps, colour]
        for i, colour in enumerate(FAMILY_COLOURS.values())
        for edge in (i, i + 1)
    ]  # fmt: skip
    trace = {
        "type": "heatmap", "x": _names(columns), "y": rows, "z": z, "text": text, "hovertext": hover,
        "texttemplate": "%{text}", "hoverinfo": "text", "zmin": -0.5, "zmax": steps - 0.5,
        "colorscale": scale, "showscale": False, "xgap": 1, "ygap": 1,
    }  # fmt: skip
    return {"data": [trace], "layout": _layout("block", "", height=90 + 34 * len(rows), reverse=True)}


def heat(cells: Sequence[HeatCell]) -> Chart:
    """log10 of the measured KL, a row per format and role, a column per block."""
    rows = list(dict.fromkeys((c.format, c.role) for c in sorted(cells, key=lambda c: c.format)))
    columns = _axes(cells)[1]
    at = {(c.format, c.role, c.block): c.kl for c in cells}
    values = [[at.get((fmt, role, block)) for block in columns] for fmt, role in rows]
    trace = {
        "type": "heatmap", "x": _names(columns), "y": [f"{fmt} {role}" for fmt, role in rows],
        "z": [[math.log10(v) if v and v > 0 else None for v in row] for row in values],
        "customdata": values, "colorscale": "Viridis", "colorbar": {"title": {"text": "log10 KL"}},
        "hovertemplate": "%{y}, block %{x}: KL %{customdata:.2e}<extra></extra>", "xgap": 1, "ygap": 1,
    }  # fmt: skip
    return {"data": [trace], "layout": _layout("block", "", height=110 + 24 * len(rows), reverse=True)}


def _axes(cells: Sequence[PlanCell] | Sequence[HeatCell]) -> tuple[list[str], list[int | None]]:
    roles = list(dict.fromkeys(c.role for c in cells))
    blocks = sorted({c.block for c in cells if c.block is not None})
    return roles, [*([None] if any(c.block is None for c in cells) else []), *blocks]


def _names(columns: Sequence[int | None]) -> list[str]:
    return ["-" if c is None else str(c) for c in columns]


def _layout(x: str, y: str, *, height: int, reverse: bool = False) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": y}, "automargin": True}
    return {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 20, "b": 45},
        "xaxis": {"title": {"text": x}, "type": "category" if reverse else "linear"},
        "yaxis": axis | ({"autorange": "reversed"} if reverse else {}),
        "legend": {"orientation": "h", "y": 1.1},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#7a8290"},
    }
