"""How each family names and shapes the parts of a decoder block.

Restated from the module definitions of Transformers 5.17 (`modeling_*.py`) and of the published
checkpoints' headers; only what differs from Llama is written down.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Shapes = list[tuple[str, tuple[int, ...]]]
"""Tensor names within a block, with their shapes."""


@dataclass(frozen=True)
class Style:
    """One family; a bias is True, False or the config field that decides."""

    prefix: str = "model."
    layers: str = "layers."
    embed: str = "embed_tokens"
    final_norm: str = "norm"
    head: str = "lm_head"
    attn: str = "self_attn"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norm_bias: bool = False
    qkv: Literal["split", "fused"] = "split"
    qkv_name: str = "qkv_proj"
    out_name: str = "o_proj"
    qkv_bias: bool | str = "attention_bias"
    out_bias: bool | str = "attention_bias"
    qk_norm: Literal["", "head", "full", "layer"] = ""
    qk_norm_flag: str = ""
    qk_norm_names: tuple[str, str] = ("q_norm", "k_norm")
    mlp: str = "mlp"
    mlp_kind: Literal["gated", "fused", "plain"] = "gated"
    mlp_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    mlp_bias: bool | str = "mlp_bias"
    moe: str = ""  # the key of `moe.EXPERTS`; "" for dense families
    head_bias: bool | str = False
    gated_query: bool = False
    extra: tuple[str, ...] = field(default=())


LLAMA = Style()
QWEN2 = replace(LLAMA, qkv_bias=True, out_bias=False, mlp_bias=False)
QWEN3 = replace(LLAMA, qk_norm="head", mlp_bias=False)
GEMMA = replace(LLAMA, mlp_bias=False)
GEMMA2 = replace(
    GEMMA,
    norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
)
GEMMA3 = replace(GEMMA2, qk_norm="head")
PHI3 = replace(
    LLAMA,
    qkv="fused",
    qkv_bias=False,
    out_bias=False,
    mlp_kind="fused",
    mlp_names=("gate_up_proj", "down_proj"),
)
GLM = replace(PHI3, qkv="split", qkv_bias="attention_bias")
POST_NORM = ("post_attention_layernorm", "post_feedforward_layernorm")
OLMO2 = replace(LLAMA, norms=POST_NORM, qk_norm="full", mlp_bias=False)
DEEPSEEK = replace(LLAMA, moe="deepseek", mlp_bias=False)
NEXT = replace(QWEN3, moe="qwen2_moe", gated_query=True)
BLOCK_MOE = replace(LLAMA, moe="granite", mlp_bias=False)
FALCON = replace(
    LLAMA,
    prefix="transformer.",
    layers="h.",
    embed="word_embeddings",
    final_norm="ln_f",
    attn="self_attention",
    norms=("input_layernorm",),
    norm_bias=True,
    qkv="fused",
    qkv_name="query_key_value",
    out_name="dense",
    qkv_bias="bias",
    out_bias="bias",
    mlp_kind="plain",
    mlp_names=("dense_h_to_4h", "dense_4h_to_h"),
    mlp_bias="bias",
)

STYLES: dict[str, Style] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "ministral": replace(LLAMA, mlp_bias=False),
    "ministral3": replace(LLAMA, mlp_bias=False),
    "smollm3": LLAMA,
    "granite": LLAMA,
    "arcee": replace(LLAMA, mlp_kind="plain", mlp_names=("up_proj", "down_proj")),
    "qwen2": QWEN2,
    "qwen2_vl_text": QWEN2,
    "qwen2_5_vl_text": QWEN2,
    "qwen2_5_vl": QWEN2,
    "qwen2_vl": QWEN2,
    "qwen2_moe": replace(QWEN2, moe="qwen2_moe"),
    "qwen3": QWEN3,
    "qwen3_vl_text": QWEN3,
    "qwen3_moe": replace(QWEN3, moe="qwen2_moe"),
    "qwen3_vl_moe_text": replace(QWEN3, moe="stacked"),
    "qwen3_next": NEXT,
    "qwen3_5_text": replace(NEXT, moe=""),
    "qwen3_5_moe_text": replace(NEXT, moe="stacked"),
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gemma4_text": replace(GEMMA3, moe="gemma4"),
    "mimo": QWEN2,
    "phi3": PHI3,
    "phi": replace(
        LLAMA,
        final_norm="final_layernorm",
        norms=("input_layernorm",),
        norm_bias=True,
        qkv_bias=True,
        out_bias=True,
        out_name="dense",
        mlp_kind="plain",
        mlp_names=("fc1", "fc2"),
        mlp_bias=True,
        head_bias=True,
    ),
    "phimoe": replace(LLAMA, norm_bias=True, moe="mixtral", head_bias="lm_head_bias"),
    "mixtral": replace(LLAMA, moe="mixtral"),
    "minimax_m2": replace(LLAMA, qk_norm="full", moe="mixtral"),
    "starcoder2": replace(
        LLAMA,
        norm_bias=True,
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp_kind="plain",
        mlp_names=("c_fc", "c_proj"),
        mlp_bias="use_bias",
    ),
    "cohere": replace(LLAMA, norms=("input_layernorm",), qk_norm="layer", qk_norm_flag="use_qk_norm"),
    "cohere2": replace(LLAMA, norms=("input_layernorm",)),
    "olmo": replace(LLAMA, norms=(), final_norm="", mlp_bias=False),
    "olmo2": OLMO2,
    "olmo3": OLMO2,
    "olmoe": replace(LLAMA, qk_norm="full", moe="qwen2_moe"),
    "exaone4": replace(OLMO2, qk_norm="head"),
    "glm": GLM,
    "glm4": replace(
        GLM,
        norms=("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm",
               "post_mlp_layernorm"),
    ),
    "glm4_moe": replace(
        LLAMA,
        out_bias=False,
        qk_norm="head",
        qk_norm_flag="use_qk_norm",
        moe="deepseek",
        mlp_bias=False,
    ),
    "glm4_moe_lite": DEEPSEEK,
    "glm_moe_dsa": DEEPSEEK,
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "deepseek_v32": DEEPSEEK,
    "kimi_k2": DEEPSEEK,
    "seed_oss": replace(LLAMA, out_bias="attention_out_bias"),
    "ernie4_5": replace(LLAMA, qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
    "ernie4_5_moe": replace(
        LLAMA, qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", moe="ernie"
    ),
    "hunyuan_v1_dense": replace(
        LLAMA, qk_norm="head", qk_norm_names=("query_layernorm", "key_layernorm"), mlp_bias=False
    ),
    "apertus": replace(
        LLAMA,
        norms=("attention_layernorm", "feedforward_layernorm"),
        qk_norm="head",
        mlp_kind="plain",
        mlp_names=("up_proj", "down_proj"),
        extra=("mlp.act_fn.alpha_p", "mlp.act_fn.alpha_n", "mlp.act_fn.beta", "mlp.act_fn.eps"),
    ),
    "stablelm": replace(LLAMA, norm_bias=True, qkv_bias="use_qkv_bias", out_bias=False, mlp_bias=False),
    "nemotron": replace(
        LLAMA, norm_bias=True, mlp_kind="plain", mlp_names=("up_proj", "down_proj")
    ),
    "gpt_oss": replace(LLAMA, moe="gpt_oss"),
    "llama4_text": replace(
        LLAMA, mlp="feed_forward", moe="llama4", mlp_bias=False
    ),
    "granitemoe": BLOCK_MOE,
    "granitemoeshared": BLOCK_MOE,
    "granitemoehybrid": BLOCK_MOE,
    "jamba": replace(
        LLAMA,
        final_norm="final_layernorm",
        norms=("input_layernorm", "pre_ff_layernorm"),
        mlp="feed_forward",
        moe="jamba",
    ),
    "falcon_h1": replace(
        LLAMA,
        final_norm="final_layernorm",
        norms=("input_layernorm", "pre_ff_layernorm"),
        mlp="feed_forward",
    ),
    "lfm2": replace(
        LLAMA,
        final_norm="embedding_norm",
        norms=("operator_norm", "ffn_norm"),
        out_name="out_proj",
        qk_norm="head",
        qk_norm_names=("q_layernorm", "k_layernorm"),
        qkv_bias=False,
        out_bias=False,
        mlp="feed_forward",
        mlp_names=("w1", "w3", "w2"),
        mlp_bias=False,
    ),
    "lfm2_moe": replace(
        LLAMA,
        final_norm="embedding_norm",
        norms=("operator_norm", "ffn_norm"),
        out_name="out_proj",
        qk_norm="head",
        qk_norm_names=("q_layernorm", "k_layernorm"),
        qkv_bias=False,
        out_bias=False,
        mlp="feed_forward",
        mlp_names=("w1", "w3", "w2"),
        mlp_bias=False,
        moe="lfm2",
    ),
    "nemotron_h": replace(
        LLAMA,
        prefix="backbone.",
        embed="embeddings",
        final_norm="norm_f",
        attn="mixer",
        norms=("norm",),
        mlp="mixer",
        mlp_kind="plain",
        mlp_names=("up_proj", "down_proj"),
        moe="nemotron_h",
    ),
    "internlm2": replace(
        LLAMA,
        embed="tok_embeddings",
        head="output",
        attn="attention",
        norms=("attention_norm", "ffn_norm"),
        qkv="fused",
        qkv_name="wqkv",
        out_name="wo",
        qkv_bias="bias",
        out_bias="bias",
        mlp="feed_forward",
        mlp_names=("w1", "w3", "w2"),
        mlp_bias=False,
    ),
    "chatglm": replace(
        LLAMA,
        prefix="transformer.",
        layers="encoder.layers.",
        embed="embedding.word_embeddings",
        final_norm="encoder.final_layernorm",
        head="transformer.output_layer",
        attn="self_attention",
        qkv="fused",
        qkv_name="query_key_value",
        out_name="dense",
        qkv_bias="add_qkv_bias",
        out_bias=False,
        mlp_kind="fused",
        mlp_names=("dense_h_to_4h", "dense_4h_to_h"),
        mlp_bias=False,
    ),
    "falcon": FALCON,
}  # fmt: skip
"""Style of each `model_type` that can be synthesised."""
