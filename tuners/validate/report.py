"""Original against quantized, promised against measured, and the gates that decide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from profiles.errors import UsageError
from profiles.formats import get_format
from profiles.formats.kernels import kernel_support
from profiles.hardware.schema import Device
from tuners.plan import ROW_PARALLEL_ROLES, PrecisionPlan, Unit
from tuners.validate.accuracy import ACCEPTED_LOSS, accuracy_gate, accuracy_line, judge
from tuners.validate.behaviour import behaviour_gates, load_lines
from tuners.validate.generations import degenerate_count, more_by_chance
from tuners.validate.schema import (
    EngineMeasurement,
    Gate,
    Line,
    Predictions,
    TaskAccuracy,
    ValidationReport,
)

MEMORY_TOLERANCE = 0.01
"""Weights bytes and KV tokens are arithmetic: 1 % leaves room for alignment alone. Where the KV tokens were
predicted as an interval, it is the interval that must hold: on an H100 an 8B model's cache was 1.6 % larger
than the value and well inside (docs/gpu.md)."""

PERPLEXITY_TOLERANCE = 0.05
"""Search (torch, fake-quantized weights) against engine: other kernels, other accumulation order. On
the demo model the two differ by under 1 %; 5 % still tells a broken kernel or scale from noise."""

KL_TOLERANCE, KL_SLACK_NATS = 0.35, 0.01
"""Relative, plus this many nats: the engine's KL is top-k truncated, a lower bound of the search's."""

TOP1_TOLERANCE = 0.06
"""Relative. On the demo model search and engine differ by 2 % (one accumulation order against another turns
near-ties over); three times that still tells a broken layer, which costs tens of percent."""

GENERATIONS_CHANCE = 0.1
"""A greedy loop now and then is what small models do, quantized or not: the gate fails when so many more than
the original's would come by chance in fewer than one case in ten (three of six against none: 9 %)."""


def compare(
    original: EngineMeasurement,
    quantized: EngineMeasurement,
    *,
    plan: PrecisionPlan,
    units: Sequence[Unit],
    device: Device,
    predicted: Predictions,
    floor: float,
    accepted_loss: float = ACCEPTED_LOSS["high"],
    tp: int = 1,
) -> ValidationReport:
    """The report. `floor` is the largest accepted ratio of quantized to original perplexity,
    `accepted_loss` the share of the original's score on the task's items that may be lost.

    Raises:
        UsageError: a floor that is not a positive number, or measurements that cannot be compared.
    """
    if not math.isfinite(floor) or floor <= 0:
        raise UsageError(
            "the quality floor must be a positive, finite ratio of perplexities",
            got=str(floor),
            allowed="for example 1.05: at most 5 % more perplexity than the original",
        )
    _check_comparable(original, quantized)
    mismatches = kernel_mismatches(quantized, plan, units, device, tp=tp)
    ratio = quantized.perplexity / original.perplexity
    task = _judged(original, quantized, accepted_loss)
    lines = (
        *_memory_lines(quantized, predicted),
        *_quality_lines(original, quantized, predicted, ratio, floor),
        *([accuracy_line(task)] if task else []),
        *_speed_lines(original, quantized, predicted),
        *load_lines(original, quantized),
    )
    gates = (
        *_gates(original, quantized, lines, mismatches, len(units), ratio, floor),
        *([accuracy_gate(task)] if task else []),
    )
    return ValidationReport(
        passed=all(g.passed for g in gates),
        gates=gates,
        lines=lines,
        kernel_mismatches=mismatches,
        original=original,
        quantized=quantized,
        plan_key=plan.key,
        task=task,
        notes=tuple(_notes(quantized, predicted)),
    )


def kernel_mismatches(
    measured: EngineMeasurement, plan: PrecisionPlan, units: Sequence[Unit], device: Device, *, tp: int = 1
) -> dict[str, tuple[str, str]]:
    """Unit -> (planned kernel, the one that the engine chose), where they differ."""
    out: dict[str, tuple[str, str]] = {}
    for unit in units:
        planned = planned_kernel(unit, plan.formats[unit.name], device, tp=tp)
        module = engine_module(unit.name, measured.kernels)
        chosen = measured.kernels[module] if module else "no such module in the engine"
        unquantized = planned.startswith("Unquantized") and chosen.startswith("Unquantized")
        if chosen != planned and not unquantized:
            out[unit.name] = (planned, chosen)
    return out


