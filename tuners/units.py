"""Decision units: what the engine fuses shares one format, and only formats that run are options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from profiles.errors import UsageError
from profiles.formats import MENU, Format, get_format
from profiles.formats.kernels import KernelSupport, kernel_support
from profiles.hardware.schema import Device
from profiles.models.schema import LinearInfo, ModelProfile
from tuners.plan import Unit, UnitLinear

DEFAULT_MENU = ("W4A16", "W8A8", "FP8_DYNAMIC", "BF16")
"""INT4 (group size by shape), INT8, FP8 and 16-bit."""

ALL_MENU = (
    "W4A16_G128",
    "W4A16_ASYM_G128",
    "W4A16_G64",
    "W4A16_ASYM_G64",
    "W4A16_G32",
    "W8A8",
    "W8A16",
    "FP8_DYNAMIC",
    "BF16",
)
"""What `--formats all` means: every format that the search can measure, group sizes as options of their own.
Symmetric groups of 32 and asymmetric ones cost time: each is one more cell of every unit."""

INT4_GROUPS = (128, 64, 32)
"""Group sizes to try for `W4A16`, largest (cheapest) first."""

FIXED_ROLES = {
    "lm_head": "lm_head stays 16-bit: not offered by the search yet",
    "embed": "embeddings stay 16-bit: the engine looks them up, it does not multiply by them",
    "router": "routers stay 16-bit: tiny, and a wrong expert costs more than any rounding",
    "other": "outside the decoder blocks (vision tower, projector ...): stays 16-bit",
}


def build_units(
    model: ModelProfile, device: Device, *, formats: Sequence[str] | None = None, tp: int = 1
) -> list[Unit]:
    """The decision units of `model` with the formats that the engine runs on `device` for their shape.

    `formats` sets the menu: `W4A16` means group size chosen by shape, `all` every format that the search can
    measure; 16-bit is always an option.

    Raises:
        UsageError: an unknown format, or a model without a linear layer that could be quantized.
    """
    wanted = _wanted(formats or DEFAULT_MENU)
    groups: dict[str, list[LinearInfo]] = {}
    for linear in model.linears:
        if linear.role not in FIXED_ROLES and linear.block is not None:
            groups.setdefault(linear.fused, []).append(linear)
    if not groups:
        raise UsageError(
            f"{model.model_id} has no linear layer that could be quantized",
            got=f"architecture {model.architecture}, {len(model.linears)} linear weights listed",
            next_step=f"advisor inspect {model.model_id} shows what was read",
        )
    units = [_unit(name, linears, wanted, device, tp) for name, linears in groups.items()]
    if not formats:
        units = [_without_slow(u, groups[u.name], device, tp) for u in units]
    return sorted(
        units, key=lambda u: (-1 if u.block is None else u.block, _ROLE_ORDER.get(u.role, 9), u.name)
    )


_ROLE_ORDER = {"qkv": 0, "o": 1, "gate_up": 2, "down": 3, "expert_gate_up": 4, "expert_down": 5}


def _wanted(names: Iterable[str]) -> list[str]:
    out: list[str] = []
    for name in [m for n in names for m in (ALL_MENU if n.strip().lower() == "all" else (n,))]:
        auto = name.strip().upper() in {"W4A16", "INT4"}
        key = "W4A16" if auto else get_format(name).name
        if key not in out and key != "BF16":
            out.append(key)
    return [*out, "BF16"]


def _unit(name: str, linears: list[LinearInfo], wanted: list[str], device: Device, tp: int) -> Unit:
    options: list[str] = []
    excluded: dict[str, str] = {}
    for key in wanted:
        if key == "W4A16":
            found, reasons = None, {}
            for group in INT4_GROUPS:
                fmt = MENU[f"W4A16_G{group}"]
                reason = _refusal(fmt, linears, device, tp)
                if reason is None:
                    found = fmt
                    break
                reasons[fmt.name] = reason
            if found is None:
                excluded.update(reasons)
            else:
                options.append(found.name)
            continue
        reason = _refusal(MENU[key], linears, device, tp)
        if reason is None:
            options.append(key)
        else:
            excluded[key] = reason
    first = linears[0]
    return Unit(
        name=name,
        role=first.role,
        block=first.block,
        linears=tuple(
            UnitLinear(name=m.name, in_features=m.in_features, out_features=m.out_features, copies=m.copies)
            for m in linears
        ),
        options=tuple(options),
        excluded=excluded,
    )


def _refusal(fmt: Format, linears: list[LinearInfo], device: Device, tp: int) -> str | None:
    """Why the fused layer cannot have the format on the device, or None when a kernel takes it."""
    for linear in linears:
        problem = fmt.shape_problem(linear.out_features, linear.in_features)
        if problem:
            return problem
    support = _support(fmt, linears, device, tp)
    if isinstance(support, str):
        return support
    return None if support.runs else support.reason


def _support(fmt: Format, linears: list[LinearInfo], device: Device, tp: int) -> KernelSupport | str:
    """The kernel of the fused layer on one rank, or why its weights cannot be split like that."""
    row_parallel = linears[0].role in {"o", "down", "expert_down", "shared_down"}
    same_input = len({m.in_features for m in linears}) == 1
    out_features = sum(m.out_features for m in linears) if same_input else linears[0].out_features
    in_features = linears[0].in_features
    if row_parallel:
        in_features //= tp
        if fmt.group_size and in_features % fmt.group_size:
            return f"a group of {fmt.group_size} would straddle ranks at TP {tp} (in_features {in_features})"
    else:
        out_features //= tp
    return kernel_support(fmt, device, out_features, in_features)


def _without_slow(unit: Unit, linears: list[LinearInfo], device: Device, tp: int) -> Unit:
    """The unit without formats whose only kernel is slow, where one of the same bits has a fast one."""
    found = {name: _support(MENU[name], linears, device, tp) for name in unit.options}
    kernels = {name: k for name, k in found.items() if isinstance(k, KernelSupport)}
    excluded = dict(unit.excluded)
    for name, kernel in kernels.items():
        bits = MENU[name].weight_bits
        fast = next((n for n, k in kernels.items() if not k.slow and MENU[n].weight_bits == bits), None)
        if kernel.slow and fast is not None:
            excluded[name] = f"{kernel.reason}; {fast} is as small ({name} by name brings it back)"
    options = tuple(o for o in unit.options if o not in excluded)
    return unit.model_copy(update={"options": options, "excluded": excluded})


def fixed_bytes(model: ModelProfile, units: Iterable[Unit]) -> int:
    """Bytes of the checkpoint that no plan changes: embeddings, norms, routers, biases, lm_head."""
    weights = {f"{m.name}.weight" for u in units for m in u.linears}
    return sum(t.nbytes for t in model.tensors if t.name not in weights)


def excluded_formats(units: Iterable[Unit]) -> dict[str, list[str]]:
    """Reason to the formats and units it excludes, for display: {"reason": ["FORMAT (n units)"]}."""
    tally: dict[tuple[str, str], int] = {}
    for unit in units:
        for fmt, reason in unit.excluded.items():
            tally[(reason, fmt)] = tally.get((reason, fmt), 0) + 1
    out: dict[str, list[str]] = {}
    for (reason, fmt), count in tally.items():
        out.setdefault(reason, []).append(f"{fmt} ({count} units)")
    return out
