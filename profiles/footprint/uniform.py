"""Uniform schemes: one family of formats for every linear that can have it."""

from __future__ import annotations

from profiles.errors import UsageError
from profiles.footprint.facts import facts_of
from profiles.footprint.ledger import QUANTIZABLE_ROLES, Group, Line, ledger_of
from profiles.footprint.weights import Sharding
from profiles.formats import MENU, Format, get_format
from profiles.formats.kernels import kernel_support
from profiles.hardware.schema import Device, DeviceKind
from profiles.models.schema import ModelProfile

FAMILIES: dict[str, tuple[str, ...]] = {
    "16-bit": (),
    "fp8": ("FP8_DYNAMIC",),
    "int8": ("W8A8",),
    "w8a16": ("W8A16",),
    "int4": ("W4A16_G128", "W4A16_G64", "W4A16_G32"),
    "fp4": ("NVFP4",),
    "mxfp4": ("MXFP4",),
}
"""Family to formats, tried in this order per layer; what none takes stays 16-bit."""

_ALIASES = {"bf16": "16-bit", "fp16": "16-bit", "w4a16": "int4", "w8a8": "int8", "nvfp4": "fp4"}


def family_formats(family: str) -> tuple[Format, ...]:
    """Formats of a family, or the one format of that name.

    Raises:
        UsageError: neither a family nor a format.
    """
    key = family.strip().lower()
    key = _ALIASES.get(key, key)
    if key in FAMILIES:
        return tuple(MENU[name] for name in FAMILIES[key])
    try:
        found = get_format(family)
    except UsageError as exc:
        raise UsageError(
            "not a family of formats", got=family[:60], allowed=", ".join(FAMILIES) + ", or a format's name"
        ) from exc
    return () if found.family == "16-bit" else (found,)


def fused_shape(group: Group, line: Line, sharding: Sharding) -> tuple[int, int] | None:
    """Rows and columns of the engine's fused layer on one rank; None when the line stays 16-bit."""
    if (
        line.role not in QUANTIZABLE_ROLES
        or not line.out
        or line.elements < line.out * line.inn * line.copies
    ):
        return None
    if all(block < 0 for block in group.blocks):
        return None
    rows, columns, _ = sharding.rank_shape(line)
    if len(group.lines) > 1 and all(other.inn == line.inn for other in group.lines):
        rows = sum(sharding.rank_shape(other)[0] for other in group.lines if other.out)
    return rows, columns


def line_format(
    group: Group, shape: tuple[int, int], formats: tuple[Format, ...], device: Device | None
) -> Format | None:
    """The first format that the engine runs for this layer's shape on one rank, or None."""
    if not formats:
        return None
    shapes = tuple(dict.fromkeys((other.out, other.inn) for other in group.lines if other.out))
    where = None if device is None else (device.kind, device.sm, device.isa)
    key = (shapes, shape, formats[0].name, len(formats), where)  # hashing a Format is slow
    if key not in _CHOSEN:
        _CHOSEN[key] = _line_format(shapes, shape, formats, device)
    return _CHOSEN[key]


_CHOSEN: dict[tuple[object, ...], Format | None] = {}


def _line_format(
    shapes: tuple[tuple[int, int], ...],
    shape: tuple[int, int],
    formats: tuple[Format, ...],
    device: Device | None,
) -> Format | None:
    rows, columns = shape
    for fmt in formats:
        if any(fmt.shape_problem(out, inn) for out, inn in shapes):
            continue
        if fmt.group_size and columns % fmt.group_size:
            continue
        if device is None or _runs(fmt, device, rows, columns):
            return fmt
    return None


def uniform_formats(
    model: ModelProfile, device: Device | None, family: str, *, tensor_parallel_size: int = 1
) -> dict[str, str]:
    """Module name to format for a uniform scheme; modules that no format of the family takes are absent.

    Embeddings, heads, routers, norms and towers stay 16-bit.

    Raises:
        UsageError: neither a family (`16-bit fp8 int8 int4 fp4`) nor a format.
    """
    formats = family_formats(family)
    sharding = Sharding(facts_of(model), tensor_parallel_size)
    out: dict[str, str] = {}
    for group in ledger_of(model).groups:
        for i, line in enumerate(group.lines):
            shape = fused_shape(group, line, sharding)
            fmt = line_format(group, shape, formats, device) if shape else None
            if fmt is not None:
                out.update((names[i], fmt.name) for names in group.names)
    return out


_RUNS: dict[tuple[object, ...], bool] = {}


def _runs(fmt: Format, device: Device, rows: int, columns: int) -> bool:
    """`kernel_support`, remembered: thousands of layers have the same shape."""
    if device.kind not in (DeviceKind.CUDA, DeviceKind.CPU):
        return True  # no kernel table: the notes say so
    key = (fmt.name, device.kind, device.sm, device.isa, rows, columns)
    if key not in _RUNS:
        _RUNS[key] = kernel_support(fmt, device, rows, columns).runs
    return _RUNS[key]
