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
W8A8 = Format(
    name="W8A8",
    family="int8",
    weight_bits=8,
    weight_type="int",
    strategy=Strategy.CHANNEL,
    activations=Activations.INT8_TOKEN,
    aliases=("INT8", "W8A8_INT8"),
    summary="INT8 weights per channel, INT8 activations per token (dynamic)",
)
W8A16 = Format(
    name="W8A16",
    family="int8",
    weight_bits=8,
    weight_type="int",
    strategy=Strategy.CHANNEL,
    packed_shape_bytes=16,
    aliases=("INT8_WEIGHT_ONLY",),
    summary="INT8 weights per channel, 16-bit activations",
)
FP8_DYNAMIC = Format(
    name="FP8_DYNAMIC",
    family="fp8",
    weight_bits=8,
    weight_type="float",
    strategy=Strategy.CHANNEL,
    activations=Activations.FP8_TOKEN,
    aliases=("FP8", "W8A8_FP8", "FP8-DYNAMIC"),
    summary="FP8 E4M3 weights per channel, FP8 activations per token (dynamic)",
)
FP8_BLOCK = Format(
    name="FP8_BLOCK",
    family="fp8",
    weight_bits=8,
    weight_type="float",
    strategy=Strategy.BLOCK,
    block=(128, 128),
    activations=Activations.FP8_GROUP,
    summary="FP8 E4M3 weights in 128x128 blocks (DeepSeek style)",
)
NVFP4 = Format(
    name="NVFP4",
    family="fp4",
    weight_bits=4,
    weight_type="float",
    strategy=Strategy.GROUP,
    group_size=16,
    scale_bits=8,
    tensor_scale_bits=64,
    activations=Activations.NVFP4,
    aliases=("FP4",),
    summary="FP4 E2M1 weights and activations, FP8 scale per 16 inputs, one fp32 scale per tensor",
)
MXFP4 = Format(
    name="MXFP4",
    family="fp4",
    weight_bits=4,
    weight_type="float",
    strategy=Strategy.GROUP,
    group_size=32,
    scale_bits=8,
    activations=Activations.MXFP4,
    summary="FP4 E2M1 weights and activations, a power-of-two scale per 32 inputs",
)

MENU: dict[str, Format] = {
    f.name: f
    for f in (
        BF16,
        W8A8,
        W8A16,
        FP8_DYNAMIC,
        FP8_BLOCK,
        _int4(128),
        _int4(64),
        _int4(32),
        _int4(128, symmetric=False),
        _int4(64, symmetric=False),
        NVFP4,
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
