"""Every format against compressed-tensors' own arithmetic: what is searched is what a checkpoint holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from profiles.formats import MENU, Activations, Format, Strategy
from tuners.model.fp4 import mx_scales, to_e2m1
from tuners.model.inputs import rounding
from tuners.model.variants import rtn, rtn_all
from tuners.quantize.groups import scheme_of

WEIGHTS = sorted(n for n, f in MENU.items() if f.strategy is not Strategy.NONE and f.fp8 == "e4m3")
OUT, IN = 160, 256


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal values with a few outlier columns, as bfloat16 can hold them."""
    torch.manual_seed(seed)
    x = torch.randn(*shape)
    x[..., ::37] *= 20
    return x.bfloat16().float()


def args_of(fmt: Format, part: str) -> Any:
    from compressed_tensors.quantization import QuantizationScheme

    return getattr(QuantizationScheme(targets=["Linear"], **scheme_of(fmt)), part)


def reference_weight(weight: Tensor, fmt: Format) -> Tensor:
    """compressed-tensors: scales from the observed range, stored in 16 bits, then fake quantization."""
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    args = args_of(fmt, "weights")
    whole = None
    if fmt.block:
        rows = [part.view(len(part), -1, fmt.block[1]) for part in weight.split(fmt.block[0])]
        low, high = (torch.stack([getattr(r, f)((0, 2)) for r in rows]) for f in ("amin", "amax"))
    else:
        groups = weight.view(len(weight), -1, fmt.group_size or weight.shape[1])
        low, high = groups.amin(-1), groups.amax(-1)
    if fmt.name.startswith("NVFP4"):
        whole = generate_gparam(weight.min(), weight.max())
    scale, zero = calculate_qparams(low, high, args, global_scale=whole)
    if fmt.family != "fp4":
        scale = scale.bfloat16().float()
        if not fmt.symmetric:
            zero = (-8 - low.clamp_max(0) / scale).round().clamp(-8, 7)
    return fake_quantize(weight, scale, zero, args, global_scale=whole)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_rounded_bit_for_bit_as_compressed_tensors_does(name: str) -> None:
    fmt, weight = MENU[name], draw(OUT, IN)
    ours = rtn(weight, fmt).dequantize(torch.float32)
    assert torch.equal(ours, reference_weight(weight, fmt))


def test_the_linears_of_a_fused_layer_share_nvfp4s_global_scale() -> None:
    from compressed_tensors.quantization.utils import generate_gparam

    small, large = draw(OUT, IN), draw(OUT, IN, seed=1) * 50
    alone, shared = rtn(small, MENU["NVFP4"]), rtn_all([small, large], MENU["NVFP4"])[0]
    whole = generate_gparam(large.min(), large.max())

    local = shared.scale * whole
    assert torch.allclose(local.to(torch.float8_e4m3fn).float(), local, rtol=1e-6)
    assert not torch.equal(alone.scale, shared.scale)


@settings(max_examples=200, deadline=None)
@given(st.floats(-20, 20, width=32))
def test_e2m1_takes_the_nearest_value(value: float) -> None:
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    found = to_e2m1(torch.tensor([value])).item()
    assert abs(found) in grid
    assert abs(abs(found) - min(abs(value), 6)) == (grid - min(abs(value), 6)).abs().min().item()


@settings(max_examples=200, deadline=None)
@given(st.floats(2**-100, 2**100, width=32))
def test_mx_scales_are_those_of_compressed_tensors(value: float) -> None:
    from compressed_tensors.quantization.utils.mxfp_utils import generate_mx_scales

    expected = 2 ** (generate_mx_scales(torch.tensor([value])) - 127)
    assert mx_scales(torch.tensor([value])) == expected


@pytest.mark.parametrize("name", ["W8A8_ASYM", "FP8_DYNAMIC", "FP8_BLOCK", "MXFP4"])
def test_dynamic_activations_are_those_of_compressed_tensors(name: str) -> None:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    args, x = args_of(MENU[name], "input_activations"), draw(1, 40, IN, seed=2)
    scale, zero = compute_dynamic_scales_and_zp(x, args, torch.nn.Module())
    if name in ("FP8_BLOCK", "MXFP4"):
        x, scale, zero = x[0], scale[0], zero[0]
    expected = fake_quantize(x, scale, zero, args)
    ours = rounding(MENU[name].activations)
    assert ours is not None
    assert torch.equal(ours(x), expected)


def test_int8_per_token_uses_vllms_127_steps_not_compressed_tensors_127_and_a_half() -> None:
    x = draw(40, IN, seed=3)
    ours = rounding(Activations.INT8_TOKEN)
    assert ours is not None
    steps = ours(x) / (x.abs().amax(-1, keepdim=True) / 127)
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert steps.abs().max().round() == 127


@pytest.mark.parametrize("name", ["W8A8_STATIC", "W8A8_STATIC_ASYM", "FP8_STATIC", "NVFP4"])
def test_calibrated_activations_are_those_of_compressed_tensors(name: str) -> None:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import (
        calculate_qparams,
        compute_dynamic_scales_and_zp,
        generate_gparam,
    )

    args, x, seen = args_of(MENU[name], "input_activations"), draw(40, IN, seed=4), draw(40, IN, seed=5)
    low, high = seen.aminmax()
    whole = None
    if name == "NVFP4":
        whole = generate_gparam(low, high)
        scale, zero = compute_dynamic_scales_and_zp(x, args, torch.nn.Module(), global_scale=whole)
    else:
        scale, zero = calculate_qparams(low, high, args)
        scale = scale.bfloat16().float()  # as the checkpoint stores it
        if name == "W8A8_STATIC_ASYM":
            zero = (-128 - low / scale).round()
    ours = rounding(MENU[name].activations, span=torch.stack([low, high]))
    assert ours is not None
    assert torch.equal(ours(x), fake_quantize(x, scale, zero, args, global_scale=whole))


def test_a_calibrated_rounding_without_a_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="range"):
        rounding(Activations.FP8_TENSOR)


def test_e5m2_is_imitated_too_though_no_engine_takes_it() -> None:
    weight = draw(OUT, IN)
    error = (rtn(weight, MENU["FP8_E5M2"]).dequantize(torch.float32) - weight).norm() / weight.norm()
    finer = (rtn(weight, MENU["FP8_W8A16"]).dequantize(torch.float32) - weight).norm() / weight.norm()
    assert finer < error < 0.1
