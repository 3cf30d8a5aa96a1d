"""The kernel class itself. Imports vLLM at module level: only engine processes import this module."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import MPLinearKernel
from vllm.scalar_type import scalar_types

from tuners.engine import int4_packing


class AdvisorTorchInt4LinearKernel(MPLinearKernel):  # type: ignore[misc, unused-ignore]
    """W4A16, symmetric, groups of 32 to 256, by PyTorch's packed INT4 matmul for the CPU."""

    @classmethod
    def get_min_capability(cls) -> int:
        """CPUs have no compute capability."""
        return -1

    @classmethod
    def can_implement(cls, c: Any) -> tuple[bool, str | None]:
        """Whether this layer is served here, or why not (vLLM then asks the next kernel)."""
        in_features, out_features = c.partition_weight_shape
        if hasattr(torch.ops._C, "cpu_gemm_wna16"):
            return False, "vLLM's own INT4 kernel is available"
        if c.weight_type != scalar_types.uint4b8 or c.zero_points:
            return False, f"only symmetric INT4 (uint4b8), got {c.weight_type}"
        if c.group_size not in int4_packing.GROUP_SIZES:
            return False, f"group size {c.group_size} not in {int4_packing.GROUP_SIZES}"
        if in_features % c.group_size:
            return False, f"group size {c.group_size} does not divide {in_features} inputs"
        if out_features % int4_packing.OUT_MULTIPLE:
            return False, f"{out_features} outputs are not a multiple of {int4_packing.OUT_MULTIPLE}"
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Repack once; the checkpoint's layout is freed."""
        weight, scale = getattr(layer, self.w_q_name), getattr(layer, self.w_s_name)
        if weight.input_dim != weight.packed_dim:
            raise ValueError("INT4 weights must be packed along the input axis (compressed-tensors, GPTQ)")
        packed = weight.data if weight.input_dim == 1 else weight.data.t()
        scales = scale.data if scale.output_dim == 0 else scale.data.t()
        self._transform_param(layer, self.w_q_name, lambda _: int4_packing.pack_weight(packed))
        self._transform_param(layer, self.w_s_name, lambda _: int4_packing.scales_and_zeros(scales))

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x @ W.T + bias."""
        weight, scales, _ = self._get_weight_params(layer)
        out = int4_packing.matmul(x, weight, scales, self.config.group_size)
        return out if bias is None else out + bias
