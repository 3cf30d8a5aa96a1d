"""The KV cache rounded, imitated in torch: keys (after RoPE) and values as a quantized cache hands them back.

FP8 E4M3 has one calibrated scale per layer for keys and one for values: absmax / 448 over calibration text,
as llm-compressor computes them (`kv_cache_scheme`, per tensor, static) and vLLM reads them from the
checkpoint (`k_scale`, `v_scale`). E5M2 has no scale; INT8 and FP8 per token and head scale each vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from profiles.formats.kv_cache import E4M3
from tuners.model.fp4 import E4M3_MAX
from tuners.model.host import ModelHost
from tuners.model.inputs import fp8_per_token, int8_per_token

NAME = "advisor_kv_cache"
"""The attention function that rounds and hands on, in transformers' registry."""

Spans = Mapping[int, tuple[float, float]]
"""Largest absolute key and value of each layer."""

_Watch = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


def kv_spans(host: ModelHost, ids: Tensor, batch_size: int) -> dict[int, tuple[float, float]]:
    """Largest absolute key and value of each layer over the text: what calibrates E4M3 scales."""
    found: dict[int, tuple[float, float]] = {}

    def widen(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        old = found.get(layer, (0.0, 0.0))
        found[layer] = (
            max(old[0], float(key.abs().max())),
            max(old[1], float(value.abs().max())),
        )
        return key, value

    with _attention(host.model, widen):
        for start in range(0, len(ids), batch_size):
            host.hidden_only(ids[start : start + batch_size])
    return found


@contextmanager
def rounded_cache(host: ModelHost, dtype: str, spans: Spans) -> Iterator[None]:
    """Within the block attention sees keys and values as a cache of `dtype` stores them.

    Raises:
        ValueError: a dtype that is not imitated.
    """

    def rounded(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if dtype in E4M3:
            largest = spans[layer]
            return _scaled_e4m3(key, largest[0]), _scaled_e4m3(value, largest[1])
        plain = _ROUNDINGS[dtype]
        return plain(key), plain(value)

    if dtype not in E4M3 and dtype not in _ROUNDINGS:
        raise ValueError(f"a KV cache in {dtype} is not imitated")
    with _attention(host.model, rounded):
        yield


def _scaled_e4m3(x: Tensor, largest: float) -> Tensor:
    scale = max(largest, 1e-6) / E4M3_MAX
    scale = float(torch.tensor(scale).to(torch.bfloat16))  # as the checkpoint stores it
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(x.dtype) * scale


def _e5m2(x: Tensor) -> Tensor:
    largest = torch.finfo(torch.float8_e5m2).max
    return x.clamp(-largest, largest).to(torch.float8_e5m2).to(x.dtype)


_ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "fp8_e5m2": _e5m2,
    "int8": int8_per_token,
    "int8_per_token_head": int8_per_token,
    "fp8_per_token_head": fp8_per_token,
}


@contextmanager
def _attention(model: Any, watch: _Watch) -> Iterator[None]:
    """The model's own attention, with every layer's keys and values (batch, heads, tokens, head_dim) handed
    through `watch` first."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = model.config._attn_implementation
    own = ALL_ATTENTION_FUNCTIONS[before]

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **rest: Any) -> Any:
        key, value = watch(int(module.layer_idx), key, value)
        return own(module, query, key, value, *args, **rest)

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[before])
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
