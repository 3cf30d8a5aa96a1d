"""What a checkpoint is: tensors, attention layout, what the engine fuses, how it is stored."""

from __future__ import annotations

import math
from enum import StrEnum

from profiles.provenance import Contract

DTYPE_BITS: dict[str, int] = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16,
    "I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits per element of safetensors dtypes (safetensors format specification, `Dtype`)."""


class TensorInfo(Contract):
    """One tensor as stored: name, shape, safetensors dtype, the file that holds it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str | None = None

    @property
    def numel(self) -> int:
        """Elements; a scalar has one."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.numel * DTYPE_BITS[self.dtype] // 8


class KvKind(StrEnum):
    """What a layer keeps per request."""

    FULL = "full"  # MHA / GQA / MQA
    SLIDING = "sliding"  # window layers
    CHUNKED = "chunked"  # Llama-4 chunked local attention
    MLA = "mla"
    MAMBA = "mamba"  # mamba / mamba2 / short convolution / linear attention: state per sequence
    NONE = "none"  # shares another layer's cache, or keeps nothing


class KvLayer(Contract):
    """The cache of one layer. Elements, not bytes: bytes depend on the KV dtype.

    FULL/SLIDING/CHUNKED use `kv_heads`, `head_dim` (and `v_head_dim` when it differs) and `window`;
    MLA uses `kv_lora_rank`, `qk_rope_head_dim` and, with sparse attention, `indexer_bytes` per token (its
    keys are FP8 whatever the KV dtype is); MAMBA uses `state_elements` (per sequence, at TP1)
    and `state_bytes_per_element`.
    """

    kind: KvKind
    kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int | None = None
    window: int | None = None
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    indexer_bytes: int = 0
    state_elements: int = 0
    state_bytes_per_element: int = 4


class StoredQuantization(Contract):
    """How a checkpoint is already quantized, read from its own config."""

    method: str  # compressed-tensors, awq, gptq, fp8, bitsandbytes, mxfp4, modelopt, gguf ...
    label: str  # "W4A16 g128", "FP8 block 128x128" ...
    weight_bits: float | None = None
    group_size: int | None = None
    kv_cache_dtype: str | None = None
    raw: dict[str, object] = {}


class MoeFacts(Contract):
    """Routed experts: how many, how many are read per token, their width."""

    num_experts: int
    experts_per_token: int
    moe_intermediate_size: int
    shared_experts: int = 0
    moe_layers: int = 0


class LinearInfo(Contract):
    """One linear weight that an engine could quantize.

    `name` is the module's name in the Hugging Face checkpoint (no `.weight`); `fused` is the engine's
    module that it is merged into (`model.layers.0.self_attn.qkv_proj`), equal to `name` when it is
    not; `role` is one of `qkv o gate_up down lm_head embed expert_gate_up expert_down shared_gate_up
    shared_down router other`; `block` the decoder layer or None; `copies` counts identical experts.
    """

    name: str
    in_features: int
    out_features: int
    fused: str
    role: str
    block: int | None = None
    copies: int = 1

    @property
    def numel(self) -> int:
        """Weights, all copies together."""
        return self.in_features * self.out_features * self.copies


class ModelProfile(Contract):
    """A model as the engine will see it; built from `config.json` and safetensors headers alone.

    `source` is `local`, `hub` or `catalogue`; `assumptions` lists whatever was not stated by the
    checkpoint itself and had to be taken from the architecture's defaults.
    """

    model_id: str
    source: str
    path: str | None = None
    revision: str | None = None
    architecture: str
    model_type: str
    tensors: tuple[TensorInfo, ...] = ()
    linears: tuple[LinearInfo, ...] = ()
    kv_layers: tuple[KvLayer, ...] = ()
    num_layers: int
    hidden_size: int
    intermediate_size: int | None = None
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    torch_dtype: str = "bfloat16"
    moe: MoeFacts | None = None
    quantization: StoredQuantization | None = None
    is_multimodal: bool = False
    license: str | None = None
    tags: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> int:
        """Parameters resident in memory (tied embeddings once); for packed checkpoints the logical count
        is not known from headers alone, so this counts stored elements."""
        return sum(t.numel for t in self.tensors)
