"""The dtype that each synthesised tensor is stored in: the model's own, FP8 blocks, or MXFP4."""

from __future__ import annotations

import math
from typing import Any

from profiles.models.config import Config
from profiles.models.construct import make_tensor
from profiles.models.schema import TensorInfo
from profiles.models.synthesise.style import Shapes

SAFETENSORS_DTYPE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}

SIXTEEN_BIT = ("lm_head", "embed", "norm", "conv1d", "gate.weight", "router", "indexer.weights_proj", "A_log")
"""Parts that published FP8 checkpoints keep in 16 bits."""


class Store:
    """Collects tensors; knows the dtype of the checkpoint and its quantization."""

    def __init__(self, config: Config, *, stack_experts: bool = True) -> None:
        self.stack_experts = stack_experts
        self.dtype = SAFETENSORS_DTYPE.get(config.dtype, "BF16")
        raw = config.raw.get("quantization_config") or config.text.get("quantization_config")
        self.method, self.block = _method(raw)
        skip = raw.get("modules_to_not_convert") if isinstance(raw, dict) else None
        self.skip = tuple(s for s in skip if isinstance(s, str)) if isinstance(skip, list) else ()
        self._tensors: list[TensorInfo] = []
        self._plans: dict[Any, list[tuple[str, tuple[int, ...], str]]] = {}

    def add(self, name: str, shape: tuple[int, ...]) -> None:
        """One tensor that is not part of a block."""
        self.add_block("", [(name, shape)])

    def add_block(self, prefix: str, shapes: Shapes, cache_key: Any = None) -> None:
        """Every tensor of a block; identical blocks reuse one expansion."""
        plan = self._plans.get(cache_key) if cache_key is not None else None
        if plan is None:
            plan = [entry for name, shape in shapes for entry in self._expand(name, shape, prefix)]
            if cache_key is not None:
                self._plans[cache_key] = plan
        self._tensors += [make_tensor(prefix + name, shape, dtype) for name, shape, dtype in plan]

    def tensors(self) -> tuple[TensorInfo, ...]:
        """What was collected."""
        return tuple(self._tensors)

    def _expand(
        self, name: str, shape: tuple[int, ...], prefix: str
    ) -> list[tuple[str, tuple[int, ...], str]]:
        if ".*." in name and not self.stack_experts:
            return [
                entry
                for i in range(shape[0])
                for entry in self._typed(name.replace(".*.", f".{i}."), shape[1:], prefix)
            ]
        return self._typed(name, shape, prefix)

    def _typed(
        self, name: str, shape: tuple[int, ...], prefix: str
    ) -> list[tuple[str, tuple[int, ...], str]]:
        if name.endswith(("e_score_correction_bias", ".sinks_f32")):
            return [(name, shape, "F32")]
        if self.method == "mxfp4" and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = shape
            return [
                (f"{name}_blocks", (experts, outputs, inputs // 32, 16), "U8"),
                (f"{name}_scales", (experts, outputs, inputs // 32), "U8"),
            ]
        if self.method == "fp8" and self._quantizable(name, shape, prefix):
            rows, columns = (math.ceil(shape[-2] / self.block[0]), math.ceil(shape[-1] / self.block[1]))
            return [
                (name, shape, "F8_E4M3"),
                (name + "_scale_inv", (*shape[:-2], rows, columns), "F32"),
            ]
        return [(name, shape, self.dtype)]

    def _quantizable(self, name: str, shape: tuple[int, ...], prefix: str) -> bool:
        if len(shape) < 2 or not name.endswith(".weight") or not prefix:
            return False
        return not any(word in name for word in (*SIXTEEN_BIT, *self.skip))


def _method(raw: Any) -> tuple[str, tuple[int, int]]:
    if not isinstance(raw, dict):
        return "", (1, 1)
    block = raw.get("weight_block_size")
    sizes = (block[0], block[1]) if isinstance(block, list) and len(block) == 2 else (1 << 30, 1 << 30)
    return str(raw.get("quant_method") or ""), sizes