def planned_kernel(unit: Unit, format_name: str, device: Device, *, tp: int = 1) -> str:
    """The kernel that the plan counts on for this unit."""
    row_parallel = unit.role in ROW_PARALLEL_ROLES
    out_features = sum(m.out_features for m in unit.linears) // (1 if row_parallel else tp)
    in_features = unit.linears[0].in_features // (tp if row_parallel else 1)
    support = kernel_support(get_format(format_name), device, out_features, in_features)
    return support.kernel or f"none ({support.reason})"


def engine_module(unit_name: str, modules: dict[str, str]) -> str | None:
    """The engine's module of a unit: the same name, or the only one that ends with it (multimodal
    models put the language model under a prefix)."""
    if unit_name in modules:
        return unit_name
    tail = "." + unit_name.removeprefix("model.")
    found = [m for m in modules if m.endswith(tail)]
    return found[0] if len(found) == 1 else None


def _judged(
    original: EngineMeasurement, quantized: EngineMeasurement, accepted_loss: float
) -> TaskAccuracy | None:
    if original.task is None or quantized.task is None:
        return None
    return judge(original.task, quantized.task, accepted_loss)


def _check_comparable(original: EngineMeasurement, quantized: EngineMeasurement) -> None:
    for name in ("engine_version", "dtype", "eval_tokens", "max_model_len"):
        ours, theirs = getattr(quantized, name), getattr(original, name)
        if ours != theirs:
            raise UsageError(
                f"the two measurements differ in {name}: they cannot be compared",
                got=f"quantized {ours}, original {theirs}",
                next_step="measure both with the same engine, serving arguments and evaluation texts",
            )


def _within(measured: float, predicted: float, tolerance: float, slack: float = 0.0) -> bool:
    return abs(measured - predicted) <= tolerance * abs(predicted) + slack


def _memory_lines(quantized: EngineMeasurement, predicted: Predictions) -> Iterator[Line]:
    rows = (
        ("weights", predicted.weights_bytes, quantized.weights_bytes, "B"),
        ("KV cache tokens", predicted.kv_tokens, quantized.kv_tokens, "tokens"),
        (
            "KV cache per token",
            predicted.kv_bytes_per_token,
            quantized.kv_cache_bytes / max(1, quantized.kv_tokens),
            "B",
        ),
    )
    for name, promised, measured, unit in rows:
        low, high = (predicted.kv_tokens_range if unit == "tokens" else None) or (promised, promised)
        ok = low * (1 - MEMORY_TOLERANCE) <= measured <= high * (1 + MEMORY_TOLERANCE)
        yield Line(
            name=name,
            predicted=promised,
            measured=measured,
            unit=unit,
            low=low if low < high else None,
            high=high if low < high else None,
            tolerance=MEMORY_TOLERANCE,
            ok=ok,
        )


def _quality_lines(
    original: EngineMeasurement,
    quantized: EngineMeasurement,
    predicted: Predictions,
    ratio: float,
    floor: float,
) -> Iterator[Line]:
    yield Line(name="perplexity, original", predicted=None, measured=original.perplexity, unit="perplexity")
    yield Line(name="perplexity, quantized", predicted=None, measured=quantized.perplexity, unit="perplexity")
    yield _quality_line(
        "perplexity ratio", predicted.perplexity_ratio, ratio, "ratio", PERPLEXITY_TOLERANCE, 0.0,
        note=f"the floor is {floor:g}",
    )  # fmt: skip
    if quantized.kl_to_reference is not None:
        yield _quality_line(
            "KL to the original", predicted.kl, quantized.kl_to_reference, "nats/token", KL_TOLERANCE,
            KL_SLACK_NATS, note=f"measured over the top tokens: a lower bound; slack {KL_SLACK_NATS} nats",
        )  # fmt: skip
    if quantized.top1_agreement is not None:
        yield _quality_line(
            "top-1 agreement", predicted.top1, quantized.top1_agreement, "share", TOP1_TOLERANCE, 0.0
        )


def _quality_line(
    name: str,
    promised: float | None,
    measured: float,
    unit: str,
    tolerance: float,
    slack: float,
    note: str = "",
) -> Line:
    if promised is None:
        return Line(name=name, predicted=None, measured=measured, unit=unit, note=note)
    ok = _within(measured, promised, tolerance, slack)
    return Line(
        name=name, predicted=promised, measured=measured, unit=unit, tolerance=tolerance, ok=ok, note=note
    )


