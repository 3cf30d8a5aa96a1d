"""A plan as compressed-tensors `config_groups`: anchored, exact module names, one group per format.

Exact names, never patterns or class names: vLLM takes the first target that matches, and a pattern for
`layers.1` also matches `layers.10`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from profiles.errors import UsageError, nearest
from profiles.formats import Activations, Format, Strategy, get_format
from profiles.formats.kv_cache import E4M3
from tuners.plan import PrecisionPlan, Unit, UnitLinear

Scheme = dict[str, Any]

HEAD = "lm_head"


def kv_scheme(plan: PrecisionPlan) -> Scheme | None:
    """`kv_cache_scheme` of a plan whose cache has calibrated scales: FP8 E4M3, one per layer for keys and one
    for values. Other dtypes need nothing in the checkpoint."""
    if plan.kv_cache_dtype not in E4M3:
        return None
    return {
        "num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": "tensor",
        "observer": "static_minmax",
    }  # fmt: skip


def always_16_bit(units: Iterable[Unit]) -> tuple[str, ...]:
    """Linear modules outside the units: an engine must not quantize them."""
    return () if any(m.name == HEAD for u in units for m in u.linears) else (HEAD,)


NVFP4_GROUP = 16
"""Inputs per scale of NVFP4; MXFP4 has 32 (compressed-tensors tells the two apart by it as well)."""

_EXPERT = re.compile(r"\.experts\.(?:0|\*|\{\})\.")


def module_names(linear: UnitLinear) -> tuple[str, ...]:
    """The checkpoint's modules that a unit's linear stands for: itself, or each of its identical experts."""
    if linear.copies == 1:
        return (linear.name,)
    if not _EXPERT.search(linear.name):
        raise UsageError(
            f"{linear.name} stands for {linear.copies} modules, but its name has no expert index",
            got=linear.name,
            allowed="a name with `.experts.0.` in it",
        )
    return tuple(_EXPERT.sub(f".experts.{i}.", linear.name) for i in range(linear.copies))


def storage_format(fmt: Format) -> str:
    """The name compressed-tensors gives to the way a format's weights are stored."""
    if fmt.family == "fp4":
        return "nvfp4-pack-quantized" if fmt.group_size == NVFP4_GROUP else "mxfp4-pack-quantized"
    if fmt.packed_shape_bytes:
        return "pack-quantized"
    if fmt.weight_type == "int":
        return "int-quantized"
    return "naive-quantized" if fmt.activations is Activations.A16 else "float-quantized"


def stored_as_told(fmt: Format) -> bool:
    """Whether compressed-tensors has to be told the storage: left alone it stores INT4 weights beside
    rounded activations as one byte each (`infer_module_format`), which no INT4 kernel but Arm's reads."""
    return fmt.family == "int4" and fmt.activations is not Activations.A16


def scheme_of(fmt: Format, *, scale_dtype: str | None = None) -> Scheme:
    """`weights` and `input_activations` of a format, as `QuantizationScheme` takes them.

    The values are those of compressed-tensors' presets of the same names (`quant_scheme.py`).
    `scale_dtype` rounds 16-bit scales while they are computed (used when calibrating in float32).
    """
    if fmt.strategy is Strategy.NONE:
        raise UsageError(f"{fmt.name} is not quantized: it has no scheme", got=fmt.name)
    if fmt.fp8 == "e5m2":
        raise UsageError(
            f"{fmt.name} cannot be written",
            got="E5M2 weights",
            allowed="FP8 weights in E4M3: FP8_DYNAMIC, FP8_STATIC, FP8_BLOCK, FP8_W8A16",
            next_step="--kv-cache-dtype fp8_e5m2 gives a KV cache in E5M2",
        )
    weights: Scheme = {
        "num_bits": fmt.weight_bits,
        "type": fmt.weight_type,
        "symmetric": fmt.symmetric,
        "dynamic": False,
        "strategy": fmt.strategy.value,
    }
    if fmt.group_size is not None:
        weights["group_size"] = fmt.group_size
    if fmt.block is not None:
        weights["block_structure"] = list(fmt.block)
    if scale_dtype is not None and fmt.scale_bits == 16:
        weights["scale_dtype"] = scale_dtype
    if fmt.family == "fp4":
        kind = "torch.float8_e4m3fn" if fmt.group_size == NVFP4_GROUP else "torch.uint8"
        weights |= {"scale_dtype": kind, "zp_dtype": kind}
        if fmt.group_size == NVFP4_GROUP:
            weights["strategy"] = "tensor_group"
    return {"weights": weights, "input_activations": _inputs_of(fmt)}


