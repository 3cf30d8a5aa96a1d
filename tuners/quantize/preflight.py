"""What vLLM will make of a `quantization_config`, unit by unit, without starting it.

The matching is `CompressedTensorsConfig.get_scheme_dict` of vLLM 0.32 (rules in `matching.py`), the block
rule `fp8_utils.validate_fp8_block_shape`. A fused layer whose shards match different groups raises nothing
there: the first shard's scheme is taken silently. Here it is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from profiles.errors import UsageError
from profiles.formats import Format, Strategy, get_format
from profiles.provenance import Contract
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize.groups import always_16_bit, check_cover, module_names, scheme_of, storage_format
from tuners.quantize.matching import (
    find_matched_target,
    first_match,
    last_name,
    matches,
    scheme_map,
    should_ignore_layer,
)

_SHOWN = 5
"""Problems spelled out in the error; the rest are counted."""

_COMPARED = ("num_bits", "type", "symmetric", "dynamic", "strategy", "group_size", "block_structure")
"""Fields of QuantizationArgs that decide the engine's scheme."""


class Problem(Contract):
    """One unit that the engine would not load as planned."""

    unit: str
    reason: str


def check(
    config: Mapping[str, Any], units: Sequence[Unit], plan: PrecisionPlan, *, where: str | None = None
) -> None:
    """Raise unless the engine would load every unit as planned.

    Raises:
        UsageError: names the first units and why.
    """
    found = find_problems(config, units, plan)
    if not found:
        return
    lines = [f"{p.unit}: {p.reason}" for p in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN} more")
    raise UsageError(
        f"the engine would not load {found[0].unit} as planned",
        where=where,
        got="; ".join(lines),
        allowed="one format per fused layer, exact module names, shapes that the format can store",
        next_step="let advisor tune write the plan: it can only express what loads",
    )


def find_problems(
    config: Mapping[str, Any], units: Sequence[Unit], plan: PrecisionPlan
) -> tuple[Problem, ...]:
    """Every unit that would load in another format than planned, or could not be stored at all."""
    check_cover(units, plan)
    renamed = _engine_names(units)
    schemes = {renamed.get(t, t): s for t, s in scheme_map(config).items()}
    ignore = [renamed.get(name, name) for name in config.get("ignore") or ()]
    packed = packed_modules(units)
    found: list[Problem] = []
    for unit in units:
        fmt = get_format(plan.formats[unit.name])
        reasons = _shape_reasons(unit, fmt) if fmt.strategy is not Strategy.NONE else []
        for layer, class_name in _engine_layers(unit):
            reasons += _matching_reasons(layer, class_name, fmt, schemes, ignore, packed)
        reasons += _shard_reasons(unit, fmt, schemes, ignore, renamed)
        found += [Problem(unit=unit.name, reason=r) for r in dict.fromkeys(reasons)]
    for name in always_16_bit(units):
        target = None if any(matches(name, i) for i in ignore) else first_match(name, schemes)
        if target is not None:
            found.append(Problem(unit=name, reason=f"must stay 16-bit, but target {target!r} quantizes it"))
    return tuple(found)


def packed_modules(units: Iterable[Unit]) -> dict[str, list[str]]:
    """The engine's `packed_modules_mapping` as the units show it: `qkv_proj` to its shards."""
    packed: dict[str, list[str]] = {}
    for unit in units:
        if _is_expert(unit):
            continue
        fused = last_name(unit.name)
        shards = [last_name(m.name) for m in unit.linears]
        if shards != [fused]:
            packed[fused] = shards
    return packed


def _is_expert(unit: Unit) -> bool:
    return any(m.copies > 1 or ".experts." in m.name for m in unit.linears)


def _engine_layers(unit: Unit) -> list[tuple[str, str]]:
    """Names that the engine asks about for a unit, with the class it asks for (any linear class contains
    "Linear"). Of a MoE layer it looks at expert 0 only; all experts are asked here."""
    if _is_expert(unit):
        return [(name, "RoutedExperts") for m in unit.linears for name in module_names(m)]
    if unit.role == "lm_head":
        return [(unit.name, "ParallelLMHead")]
    return [(unit.name, "QKVParallelLinear" if len(unit.linears) > 1 else "RowParallelLinear")]


