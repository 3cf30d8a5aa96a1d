"""How large a model is in each option, and whether its weights alone can be held."""

from __future__ import annotations

from advisor.recommend.schema import ModelFacts, Option
from profiles.formats import MENU, get_format
from profiles.formats.kernels import kernel_support
from profiles.hardware.schema import Device, HardwareProfile
from profiles.models.schema import LinearInfo, ModelProfile
from profiles.provenance import Figure

STAYS_16BIT = frozenset({"embed", "lm_head", "router"})
"""Roles that quantization recipes leave alone by default."""

USABLE_SHARE = 0.92
"""vLLM's default gpu_memory_utilization; weights beyond it cannot be served on any setting we advise."""

TYPICAL_WIDTH = 4096
"""Width at which scales are priced when only the number of parameters is known."""

INT4_GROUPS = ("W4A16_G128", "W4A16_G64", "W4A16_G32")
"""INT4 of the menu, cheapest scales first."""


def facts_of(model: ModelProfile) -> ModelFacts:
    """Size of a model from its profile; a checkpoint already quantized is counted by its linears."""
    quantizable = sum(linear.numel for linear in quantizable_linears(model))
    notes: tuple[str, ...] = ()
    if model.quantization is not None:
        parameters = sum(linear.numel for linear in model.linears)
        notes = (
            f"the checkpoint is already {model.quantization.label}: quantize the 16-bit original instead",
        )
    else:
        parameters = model.num_parameters or sum(linear.numel for linear in model.linears)
    return ModelFacts(
        name=model.model_id, parameters=max(parameters, quantizable, 1), quantizable=quantizable, notes=notes
    )


def quantizable_linears(model: ModelProfile) -> list[LinearInfo]:
    """Linears that recipes quantize by default."""
    return [linear for linear in model.linears if linear.role not in STAYS_16BIT]


def concrete_format(option: Option, model: ModelProfile | None, device: Device | None) -> tuple[str, str]:
    """The menu's format for an option, and a note when some layers cannot take it.

    INT4 takes the group size that the most weights can have on the device; larger groups win ties.
    """
    if option.engine != "vllm":
        return option.format, ""
    names = INT4_GROUPS if option.format == "W4A16" else (option.format,)
    linears = quantizable_linears(model) if model else []
    if not linears:
        return names[0], ""

    def runnable(name: str) -> int:
        return sum(linear.numel for linear in linears if _takes(linear, name, device))

    best = max(names, key=runnable)
    missing = sum(linear.numel for linear in linears) - runnable(best)
    share = 100 * missing / sum(linear.numel for linear in linears)
    return best, f"{share:.0f} % of the weights have shapes that {best} cannot take" if missing else ""


def _takes(linear: LinearInfo, name: str, device: Device | None) -> bool:
    fmt = MENU[name]
    if device is None:
        return fmt.shape_problem(linear.out_features, linear.in_features) is None
    return kernel_support(fmt, device, linear.out_features, linear.in_features).runs


def weights_bytes(facts: ModelFacts, option: Option, format_name: str) -> Figure:
    """Weights of the model in an option, from parameter counts (`advisor fit` counts every tensor)."""
    if option.bits is not None:
        bits, source = option.bits, option.bits_source
        total = facts.parameters * bits / 8
        formula = f"{facts.parameters:,} x {bits:g} / 8"
    else:
        bits = get_format(format_name).bits_per_weight(TYPICAL_WIDTH, TYPICAL_WIDTH)
        source = f"bits per weight of {format_name}, scales included"
        rest = facts.parameters - facts.quantizable
        total = (facts.quantizable * bits + rest * 16) / 8
        formula = f"({facts.quantizable:,} x {bits:.4g} + {rest:,} x 16) / 8"
    return Figure.estimated(total, total * 0.98, total * 1.03, "bytes", source, formula)


def does_not_fit(weights: Figure, hardware: HardwareProfile) -> str | None:
    """Why the weights alone exceed the devices, or None (a full answer needs the footprint)."""
    total = sum(device.total_bytes.value for device in hardware.devices)
    if weights.low <= total * USABLE_SHARE:
        return None
    many = f"{len(hardware.devices)} x " if len(hardware.devices) > 1 else ""
    return (
        f"the weights alone take {weights.value / 1e9:.1f} GB, {many}{hardware.device.name} has "
        f"{total / 1e9:.1f} GB ({USABLE_SHARE:.0%} usable)"
    )
