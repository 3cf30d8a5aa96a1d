"""Clipped INT4 scales: never worse than min-max by their own measure, and better for the output."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from profiles.formats import get_format
from tuners.model.clipping import clipped
from tuners.model.variants import encode, gptq, minmax, round_scale, rtn


def weighted_error(weight: Tensor, rounded: Tensor, importance: Tensor) -> float:
    return float(((weight - rounded).square() * importance).sum())


def dequantized(weight: Tensor, scale: Tensor, zero: Tensor, name: str) -> Tensor:
    fmt = get_format(name)
    codes = encode(weight, scale, fmt, None if fmt.symmetric else zero).float().view(*scale.shape, -1)
    shift = 0 if fmt.symmetric else zero.unsqueeze(-1)
    return ((codes - shift) * scale.unsqueeze(-1)).view_as(weight)


@pytest.mark.parametrize("name", ["W4A16_G64", "W4A16_ASYM_G64"])
@given(seed=st.integers(0, 10_000), spread=st.floats(0.01, 100), outlier=st.floats(1, 50))
@settings(max_examples=30, deadline=None)
def test_never_worse_than_the_whole_range(name: str, seed: int, spread: float, outlier: float) -> None:
    torch.manual_seed(seed)
    fmt = get_format(name)
    weight = torch.randn(8, 128) * spread
    weight[:, 5] *= outlier
    importance = torch.rand(128) + 1e-3
    scale, zero = clipped(
        weight, importance, bits=4, group=64, symmetric=fmt.symmetric, round_scale=round_scale
    )

    assert torch.isfinite(scale).all()
    assert (scale > 0).all()
    assert zero.abs().max() <= 8
    ours = weighted_error(weight, dequantized(weight, scale, zero, name), importance)
    whole = weighted_error(weight, rtn(weight, fmt).dequantize(torch.float32), importance)
    assert ours <= whole * (1 + 1e-5)


def test_a_group_of_zeros_stays_zero() -> None:
    scale, zero = clipped(
        torch.zeros(2, 64), torch.ones(64), bits=4, group=64, symmetric=False, round_scale=round_scale
    )
    assert torch.isfinite(scale).all()
    assert dequantized(torch.zeros(2, 64), scale, zero, "W4A16_ASYM_G64").abs().max() == 0


def test_gptq_with_clipped_scales_keeps_the_output_closer_than_with_min_max() -> None:
    torch.manual_seed(0)
    x = torch.randn(2048, 128) * torch.linspace(0.1, 3, 128)
    weight, fmt = torch.randn(64, 128), get_format("W4A16_G64")
    weight[:, :4] *= 6  # large weights on inputs that carry little
    hessian = 2 * x.t() @ x / len(x)
    variant = gptq([weight.clone()], [hessian.clone()], fmt, 0.01)[0]

    assert (variant.scale.float() <= minmax(weight, fmt)[0].float() * 1.001).all()
    exact = x @ weight.t()
    ours = (x @ variant.dequantize(torch.float32).t() - exact).square().mean()
    nearest = (x @ rtn(weight, fmt).dequantize(torch.float32).t() - exact).square().mean()
    assert float(ours) < 0.7 * float(nearest)
