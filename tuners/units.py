"""Decision units: what the engine fuses shares one format, and only formats that run are options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from profiles.errors import UsageError
from profiles.formats import CALIBRATED, MENU, Activations, Format, Strategy, get_format
from profiles.formats.kernels import W4A8_SWITCH, KernelSupport, kernel_support
from profiles.hardware.schema import Device, DeviceKind
from profiles.models.schema import LinearInfo, ModelProfile
from tuners.plan import ROW_PARALLEL_ROLES, Unit, UnitLinear

DEFAULT_MENU = ("W4A16", "W8A8", "FP8_DYNAMIC", "BF16")
"""INT4 (group size by shape), INT8, FP8 and 16-bit; NVFP4 joins them where FP4 tensor cores are."""

ALL_MENU = (
    "W4A16_G128",
    "W4A16_ASYM_G128",
    "W4A16_G64",
    "W4A16_ASYM_G64",
    "W4A16_G32",
    "W4A8",
    "W4AFP8",
    "NVFP4",
    "NVFP4A16",
    "MXFP4",
    "W8A8",
    "W8A8_ASYM",
    "W8A8_STATIC",
    "W8A8_STATIC_ASYM",
    "W8A16",
    "FP8_DYNAMIC",
    "FP8_STATIC",
    "FP8_W8A16",
    "FP8_BLOCK",
    "FP8_E5M2",
    "BF16",
)
"""What `--formats all` means: every format, group sizes as options of their own. Each one that the target
runs costs a sensitivity cell of every unit."""

BY_SHAPE = {
    "W4A16": ("W4A16_G128", "W4A16_G64", "W4A16_G32"),
    "W4A8": ("W4A8_G128", "W4A8_G64", "W4A8_G32"),
}
"""Names that stand for the first format that fits a unit's shape, largest (cheapest) group first."""

VOCAB_ROWS = 64
"""Rows that vLLM pads embeddings and heads to (vocab_parallel_embedding.DEFAULT_VOCAB_PADDING_SIZE)."""

TIED_HEAD = "lm_head stays 16-bit: it is the embeddings' own table (tied), from which rows are looked up"

