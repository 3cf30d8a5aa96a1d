"""What the footprint needs of a model besides its tensors: a small record that needs no pydantic.

`rank.py` keeps these records compiled, so every field is a plain number, text or tuple.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from profiles.models.schema import KvKind, KvLayer, ModelProfile

LINEAR_ROPE: dict[str, tuple[int, int]] = {"gemma3": (8, 2), "gemma3_text": (8, 2)}
"""model_type to (positions multiplier, distinct tables): linear RoPE scaling by 8 builds a table of
8 x max_position on the full-attention layers, the window layers have their own (Gemma 3 configs;
`LinearScalingRotaryEmbedding` of vLLM 0.32)."""

LINEAR_ROPE_FROM = 131072
"""Gemma 3 of 4B and more; the 1B has no scaling and 32,768 positions."""

MROPE = re.compile(r"^(qwen2_vl|qwen2_5_vl|qwen2_5_omni|qwen3_vl|qwen3_5|qwen3_omni|glm4v|ernie4_5_vl)")
MROPE_POSITIONS = 4
"""`MRotaryEmbedding` of vLLM 0.32 builds a table of 4 x max_position (`mrope_positions_factor`)."""

PARTIAL_ROTARY: tuple[tuple[re.Pattern[str], float], ...] = (
    (re.compile(r"^(qwen3_next|qwen3_5|stablelm|gpt_neox)"), 0.25),
    (re.compile(r"^phi$"), 0.4),
    (re.compile(r"^(glm|chatglm|nemotron$|minimax|persimmon)"), 0.5),
)
"""Share of a head that rotates (`partial_rotary_factor` of the published configs): the table is narrower."""

NO_ROPE = re.compile(r"^(gpt2|opt|bloom|mpt|bert|roberta|xlm|mamba|mamba2|falcon_mamba|nemotron_h)")
"""Architectures without rotary embeddings."""


class KvFacts(NamedTuple):
    """A `KvLayer` as a plain tuple: hashed and compared thousands of times."""

    kind: KvKind
    kv_heads: int
    head_dim: int
    v_head_dim: int | None
    window: int | None
    kv_lora_rank: int
    qk_rope_head_dim: int
    indexer_bytes: int
    state_elements: int
    state_bytes_per_element: int


def kv_facts(layer: KvLayer) -> KvFacts:
    """The tuple of one layer."""
    return KvFacts(
        layer.kind,
        layer.kv_heads,
        layer.head_dim,
        layer.v_head_dim,
        layer.window,
        layer.kv_lora_rank,
        layer.qk_rope_head_dim,
        layer.indexer_bytes,
        layer.state_elements,
        layer.state_bytes_per_element,
    )


class ModelFacts(NamedTuple):
    """Scalars of an architecture, the cache layout as (layer, count) runs, and the RoPE table's elements."""

    model_id: str
    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    tied: bool
    dtype: str
    experts: int
    experts_per_token: int
    expert_width: int
    moe_layers: int
    multimodal: bool
    generates: bool
    rope_elements: int
    stored_method: str
    stored_label: str
    stored_kv_dtype: str
    kv_layers: tuple[KvFacts, ...]

    @property
    def latent(self) -> bool:
        """Whether the cache holds MLA's latent."""
        return bool(self.kv_layers) and any(layer.kind is KvKind.MLA for layer in self.kv_layers[:4])


def facts_of(model: ModelProfile) -> ModelFacts:
    """The record of one profile."""
    moe = model.moe
    stored = model.quantization
    return ModelFacts(
        model_id=model.model_id,
        architecture=model.architecture,
        layers=model.num_layers,
        hidden=model.hidden_size,
        intermediate=model.intermediate_size or 4 * model.hidden_size,
        heads=model.num_attention_heads,
        kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        vocab=model.vocab_size,
        max_positions=model.max_position_embeddings,
        tied=model.tie_word_embeddings,
        dtype=model.torch_dtype,
        experts=moe.num_experts if moe else 0,
        experts_per_token=moe.experts_per_token if moe else 0,
        expert_width=moe.moe_intermediate_size if moe else 0,
        moe_layers=moe.moe_layers if moe else 0,
        multimodal=model.is_multimodal,
        generates=any(layer.kind is not KvKind.NONE for layer in model.kv_layers),
        rope_elements=rope_elements(model),
        stored_method=stored.method if stored else "",
        stored_label=stored.label if stored else "",
        stored_kv_dtype=(stored.kv_cache_dtype or "") if stored else "",
        kv_layers=tuple(map(kv_facts, model.kv_layers)),
    )


def rope_elements(model: ModelProfile) -> int:
    """Elements of the engine's cos/sin tables: positions x rotary width, one table for all layers.

    The engine builds them in the model's dtype while it loads, so the boot log's weights hold them:
    2.5 GiB for the 10 M positions of Llama-4-Scout (checked: 53.12 GiB measured at TP 4, 0.19).
    """
    if NO_ROPE.match(model.model_type) or not any(
        layer.kind not in (KvKind.NONE, KvKind.MAMBA) for layer in model.kv_layers
    ):
        return 0
    width = next((k.qk_rope_head_dim for k in model.kv_layers if k.kind is KvKind.MLA), 0) or model.head_dim
    if not any(layer.kind is KvKind.MLA for layer in model.kv_layers):
        width = int(width * next((x for p, x in PARTIAL_ROTARY if p.match(model.model_type)), 1.0))
    positions = model.max_position_embeddings
    if model.model_type in LINEAR_ROPE and positions >= LINEAR_ROPE_FROM:
        factor, tables = LINEAR_ROPE[model.model_type]
        return positions * width * (factor + tables - 1)
    if model.model_type == "gemma4_text":  # a table for window layers and one for the wider full ones
        widths = {layer.head_dim for layer in model.kv_layers if layer.head_dim}
        return positions * sum(widths)
    if MROPE.match(model.model_type):
        positions *= MROPE_POSITIONS
    return positions * width
