"""Attention of every kind, mamba, gated delta-net and short convolutions of one block."""

from __future__ import annotations

import math

from profiles.models.config import Config
from profiles.models.kv import MambaShape, delta_net
from profiles.models.synthesise.style import Shapes, Style


def linear(name: str, out_features: int, in_features: int, bias: bool = False) -> Shapes:
    """A linear layer."""
    shapes: Shapes = [(f"{name}.weight", (out_features, in_features))]
    if bias:
        shapes.append((f"{name}.bias", (out_features,)))
    return shapes


def decided(config: Config, choice: bool | str) -> bool:
    """A style's True/False, or what the config field of that name says."""
    return choice if isinstance(choice, bool) else config.flag(choice)


def attention(config: Config, style: Style, kind: str = "full") -> Shapes:
    """Query, key, value and output projections with their norms; `kind` is full, sliding or chunked."""
    at = f"{style.attn}."
    if config.maybe_count("kv_lora_rank"):
        return _latent(config, at)
    hidden, width = config.count("hidden_size", low=1), config.head_dim
    heads, kv_heads = config.heads, config.kv_heads
    shared = False
    if kind == "full" and config.model_type == "gemma4_text":
        width = config.maybe_count("global_head_dim", low=1) or width
        kv_heads = config.maybe_count("num_global_key_value_heads", low=1) or kv_heads
        shared = config.flag("attention_k_eq_v")  # values are the keys: stored once
    q, kv = heads * width, kv_heads * width
    value = kv_heads * (config.maybe_count("v_head_dim", low=1) or width)
    bias = decided(config, style.qkv_bias)
    shapes: Shapes = []
    if style.qkv == "fused":
        shapes += linear(at + style.qkv_name, q + kv + value, hidden, bias)
    else:
        shapes += linear(at + "q_proj", 2 * q if style.gated_query else q, hidden, bias)
        shapes += linear(at + "k_proj", kv, hidden, bias)
        if not shared:
            shapes += linear(at + "v_proj", value, hidden, bias)
    out = heads * (config.maybe_count("v_head_dim", low=1) or width)
    shapes += linear(at + style.out_name, hidden, out, decided(config, style.out_bias))
    if style.qk_norm and (not style.qk_norm_flag or config.flag(style.qk_norm_flag)):
        sizes = {
            "head": ((width,), (width,)),
            "full": ((q,), (kv,)),
            "layer": ((heads, width), (kv_heads, width)),
        }
        for name, shape in zip(style.qk_norm_names, sizes[style.qk_norm], strict=True):
            shapes.append((f"{at}{name}.weight", shape))
    if config.model_type == "gpt_oss":
        shapes.append((at + "sinks", (heads,)))
    return shapes


def _latent(config: Config, at: str) -> Shapes:
    """Multi-head latent attention (DeepSeek V2/V3, Kimi K2)."""
    hidden, heads = config.count("hidden_size", low=1), config.heads
    rank = config.count("kv_lora_rank", low=1)
    nope, rope = config.count("qk_nope_head_dim", low=1), config.count("qk_rope_head_dim", low=1)
    value = config.count("v_head_dim", low=1)
    bias = config.flag("attention_bias")
    shapes: Shapes = []
    q_rank = config.text.get("q_lora_rank")
    if q_rank:
        q_rank = config.count("q_lora_rank", low=1)
        shapes += linear(at + "q_a_proj", q_rank, hidden, bias)
        shapes.append((at + "q_a_layernorm.weight", (q_rank,)))
        shapes += linear(at + "q_b_proj", heads * (nope + rope), q_rank)
    else:
        shapes += linear(at + "q_proj", heads * (nope + rope), hidden)
    shapes += linear(at + "kv_a_proj_with_mqa", rank + rope, hidden, bias)
    shapes.append((at + "kv_a_layernorm.weight", (rank,)))
    shapes += linear(at + "kv_b_proj", heads * (nope + value), rank)
    shapes += linear(at + "o_proj", hidden, heads * value, bias)
    index_heads, index_width = config.maybe_count("index_n_heads"), config.maybe_count("index_head_dim")
    if index_heads and index_width and q_rank:  # sparse attention's indexer (DeepSeek V3.2)
        shapes += linear(at + "indexer.wq_b", index_heads * index_width, q_rank)
        shapes += linear(at + "indexer.wk", index_width, hidden)
        shapes += [
            (at + "indexer.k_norm.weight", (index_width,)),
            (at + "indexer.k_norm.bias", (index_width,)),
        ]
        shapes += linear(at + "indexer.weights_proj", index_heads, hidden)
    return shapes


