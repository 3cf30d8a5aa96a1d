"""Symmetric INT4 weights in the layout of PyTorch's CPU matmul (torch only, no engine)."""

from __future__ import annotations

from typing import Any

GROUP_SIZES = (32, 64, 128, 256)
"""Groups that `aten::_weight_int4pack_mm_for_cpu` accepts (ATen/native/LinearAlgebra.cpp)."""

OUT_MULTIPLE = 16
"""`aten::_convert_weight_to_int4pack_for_cpu` wants out_features to be a multiple of it."""

NIBBLES = 8
"""INT4 values in one int32 of a compressed-tensors `weight_packed`, lowest bits first."""


def unpack_nibbles(packed: Any) -> Any:
    """(out, in/8) int32 as compressed-tensors stores it -> (out, in) int32 of 0..15 (value + 8)."""
    import torch

    values = [(packed >> (4 * i)) & 0xF for i in range(NIBBLES)]
    return torch.stack(values, dim=-1).reshape(packed.shape[0], -1).to(torch.int32)


def pack_weight(packed: Any) -> Any:
    """`weight_packed` (out, in/8) -> PyTorch's own packed layout, uint8 (out, in/2)."""
    import torch

    # the second argument (inner k tiles) is ignored on the CPU
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack_nibbles(packed).contiguous(), 1)


def scales_and_zeros(scales: Any) -> Any:
    """(out, groups) scales -> (groups, out, 2) bfloat16; the operator computes (q - 8) * scale + zero."""
    import torch

    by_group = scales.t().to(torch.bfloat16)
    return torch.stack([by_group, torch.zeros_like(by_group)], dim=-1).contiguous()


def matmul(x: Any, weight: Any, scales: Any, group_size: int) -> Any:
    """x @ W.T in x's dtype. The operator is only fast with bfloat16 activations, so x is rounded to it."""
    import torch

    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, weight, group_size, scales)
    return out.to(x.dtype).reshape(*x.shape[:-1], out.shape[-1])
