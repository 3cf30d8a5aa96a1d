"""A predicted boot log as text: one line per figure, its interval, and where it is known from as notes."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from advisor.cli.output import MARKS, in_unit_of, number

if TYPE_CHECKING:
    from profiles.footprint.schema import Footprint
    from profiles.provenance import Figure

LINES = (
    ("weights", "weights, per rank"),
    ("activation", "activation peak"),
    ("non_torch", "non-torch"),
    ("cuda_graph", "CUDA graphs"),
    ("kv_bytes", "KV cache"),
    ("kv_bytes_per_token", "KV bytes per token"),
    ("kv_tokens", "KV tokens"),
    ("max_concurrency", "requests at that context"),
    ("longest_context", "longest context"),
    ("budget", "what the engine may use"),
    ("free_after", "left for others"),
    ("checkpoint", "checkpoint on disk"),
    ("prefill_tokens_s", "prefill"),
    ("decode_tokens_s", "decode, per request"),
    ("ttft_ms", "time to first token"),
    ("itl_ms", "between tokens"),
    ("throughput_tokens_s", "all requests together"),
)
"""Figures of a footprint in the order of the engine's boot log, with their words."""

LABEL, VALUE, INTERVAL = 26, 16, 23
"""Columns; with `estimated [9]` a line takes 79."""


def boot_lines(answer: Footprint, *, explain: bool, width: int) -> list[str]:
    """The log, a line per figure, then the numbered sources; with `explain` the formula under each line."""
    sources: dict[str, int] = {}
    out: list[str] = []
    for field, words in LINES:
        figure: Figure | None = getattr(answer, field)
        if figure is None:
            continue
        note = sources.setdefault(figure.source, len(sources) + 1)
        known = f"{MARKS[figure.provenance]} [{note}]"
        out.append(f"  {words:<{LABEL}}{number(figure):>{VALUE}}  {interval(figure):<{INTERVAL}}{known}")
        if explain and figure.formula:
            out += textwrap.wrap(
                "= " + figure.formula, max(40, width), initial_indent="      ", subsequent_indent="        "
            )
    for source, note in sources.items():
        out += textwrap.wrap(
            f"[{note}] {source}", max(40, width), initial_indent="  ", subsequent_indent="      "
        )
    return out


def interval(figure: Figure) -> str:
    """`414 to 900`, in the unit of the value; empty for a point."""
    if figure.low == figure.high:
        return ""
    return f"{in_unit_of(figure, figure.low)} to {in_unit_of(figure, figure.high)}"
