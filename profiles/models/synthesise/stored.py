"""The dtype that each synthesised tensor is stored in: the model's own, or packed as its config says."""

from __future__ import annotations

from typing import Any

from profiles.models.config import Config
from profiles.models.construct import make_tensor
from profiles.models.schema import TensorInfo
from profiles.models.synthesise.packing import scheme_of
from profiles.models.synthesise.style import Shapes

SAFETENSORS_DTYPE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


class Store:
    """Collects tensors; knows the dtype of the checkpoint and its quantization."""

    def __init__(self, config: Config, *, stack_experts: bool = True) -> None:
        self.stack_experts = stack_experts
        self.dtype = SAFETENSORS_DTYPE.get(config.dtype, "BF16")
        raw = config.raw.get("quantization_config") or config.text.get("quantization_config")
        self.scheme = scheme_of(raw)
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
        if self.scheme.method == "mxfp4" and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = shape
            return [
                (f"{name}_blocks", (experts, outputs, inputs // 32, 16), "U8"),
                (f"{name}_scales", (experts, outputs, inputs // 32), "U8"),
            ]
        if self.scheme.takes(name, shape, prefix):
            module = name.removesuffix(".weight")
            return [
                (module + suffix, part, kind) for suffix, part, kind in self.scheme.parts(shape, self.dtype)
            ]
        return [(name, shape, self.dtype)]
