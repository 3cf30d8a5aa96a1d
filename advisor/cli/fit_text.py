"""What `advisor fit MODEL` prints for people: the plans, one boot log or all of them, levers, costs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advisor.cli.fit import Answers
    from profiles.footprint import QuantizeCost
    from profiles.footprint.plans import Refused, UniformPlan
    from profiles.footprint.schema import Footprint
    from profiles.hardware.schema import HardwareProfile
    from profiles.models.schema import ModelProfile

LEVERS = 4
"""Levers shown of a plan whose log is not shown: the first that are enough."""


def show(
    model: ModelProfile,
    hardware: HardwareProfile,
    found: Answers,
    refused: list[Refused],
    *,
    full: bool,
    explain: bool,
) -> None:
    """The answer as text, readable from 80 columns on."""
    from advisor.cli.output import console, table
    from profiles.sizes import size

    out = console()
    first = next(iter(found.values()))[1]
    context = first.spec.max_model_len or model.max_position_embeddings
    _wrapped(
        f"{model.model_id} on {len(hardware.devices)} x {first.device_name}: context {context:,}, "
        f"concurrency {first.spec.concurrency}, served in {first.spec.dtype}, "
        f"vLLM {first.spec.engine_version}"
    )
    if "ingested here" in first.activation.source:
        _wrapped(first.activation.source)
    rows = table(
        None, ["plan", "verdict", "weights", "KV cache", "KV tokens", "longest", "runs"], right=(2, 3, 4, 5)
    )
    for label, (plan, answer, _) in found.items():
        rows.add_row(
            label.removeprefix("uniform "),
            answer.verdict.value,
            size(answer.weights.value),
            size(answer.kv_bytes.value),
            f"{answer.kv_tokens.value:,.0f}",
            f"{answer.longest_context.value:,.0f}",
            plan.runs,
        )
    out.print(rows)
    for missing in refused:
        _wrapped(f"not here: {missing.family}: {missing.reason}", 2)
    chosen = shown_plan(found)
    for plan, _, _ in found.values():
        if plan.cost:
            _wrapped(f"{plan.family} runs {plan.runs}: {plan.cost}", 2)
    for label, (plan, answer, cost) in found.items():
        log = full or label == chosen
        if log or answer.verdict.value != "fits":
            _plan(plan, answer, cost, log=log, explain=explain)
    for text in model.assumptions:
        _wrapped(f"assumed: {text}", 2)
    if len(found) > 1 and not full:
        _wrapped("--full shows the boot log of every plan, --explain the formulas, --json everything")


def shown_plan(found: Answers) -> str:
    """The first plan that fits: the most precise one; else one that a lever makes fit; else the last."""
    for verdict in ("fits", "fits if"):
        for label, (_, answer, _) in found.items():
            if answer.verdict.value == verdict:
                return label
    return list(found)[-1]


def _plan(
    plan: UniformPlan, answer: Footprint, cost: QuantizeCost | None, *, log: bool, explain: bool
) -> None:
    from advisor.cli.boot_table import boot_lines
    from advisor.cli.output import console
    from profiles.sizes import size

    out = console()
    out.print()
    _wrapped(f"{plan.label}: {answer.reason}")
    if log:
        for line in boot_lines(answer, explain=explain, width=out.width):
            out.print(line, markup=False, soft_wrap=True)
    if log:
        for refusal in answer.refusals:
            if refusal != answer.reason:
                _wrapped(f"would refuse to start: {refusal}", 2)
    enough = [lever for lever in answer.levers if lever.enough]
    levers = list(answer.levers) if log else enough[:LEVERS]
    for lever in levers:
        mark = ", enough" if lever.enough else ""
        _wrapped(f"lever: {lever.change} frees {size(lever.frees_bytes.value)}{mark} ({lever.cost})", 2)
    if answer.levers and not enough:
        _wrapped(f"no single change is enough ({len(answer.levers)} tried{'' if log else ': --full'})", 2)
    elif len(levers) < len(answer.levers):
        _wrapped(f"{len(answer.levers) - len(levers)} more levers: --full", 2)
    if cost is not None and (log or not cost.fits):
        _wrapped(f"to quantize: {quantize_words(cost)}", 2)
    if log:
        for note in answer.notes:
            _wrapped(f"note: {note}", 2)


def quantize_words(cost: QuantizeCost) -> str:
    """Time and memory of the quantization run, as ranges."""
    from profiles.sizes import size

    low, high = (minutes(s) for s in (cost.seconds.low, cost.seconds.high))
    parts = [
        f"{cost.method} takes {low} to {high}",
        f"host memory {size(cost.host_bytes.low)} to {size(cost.host_bytes.high)}",
    ]
    if cost.device_bytes.value:
        parts.append(f"device memory about {size(cost.device_bytes.value)}")
    text = ", ".join(parts) + " (estimated, 512 samples of 2,048 tokens)"
    return text if cost.fits else f"{text}. Does not fit: {cost.reason}"


def minutes(seconds: float) -> str:
    """A duration in the unit that people use for it."""
    if seconds < 90:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _wrapped(text: str, indent: int = 0) -> None:
    from advisor.cli.output import console

    out = console()
    pad = " " * indent
    wrapped = textwrap.wrap(
        text, out.width, initial_indent=pad, subsequent_indent=pad + "  ", break_on_hyphens=False
    )
    for line in wrapped:
        out.print(line, markup=False, soft_wrap=True)