def _speed_lines(
    original: EngineMeasurement, quantized: EngineMeasurement, predicted: Predictions
) -> Iterator[Line]:
    """Informs; no gate: a busy machine must not fail a checkpoint."""
    itl, ttft = predicted.itl_ms, predicted.ttft_ms
    tokens = original.prefill_tokens_s * original.ttft_ms  # of the timed prompt, times 1000
    for name, field, unit, promised in (
        ("prefill", "prefill_tokens_s", "tokens/s", tokens / ttft if ttft else None),
        ("decode, one request", "decode_tokens_s", "tokens/s", 1e3 / itl if itl else None),
        ("time to first token", "ttft_ms", "ms", ttft),
        ("between tokens", "itl_ms", "ms", itl),
    ):
        before, after = getattr(original, field), getattr(quantized, field)
        times = f", {after / before:.2f} times it" if before else ""
        if before and promised:
            times += f" ({promised / before:.2f} predicted from layer times)"
        yield Line(
            name=name, predicted=promised, measured=after, unit=unit, note=f"original {before:.4g}{times}"
        )


def _gates(
    original: EngineMeasurement,
    quantized: EngineMeasurement,
    lines: Sequence[Line],
    mismatches: dict[str, tuple[str, str]],
    unit_count: int,
    ratio: float,
    floor: float,
) -> Iterator[Gate]:
    yield _kernel_gate(mismatches, unit_count)
    by_name = {line.name: line for line in lines}
    for name in ("weights", "KV cache tokens"):
        yield _line_gate(by_name[name])
    yield Gate(
        name="quality floor",
        passed=ratio <= floor,
        reason=f"perplexity {original.perplexity:.3f} -> {quantized.perplexity:.3f}: "
        f"{ratio:.4f} times the original, at most {floor:g} is accepted",
    )
    promised = [
        line
        for line in lines
        if line.name in ("perplexity ratio", "KL to the original", "top-1 agreement") and line.ok is not None
    ]
    if promised:
        off = [line for line in promised if not line.ok]
        yield Gate(
            name="engine agrees with the search",
            passed=not off,
            reason="; ".join(f"{line.name}: {_promise_in_words(line)}" for line in off or promised),
        )
    if quantized.generations:
        before, after = degenerate_count(original.generations), degenerate_count(quantized.generations)
        count = len(quantized.generations)
        chance = more_by_chance(before, after, count)
        yield Gate(
            name="generations",
            passed=after <= before or chance >= GENERATIONS_CHANCE,
            reason=f"{after} of {count} answers are empty or endless repetition, {before} of the original's"
            + (f" (so many more by chance alone: {chance:.0%})" if after > before else ""),
        )
    yield from behaviour_gates(original, quantized)


def _kernel_gate(mismatches: dict[str, tuple[str, str]], unit_count: int) -> Gate:
    if not mismatches:
        return Gate(name="kernels", passed=True, reason=f"all {unit_count} units run on the planned kernel")
    name, (planned, chosen) = next(iter(mismatches.items()))
    return Gate(
        name="kernels",
        passed=False,
        reason=f"{len(mismatches)} of {unit_count} units run on another kernel than planned, "
        f"first {name}: planned {planned}, got {chosen}",
    )


def _line_gate(line: Line) -> Gate:
    return Gate(name=line.name, passed=bool(line.ok), reason=_promise_in_words(line))


def _promise_in_words(line: Line) -> str:
    predicted = line.predicted if line.predicted is not None else math.nan
    off = (line.measured - predicted) / predicted if predicted else math.inf
    interval = ""
    if line.low is not None and line.high is not None:
        interval = f" ({_amount(line.low, line.unit)} to {_amount(line.high, line.unit)})"
    return (
        f"predicted {_amount(predicted, line.unit)}{interval}, measured {_amount(line.measured, line.unit)} "
        f"({off:+.2%}, tolerance {line.tolerance or 0:.0%}{' of the interval' if interval else ''})"
    )


def _notes(quantized: EngineMeasurement, predicted: Predictions) -> Iterator[str]:
    if predicted.perplexity_ratio is None and predicted.kl is None:
        yield "the search promised no quality for this plan: only the floor was checked"
    if predicted.source:
        yield f"predictions: {predicted.source}"
    yield (
        f"quality on {quantized.eval_tokens} held-out tokens in vLLM {quantized.engine_version}, "
        f"{quantized.dtype}; KL is over the reference's top tokens and one bucket for the rest"
    )


def _amount(value: float, unit: str) -> str:
    """A number with its unit; bytes in MiB, exactly enough to see a difference of a tensor."""
    if unit == "B":
        return f"{value / 2**20:,.3f} MiB"
    return f"{value:,.6g} {unit}"
