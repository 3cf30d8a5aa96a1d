"""The menu of formats, by name. Presets carry the names of llm-compressor's schemes."""

from __future__ import annotations

from profiles.errors import UsageError, nearest
from profiles.formats.schema import Activations, Format, Strategy


def _int4(group_size: int, *, symmetric: bool = True) -> Format:
    kind = "" if symmetric else "_ASYM"
    return Format(
        name=f"W4A16{kind}_G{group_size}",
        family="int4",
        weight_bits=4,
        weight_type="int",
        strategy=Strategy.GROUP,
        group_size=group_size,
        packed_shape_bytes=16,
        symmetric=symmetric,
        aliases=(f"INT4{kind}_G{group_size}", f"W4A16{kind}-G{group_size}"),
        summary=f"INT4 weights, {'symmetric, a scale' if symmetric else 'a scale and a zero point'} "
        f"per {group_size} inputs; 16-bit activations",
    )


BF16 = Format(
    name="BF16",
    family="16-bit",
    weight_bits=16,
    weight_type="float",
    strategy=Strategy.NONE,
    scale_bits=0,
    aliases=("FP16", "16-bit", "none"),
    summary="not quantized",
)


def _eight_bits(
    name: str, summary: str, activations: Activations, *, aliases: tuple[str, ...] = (), **fields: object
) -> Format:
    """INT8 or FP8 weights with one scale per output channel; `fields` are those that differ."""
    weight_type = "int" if name.startswith("W8A8") or name == "W8A16" else "float"
    base: dict[str, object] = {
        "name": name,
        "family": "int8" if weight_type == "int" else "fp8",
        "weight_bits": 8,
        "weight_type": weight_type,
        "strategy": Strategy.CHANNEL,
        "activations": activations,
        "aliases": aliases,
        "summary": summary,
    }
    return Format.model_validate(base | fields)


W8A8 = _eight_bits(
    "W8A8",
    "INT8 weights per channel, INT8 activations per token (dynamic)",
    Activations.INT8_TOKEN,
    aliases=("INT8", "W8A8_INT8"),
)
W8A8_ASYM = _eight_bits(
    "W8A8_ASYM",
    "INT8 weights per channel, INT8 activations per token with a zero point (dynamic)",
    Activations.INT8_TOKEN_ASYM,
    aliases=("INT8_ASYM",),
)
W8A8_STATIC = _eight_bits(
    "W8A8_STATIC",
    "INT8 weights per channel, INT8 activations with one calibrated scale (static)",
    Activations.INT8_TENSOR,
    aliases=("INT8_STATIC",),
    tensor_scale_bits=16,
)
W8A8_STATIC_ASYM = _eight_bits(
    "W8A8_STATIC_ASYM",
    "INT8 weights per channel, INT8 activations with one calibrated scale and zero point (static)",
    Activations.INT8_TENSOR_ASYM,
    aliases=("INT8_STATIC_ASYM",),
    tensor_scale_bits=24,
)
W8A16 = _eight_bits(
    "W8A16",
    "INT8 weights per channel, 16-bit activations",
    Activations.A16,
    aliases=("INT8_WEIGHT_ONLY",),
    packed_shape_bytes=16,
)
FP8_DYNAMIC = _eight_bits(
    "FP8_DYNAMIC",
    "FP8 E4M3 weights per channel, FP8 activations per token (dynamic)",
    Activations.FP8_TOKEN,
    aliases=("FP8", "W8A8_FP8", "FP8-DYNAMIC"),
)
FP8_STATIC = _eight_bits(
    "FP8_STATIC",
    "FP8 E4M3 weights per channel, FP8 activations with one calibrated scale (static)",
    Activations.FP8_TENSOR,
    tensor_scale_bits=16,
)
FP8_W8A16 = _eight_bits(
    "FP8_W8A16",
    "FP8 E4M3 weights per channel, 16-bit activations",
    Activations.A16,
    aliases=("FP8_WEIGHT_ONLY", "FP8A16"),
)
FP8_BLOCK = _eight_bits(
    "FP8_BLOCK",
    "FP8 E4M3 weights in 128x128 blocks, FP8 activations per 128 inputs (DeepSeek style)",
    Activations.FP8_GROUP,
    strategy=Strategy.BLOCK,
    block=(128, 128),
)
FP8_E5M2 = _eight_bits(
    "FP8_E5M2",
    "FP8 E5M2 weights per channel, 16-bit activations: no engine takes them, the KV cache alone can be E5M2",
    Activations.A16,
    fp8="e5m2",
)


def _four_bits_eight(group_size: int) -> Format:
    return _int4(group_size).model_copy(
        update={
            "name": f"W4A8_G{group_size}",
            "activations": Activations.INT8_TOKEN,
            "aliases": (f"W4A8-G{group_size}",),
            "summary": f"INT4 weights, symmetric, a scale per {group_size} inputs; "
            "INT8 activations per token (dynamic)",
        }
    )


W4AFP8 = _int4(128).model_copy(
    update={
        "name": "W4AFP8",
        "activations": Activations.FP8_TOKEN,
        "aliases": ("W4A8_FP8",),
        "summary": "INT4 weights, symmetric, a scale per 128 inputs; FP8 activations per token (dynamic)",
    }
)


def _fp4(name: str, group_size: int, summary: str, activations: Activations, **fields: object) -> Format:
    base: dict[str, object] = {
        "name": name,
        "family": "fp4",
        "weight_bits": 4,
        "weight_type": "float",
        "strategy": Strategy.GROUP,
        "group_size": group_size,
        "scale_bits": 8,
        "activations": activations,
        "summary": summary,
    }
    return Format.model_validate(base | fields)


NVFP4 = _fp4(
    "NVFP4",
    16,
    "FP4 E2M1 weights and activations, FP8 scale per 16 inputs, one fp32 scale per tensor",
    Activations.NVFP4,
    tensor_scale_bits=64,
    aliases=("FP4",),
)
NVFP4A16 = _fp4(
    "NVFP4A16",
    16,
    "FP4 E2M1 weights, FP8 scale per 16 inputs, one fp32 scale per tensor; 16-bit activations",
    Activations.A16,
    tensor_scale_bits=32,
)
MXFP4 = _fp4(
    "MXFP4", 32, "FP4 E2M1 weights and activations, a power-of-two scale per 32 inputs", Activations.MXFP4
)

MENU: dict[str, Format] = {
    f.name: f
    for f in (
        BF16,
        W8A8,
        W8A8_ASYM,
        W8A8_STATIC,
        W8A8_STATIC_ASYM,
        W8A16,
        FP8_DYNAMIC,
        FP8_STATIC,
        FP8_W8A16,
        FP8_BLOCK,
        FP8_E5M2,
        _int4(128),
        _int4(64),
        _int4(32),
        _int4(128, symmetric=False),
        _int4(64, symmetric=False),
        _four_bits_eight(128),
        _four_bits_eight(64),
        _four_bits_eight(32),
        W4AFP8,
        NVFP4,
        NVFP4A16,
        MXFP4,
    )
}


def get_format(name: str) -> Format:
    """The format of that name or alias.

    Raises:
        UsageError: no format has that name.
    """
    key = name.strip().upper()
    if key in MENU:
        return MENU[key]
    for fmt in MENU.values():
        if key in {a.upper() for a in fmt.aliases}:
            return fmt
    raise UsageError(
        f"unknown format {name!r}",
        got=name,
        allowed=nearest(name, [*MENU, *(a for f in MENU.values() for a in f.aliases)]),
        next_step="advisor hardware --formats lists the formats and what runs each of them",
    )
