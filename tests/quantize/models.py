"""Units of a llama-shaped model, for tests."""

from __future__ import annotations

from hypothesis import strategies as st

from tuners.plan import PrecisionPlan, Unit, UnitLinear

FORMATS = (
    "W4A16_G32", "W4A16_G64", "W4A16_G128", "W4A16_ASYM_G64", "W4A16_ASYM_G128", "W8A8", "W8A16",
    "FP8_DYNAMIC", "NVFP4", "MXFP4", "BF16", "W8A8_ASYM", "W8A8_STATIC", "W8A8_STATIC_ASYM", "FP8_STATIC",
    "FP8_W8A16", "W4A8_G64", "W4AFP8", "NVFP4A16",
)  # fmt: skip
"""Formats that a 128-wide layer can store (FP8_BLOCK needs whole blocks in every shard)."""


def unit(name: str, role: str, block: int, shapes: dict[str, tuple[int, int]], copies: int = 1) -> Unit:
    """A unit of linears `name -> (out, in)`."""
    linears = tuple(
        UnitLinear(name=n, out_features=o, in_features=i, copies=copies) for n, (o, i) in shapes.items()
    )
    return Unit(name=name, role=role, block=block, linears=linears, options=FORMATS)


def llama_units(layers: int, hidden: int = 128, inner: int = 256, kv: int = 64) -> tuple[Unit, ...]:
    """qkv, o, gate_up and down of every layer."""
    units: list[Unit] = []
    for b in range(layers):
        attn, mlp = f"model.layers.{b}.self_attn", f"model.layers.{b}.mlp"
        shards = {"q_proj": hidden, "k_proj": kv, "v_proj": kv}
        units += [
            unit(f"{attn}.qkv_proj", "qkv", b, {f"{attn}.{n}": (rows, hidden) for n, rows in shards.items()}),
            unit(f"{attn}.o_proj", "o", b, {f"{attn}.o_proj": (hidden, hidden)}),
            unit(
                f"{mlp}.gate_up_proj",
                "gate_up",
                b,
                {f"{mlp}.gate_proj": (inner, hidden), f"{mlp}.up_proj": (inner, hidden)},
            ),
            unit(f"{mlp}.down_proj", "down", b, {f"{mlp}.down_proj": (hidden, inner)}),
        ]
    return tuple(units)


def plan_of(units: tuple[Unit, ...], *formats: str) -> PrecisionPlan:
    """The formats dealt out to the units in turn."""
    return PrecisionPlan(
        formats={u.name: formats[i % len(formats)] for i, u in enumerate(units)}, label="test"
    )


@st.composite
def units_and_plan(draw: st.DrawFn) -> tuple[tuple[Unit, ...], PrecisionPlan]:
    """A model of up to 12 layers and any plan that quantizes at least one unit."""
    units = llama_units(draw(st.integers(1, 12)))
    names = draw(st.lists(st.sampled_from(FORMATS), min_size=len(units), max_size=len(units)))
    if set(names) == {"BF16"}:
        names[0] = "W8A8"
    return units, PrecisionPlan(formats={u.name: f for u, f in zip(units, names, strict=True)})
