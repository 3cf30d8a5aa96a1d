"""A vLLM model loader that notes what was loaded, before kernels repack it. Engine processes only.

Kernels change or free parameters when they prepare them (oneDNN prepacks float32 weights and empties
the parameter), so bytes counted later are wrong; between the two steps they are exact.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

LOAD_FORMAT = "advisor_probe"
RECORD = "advisor_module_bytes"
"""Attribute of the loaded model: module name -> bytes of its parameters as loaded."""


@register_model_loader(LOAD_FORMAT)
class ProbingModelLoader(DefaultModelLoader):  # type: ignore[misc, unused-ignore]
    """The default loader plus a note of the bytes of every module."""

    def __init__(self, load_config: Any) -> None:
        plain = copy.copy(load_config)
        plain.load_format = "auto"  # what the default loader shall look for on disk
        super().__init__(plain)

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        """Load, then count."""
        super().load_weights(model, model_config)
        setattr(model, RECORD, loaded_bytes(model))


def loaded_bytes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of the parameters that each module owns itself; a shared (tied) parameter counts once."""
    out: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        out[owner] = out.get(owner, 0) + parameter.numel() * parameter.element_size()
    return out