FIXED_ROLES = {
    "embed": "embeddings stay 16-bit: vLLM looks rows of a quantized table up with a Triton kernel for GPUs, "
    "which could not be tried here",
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
    wanted = _wanted(formats or default_menu(device))
    groups: dict[str, list[LinearInfo]] = {}
    for linear in model.linears:
        head = linear.role == "lm_head" and not model.tie_word_embeddings
        if head or (linear.role not in FIXED_ROLES and linear.block is not None):
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
    elif "all" in {f.strip().lower() for f in formats}:
        units = [_without_twins(u, groups[u.name], device, tp) for u in units]
    if device.kind is DeviceKind.CPU:
        units = [_one_int4_arithmetic(u) for u in units]
    return sorted(
        units,
        key=lambda u: (_AFTER_ALL_BLOCKS if u.block is None else u.block, _ROLE_ORDER.get(u.role, 9), u.name),
    )


_ROLE_ORDER = {"qkv": 0, "o": 1, "gate_up": 2, "down": 3, "expert_gate_up": 4, "expert_down": 5}
_AFTER_ALL_BLOCKS = 1 << 30


def default_menu(device: Device) -> tuple[str, ...]:
    """The menu when none is asked for."""
    fp4 = kernel_support(MENU["NVFP4"], device)
    return (*DEFAULT_MENU[:-1], *(("NVFP4",) if fp4.native else ()), "BF16")


def _wanted(names: Iterable[str]) -> list[str]:
    out: list[str] = []
    for name in [m for n in names for m in (ALL_MENU if n.strip().lower() == "all" else (n,))]:
        upper = name.strip().upper()
        key = "W4A16" if upper == "INT4" else upper
        if key not in BY_SHAPE:
            key = get_format(name).name
        if key not in out and key != "BF16":
            out.append(key)
    return [*out, "BF16"]


def _unit(name: str, linears: list[LinearInfo], wanted: list[str], device: Device, tp: int) -> Unit:
    options: list[str] = []
    excluded: dict[str, str] = {}
    for key in wanted:
        reasons: dict[str, str] = {}
        for choice in BY_SHAPE.get(key, (key,)):
            reason = _refusal(MENU[choice], linears, device, tp)
            if reason is None:
                options.append(choice)
                break
            reasons[choice] = reason
        else:
            excluded.update(reasons)
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
    if linears[0].role == "lm_head" and not _tried_on_heads(fmt):
        return f"{fmt.name} of lm_head has not been tried in vLLM: symmetric INT and FP8 per channel have"
    support = _support(fmt, linears, device, tp)
    if isinstance(support, str):
        return support
    return None if support.runs else support.reason


def _tried_on_heads(fmt: Format) -> bool:
    """Formats whose checkpoint vLLM has loaded for lm_head here. Its loader wants a row of every tensor per
    word, which scales per block and packed zero points are not."""
    if fmt.family in ("fp4", "16-bit") or fmt.name == "W4AFP8":
        return fmt.family == "16-bit"
    return fmt.strategy is not Strategy.BLOCK and fmt.symmetric and fmt.activations not in CALIBRATED


def _support(fmt: Format, linears: list[LinearInfo], device: Device, tp: int) -> KernelSupport | str:
    """The kernel of the fused layer on one rank, or why its weights cannot be split like that."""
    row_parallel = linears[0].role in ROW_PARALLEL_ROLES
    same_input = len({m.in_features for m in linears}) == 1
    out_features = sum(m.out_features for m in linears) if same_input else linears[0].out_features
    if linears[0].role == "lm_head":
        out_features = -(-out_features // VOCAB_ROWS) * VOCAB_ROWS
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


def _without_twins(unit: Unit, linears: list[LinearInfo], device: Device, tp: int) -> Unit:
    """The unit without formats that the target serves as another one does, from the same weights."""
    seen: dict[object, str] = {}
    excluded = dict(unit.excluded)
    for name in unit.options:
        fmt, kernel = MENU[name], _support(MENU[name], linears, device, tp)
        if not isinstance(kernel, KernelSupport):
            continue
        weights = (fmt.weight_bits, fmt.weight_type, fmt.strategy, fmt.group_size, fmt.symmetric, fmt.fp8)
        twin = seen.setdefault((*weights, kernel.activations(fmt)), name)
        if twin != name:
            excluded[name] = f"served exactly as {twin} here: {kernel.reason}"
    options = tuple(o for o in unit.options if o not in excluded)
    return unit.model_copy(update={"options": options, "excluded": excluded})


def _one_int4_arithmetic(unit: Unit) -> Unit:
    """W4A16 or W4A8, not both: vLLM's CPU build switches the arithmetic of all INT4 layers at once."""
    w4a8 = [o for o in unit.options if o in BY_SHAPE["W4A8"]]
    plain = [o for o in unit.options if MENU[o].family == "int4" and o not in w4a8]
    if not w4a8 or not plain:
        return unit
    reason = (
        f"not beside {plain[0]}: {W4A8_SWITCH} switches all INT4 layers of the process; "
        "name W4A8 without W4A16 to search it"
    )
    options = tuple(o for o in unit.options if o not in w4a8)
    return unit.model_copy(
        update={"options": options, "excluded": {**unit.excluded, **dict.fromkeys(w4a8, reason)}}
    )


def served_rounding(units: Iterable[Unit], device: Device) -> dict[str, Activations]:
    """Format to what `device` really rounds its inputs to, for offered formats where that differs."""
    offered = sorted({o for u in units for o in u.options})
    found = {name: kernel_support(MENU[name], device).rounds for name in offered}
    return {name: kind for name, kind in found.items() if kind is not None}


def fixed_reasons(model: ModelProfile) -> dict[str, str]:
    """Role to the reason why linear layers of the model stay 16-bit under every plan."""
    reasons = FIXED_ROLES | ({"lm_head": TIED_HEAD} if model.tie_word_embeddings else {})
    roles = dict.fromkeys(m.role for m in model.linears)
    if model.tie_word_embeddings:
        roles["lm_head"] = None
    return {role: reasons[role] for role in roles if role in reasons}


def fixed_bytes(model: ModelProfile, units: Iterable[Unit]) -> int:
    """Bytes of the checkpoint that no plan changes: embeddings, norms, routers, biases, a tied lm_head."""
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