def mamba(config: Config, at: str) -> Shapes:
    """A Mamba-2 mixer, or Mamba-1 as in Jamba."""
    hidden, shape = config.count("hidden_size", low=1), MambaShape(config)
    inner, taps = shape.inner, shape.taps
    conv_bias = config.flag("use_conv_bias" if config.model_type == "nemotron_h" else "mamba_conv_bias", True)
    proj_bias = config.flag("use_bias" if config.model_type == "nemotron_h" else "mamba_proj_bias")
    if not shape.heads:
        rank = config.value("mamba_dt_rank")
        rank = rank if type(rank) is int and rank > 0 else math.ceil(hidden / 16)
        shapes = linear(at + "in_proj", 2 * inner, hidden, proj_bias)
        shapes += linear(at + "x_proj", rank + 2 * shape.state, inner)
        shapes += linear(at + "dt_proj", inner, rank, True)
        shapes += [(at + "A_log", (inner, shape.state)), (at + "D", (inner,))]
        for name, width in (("dt", rank), ("b", shape.state), ("c", shape.state)):
            shapes.append((f"{at}{name}_layernorm.weight", (width,)))
    else:
        shapes = linear(at + "in_proj", inner + shape.conv_dim + shape.heads, hidden, proj_bias)
        shapes += [(at + name, (shape.heads,)) for name in ("A_log", "D", "dt_bias")]
        if config.model_type != "falcon_h1" or config.flag("mamba_rms_norm"):
            shapes.append((at + "norm.weight", (inner,)))
    shapes.append((at + "conv1d.weight", (shape.conv_dim, 1, taps)))
    if conv_bias:
        shapes.append((at + "conv1d.bias", (shape.conv_dim,)))
    return shapes + linear(at + "out_proj", hidden, inner, proj_bias)


def linear_attention(config: Config) -> Shapes:
    """Gated delta-net of Qwen3-Next (fused inputs) and Qwen3.5 (inputs apart)."""
    hidden, at = config.count("hidden_size", low=1), "linear_attn."
    key_heads, key_width, value_heads, value_width = delta_net(config)
    keys, values = key_heads * key_width, value_heads * value_width
    if config.model_type == "qwen3_next":
        shapes = linear(at + "in_proj_qkvz", 2 * keys + 2 * values, hidden)
        shapes += linear(at + "in_proj_ba", 2 * value_heads, hidden)
    else:
        shapes = linear(at + "in_proj_qkv", 2 * keys + values, hidden) + linear(
            at + "in_proj_z", values, hidden
        )
        shapes += linear(at + "in_proj_b", value_heads, hidden) + linear(
            at + "in_proj_a", value_heads, hidden
        )
    taps = config.count("linear_conv_kernel_dim", low=1)
    shapes.append((at + "conv1d.weight", (2 * keys + values, 1, taps)))
    shapes += [(at + "dt_bias", (value_heads,)), (at + "A_log", (value_heads,))]
    shapes.append((at + "norm.weight", (value_width,)))
    return shapes + linear(at + "out_proj", hidden, values)


def conv_mixer(config: Config) -> Shapes:
    """The gated short convolution of LFM2."""
    hidden, bias = config.count("hidden_size", low=1), config.flag("conv_bias")
    shapes = linear("conv.in_proj", 3 * hidden, hidden, bias) + linear("conv.out_proj", hidden, hidden, bias)
    shapes.append(("conv.conv.weight", (hidden, 1, config.count("conv_L_cache", 3, low=1))))
    if bias:
        shapes.append(("conv.conv.bias", (hidden,)))
    return shapes
