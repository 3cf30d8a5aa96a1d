"""A comparison as text and as data: a column per side, how each figure is known, and what differs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from advisor.cli.boot_table import LINES
from profiles.provenance import Figure, Provenance

if TYPE_CHECKING:
    from advisor.cli.compare import Side

SIGNS = {
    Provenance.EXACT: "",
    Provenance.MEASURED: "",
    Provenance.CALIBRATED: "~",
    Provenance.ESTIMATED: "~",
}
SMALLER = frozenset({"weights", "activation", "non_torch", "cuda_graph", "kv_bytes_per_token", "checkpoint",
                     "ttft_ms", "itl_ms"})  # fmt: skip
"""Figures of which less is better; of the others more is."""

RANKED = ("weights", "kv_bytes_per_token", "kv_tokens", "longest_context", "prefill_tokens_s",
          "decode_tokens_s", "ttft_ms", "throughput_tokens_s")  # fmt: skip
"""Figures that the summary names."""


def differences(sides: list[Side]) -> list[dict[str, Any]]:
    """The best side by figure, its ratio to the worst, and whether their intervals are apart."""
    out: list[dict[str, Any]] = []
    words = dict(LINES)
    for field in RANKED:
        figures: list[tuple[Figure, Side]] = [
            (f, s) for s in sides if (f := getattr(s.footprint, field)) is not None and math.isfinite(f.value)
        ]
        if len(figures) < 2:
            continue
        ordered = sorted(figures, key=lambda e: e[0].value, reverse=field not in SMALLER)
        (best, winner), (worst, loser) = ordered[0], ordered[-1]
        if best.value == worst.value:
            continue
        low, high = sorted((best.value, worst.value))
        apart = best.low > worst.high or best.high < worst.low
        out.append(
            {
                "figure": field,
                "words": words[field],
                "best": winner.name,
                "worst": loser.name,
                "ratio": high / low if low > 0 else None,
                "intervals_apart": apart,
            }
        )
    return out


def record(side: Side) -> dict[str, Any]:
    """One side as data."""
    return {
        "name": side.name,
        "model": side.model.model_id,
        "plan": side.plan_label,
        "device": side.hardware.device.name,
        "devices": len(side.hardware.devices),
        "parameters": side.model.num_parameters,
        "license": side.model.license,
        "footprint": side.footprint,
    }


def show(sides: list[Side]) -> None:
    """The table, refusals, and the differences in words."""
    from advisor.cli.output import console, number, table

    out = console()
    spec = sides[0].footprint.spec
    rows = table(None, ["", *(s.name for s in sides)], right=range(1, len(sides) + 1))
    facts: tuple[tuple[str, Callable[[Side], str]], ...] = (
        ("model", lambda s: s.model.model_id.rsplit("/", 1)[-1][:40]),
        ("plan", lambda s: s.plan_label),
        ("device", lambda s: f"{len(s.hardware.devices)} x {device_words(s.hardware.device.name)}"),
        ("stored elements", lambda s: f"{s.model.num_parameters / 1e9:,.2f} B"),
        ("layers x hidden", lambda s: f"{s.model.num_layers} x {s.model.hidden_size:,}"),
        ("licence", lambda s: s.model.license or "-"),
        ("context asked", lambda s: f"{s.footprint.spec.max_model_len or 0:,}"),
        ("verdict", lambda s: s.footprint.verdict.value),
    )
    for words, of in facts:
        rows.add_row(words, *(of(s) for s in sides))
    for field, words in LINES:
        figures = [getattr(s.footprint, field) for s in sides]
        if any(f is not None for f in figures):
            rows.add_row(words, *("-" if f is None else SIGNS[f.provenance] + number(f) for f in figures))
    out.print(rows)
    _wrapped(
        f"concurrency {spec.concurrency}, vLLM {spec.engine_version}; ~ estimated or calibrated, the others "
        "exact; --json has every interval and source, advisor fit MODEL --explain the formulas"
    )
    for side in sides:
        if side.footprint.verdict.value != "fits":
            _wrapped(f"{side.name}: {side.footprint.verdict.value}: {side.footprint.reason}")
    close: list[str] = []
    for row in differences(sides):
        if not row["intervals_apart"]:
            close.append(row["words"])
            continue
        verb = "less" if row["figure"] in SMALLER else "more"
        ratio = f", {row['ratio']:,.2f} x" if row["ratio"] else ""
        _wrapped(f"{row['words']}: {verb} in {row['best']} than in {row['worst']}{ratio}")
    if close:
        _wrapped(f"too close to call, the intervals overlap: {', '.join(close)}")


def device_words(name: str) -> str:
    """A device without the words that all of its maker's devices have."""
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _wrapped(text: str) -> None:
    from advisor.cli.output import console

    out = console()
    for line in textwrap.wrap(text, out.width, subsequent_indent="  ", break_on_hyphens=False):
        out.print(line, markup=False, soft_wrap=True)