def _inputs_of(fmt: Format) -> Scheme | None:
    eight: Scheme = {"num_bits": 8, "symmetric": True}
    four: Scheme = {"num_bits": 4, "type": "float", "symmetric": True}
    token: Scheme = {"dynamic": True, "strategy": "token"}
    static: Scheme = {"dynamic": False, "strategy": "tensor", "observer": "static_minmax"}
    match fmt.activations:
        case Activations.A16:
            return None
        case Activations.INT8_TOKEN:
            return eight | token | {"type": "int"}
        case Activations.INT8_TOKEN_ASYM:
            return eight | token | {"type": "int", "symmetric": False}
        case Activations.INT8_TENSOR:
            return eight | static | {"type": "int"}
        case Activations.INT8_TENSOR_ASYM:
            return eight | static | {"type": "int", "symmetric": False}
        case Activations.FP8_TOKEN:
            return eight | token | {"type": "float"}
        case Activations.FP8_TENSOR:
            return eight | static | {"type": "float"}
        case Activations.FP8_GROUP:
            return eight | {"type": "float", "dynamic": True, "strategy": "group", "group_size": 128}
        case Activations.NVFP4:
            fp8 = {"scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}
            local = {"dynamic": "local", "strategy": "tensor_group", "group_size": 16}
            return four | local | {"observer": "static_minmax", **fp8}
        case Activations.MXFP4:
            e8m0 = {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
            return four | {"dynamic": True, "strategy": "group", "group_size": 32, **e8m0}


def check_cover(units: Iterable[Unit], plan: PrecisionPlan) -> None:
    """Every unit has a known format and every planned unit exists.

    Raises:
        UsageError: the plan and the units are about different models.
    """
    names = {u.name for u in units}
    missing, extra = sorted(names - plan.formats.keys()), sorted(plan.formats.keys() - names)
    if missing:
        raise UsageError(
            f"the plan gives no format for {missing[0]}",
            where=plan.label or None,
            got=f"{len(missing)} of {len(names)} units without a format",
            next_step="make the plan for this model: advisor tune writes one",
        )
    if extra:
        raise UsageError(
            f"the plan names {extra[0]}, which the model does not have",
            where=plan.label or None,
            got=f"{len(extra)} unknown units",
            allowed=nearest(extra[0], names),
        )
    for name in plan.formats.values():
        get_format(name)


def config_groups(
    units: Sequence[Unit], plan: PrecisionPlan, *, scale_dtype: str | None = None
) -> dict[str, Scheme]:
    """Format name to a `QuantizationScheme` dict that targets exactly its modules; 16-bit has none."""
    check_cover(units, plan)
    targets: dict[str, list[str]] = {}
    for unit in units:
        fmt = get_format(plan.formats[unit.name])
        if fmt.strategy is not Strategy.NONE:
            for linear in unit.linears:
                targets.setdefault(fmt.name, []).extend(module_names(linear))
    return {
        name: {
            "targets": names,
            **scheme_of(get_format(name), scale_dtype=scale_dtype),
            "format": storage_format(get_format(name)),
        }
        for name, names in targets.items()
    }


def ignored(units: Sequence[Unit], plan: PrecisionPlan) -> list[str]:
    """Modules that stay 16-bit: those the plan keeps, and the ones outside every unit."""
    kept = [
        name
        for unit in units
        if get_format(plan.formats[unit.name]).strategy is Strategy.NONE
        for linear in unit.linears
        for name in module_names(linear)
    ]
    return [*kept, *always_16_bit(units)]


def quantization_config(units: Sequence[Unit], plan: PrecisionPlan) -> dict[str, Any]:
    """The `quantization_config` of the checkpoint to be written, before anything is written.

    Raises:
        UsageError: nothing to quantize, or the plan does not fit the units.
    """
    groups = config_groups(units, plan)
    if not groups:
        raise UsageError(
            "every unit of the plan is 16-bit: there is nothing to quantize",
            got=f"{len(units)} units, all BF16",
            next_step="deploy the original checkpoint as it is, or lower the budget",
        )
    formats = {g["format"] for g in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignored(units, plan),
        "kv_cache_scheme": kv_scheme(plan),
    }