def _engine_names(units: Iterable[Unit]) -> dict[str, str]:
    """Checkpoint name to the engine's, where the engine renames the model's prefix (multimodal models)."""
    renamed: dict[str, str] = {}
    for unit in units:
        if _is_expert(unit):
            continue
        prefix = unit.name.rpartition(".")[0]
        for linear in unit.linears:
            old, _, last = linear.name.rpartition(".")
            if old != prefix:
                renamed[linear.name] = f"{prefix}.{last}" if prefix else last
    return renamed


def _signature(scheme: Mapping[str, Any]) -> tuple[object, ...]:
    def args(block: Mapping[str, Any] | None) -> tuple[object, ...] | None:
        return None if block is None else tuple(_plain(block.get(f)) for f in _COMPARED)

    return (args(scheme.get("weights")), args(scheme.get("input_activations")), scheme.get("format"))


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _planned(fmt: Format) -> tuple[object, ...] | None:
    if fmt.strategy is Strategy.NONE:
        return None
    return _signature({**scheme_of(fmt), "format": storage_format(fmt)})


def _words(scheme: Mapping[str, Any] | None) -> str:
    if scheme is None:
        return "16-bit"
    weights = scheme.get("weights") or {}
    size = weights.get("group_size")
    grain = f"{weights.get('strategy')} {size}" if size else str(weights.get("strategy"))
    inputs = scheme.get("input_activations")
    acts = f", {inputs.get('num_bits')}-bit activations" if inputs else ""
    return f"{weights.get('type')}{weights.get('num_bits')} {grain}{acts}, {scheme.get('format')}"


def _matching_reasons(
    layer: str,
    class_name: str,
    fmt: Format,
    schemes: Mapping[str, Mapping[str, Any]],
    ignore: Sequence[str],
    packed: Mapping[str, Sequence[str]],
) -> list[str]:
    try:
        skipped = should_ignore_layer(layer, ignore, packed)
    except ValueError as exc:
        return [str(exc)]
    target = None if skipped else find_matched_target(layer, class_name, schemes, packed)
    scheme = None if target is None else schemes[target]
    reasons = []
    if scheme is not None and (scheme.get("weights") or {}).get("actorder") in ("group", "dynamic"):
        reasons.append("actorder group/dynamic is refused by the engine: use static or weight")
    got = None if scheme is None else _signature(scheme)
    if got != _planned(fmt):
        by = f" (target {target!r})" if target else ""
        reasons.append(f"planned {fmt.name}, the engine would load it as {_words(scheme)}{by}")
    return reasons


def _shard_reasons(
    unit: Unit,
    fmt: Format,
    schemes: Mapping[str, Mapping[str, Any]],
    ignore: Sequence[str],
    renamed: Mapping[str, str],
) -> list[str]:
    """Each shard on its own: what the engine does not look at when it takes the first one's scheme."""
    reasons = []
    for linear in unit.linears:
        for module in module_names(linear):
            name = renamed.get(module, module)
            target = None if any(matches(name, i) for i in ignore) else first_match(name, schemes)
            got = None if target is None else _signature(schemes[target])
            if got != _planned(fmt):
                scheme = None if target is None else schemes[target]
                reasons.append(f"shard {module} would be {_words(scheme)}, planned {fmt.name}")
    return reasons


def _shape_reasons(unit: Unit, fmt: Format) -> list[str]:
    reasons = []
    for linear in unit.linears:
        problem = fmt.shape_problem(linear.out_features, linear.in_features)
        if problem:
            reasons.append(f"{linear.name}: {problem}")
        if fmt.packed_shape_bytes and linear.in_features * fmt.weight_bits % 32:
            reasons.append(f"{linear.name}: in_features {linear.in_features} does not fill int32 words")
        if fmt.block and linear.in_features % fmt.block[1]:
            reasons.append(
                f"{linear.name}: blocks of {fmt.block[1]} do not divide in_features {linear.in_features}"
            )
    if fmt.block:
        # the last shard of a merged layer may end in a part of a block; experts may not
        merged = unit.linears if unit.role == "expert_gate_up" else unit.linears[:-1]
        reasons += [
            f"{m.name}: a merged layer needs whole blocks of {fmt.block[0]} rows, got {m.out_features}"
            for m in merged
            if m.out_features % fmt.block[0]
        ]
    return reasons
