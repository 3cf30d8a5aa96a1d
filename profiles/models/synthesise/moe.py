"""Feed-forward part of a block: dense MLPs, routed and shared experts of every family."""

from __future__ import annotations

from profiles.models.config import Config
from profiles.models.synthesise.attention import decided, linear
from profiles.models.synthesise.style import Shapes, Style


def is_moe_layer(config: Config, style: Style, index: int) -> bool:
    """Whether layer `index` routes to experts (Transformers 5.17 configuration classes)."""
    if not style.moe or style.moe == "nemotron_h" or not config.maybe_count("num_experts"):
        return False  # Nemotron-H says it by the kind of the layer
    if style.moe in ("qwen2_moe", "stacked"):
        only = config.ints("mlp_only_layers") or []
        return index not in only and (index + 1) % config.count("decoder_sparse_step", 1, low=1) == 0
    if style.moe == "deepseek":
        first, step = config.count("first_k_dense_replace", 0), config.value("moe_layer_freq", 1)
        return index >= first and (type(step) is not int or step < 1 or index % step == 0)
    if style.moe == "ernie":
        first = config.count("moe_layer_start_index", 1)
        last = config.value("moe_layer_end_index", -1)
        end = last if type(last) is int and last >= 0 else config.num_layers - 1
        return first <= index <= end and (index + 1) % config.count("moe_layer_interval", 1, low=1) == 0
    if style.moe == "llama4":
        listed = config.ints("moe_layers")
        if listed is not None:
            return index in listed
        return (index + 1) % config.count("interleave_moe_layer_step", 1, low=1) == 0
    if style.moe == "jamba":
        period, offset = config.count("expert_layer_period", low=1), config.count("expert_layer_offset")
        return index % period == offset
    if style.moe == "gemma4":
        return config.flag("enable_moe_block")
    if style.moe == "lfm2":
        return index >= config.count("num_dense_layers", 0)
    return True


def feed_forward(config: Config, style: Style, *, moe: bool) -> Shapes:
    """The MLP or the experts of one layer."""
    at = f"{style.mlp}."
    if moe and style.moe == "gemma4":  # beside the dense MLP, not instead of it
        return mlp(config, style, at, _dense_width(config, style)) + _gemma4(config)
    if moe:
        return EXPERTS[style.moe](config, at)
    if style.moe == "granite":
        return shared_mlp(config)
    inner = _dense_width(config, style)
    return mlp(config, style, at, inner)


def mlp(config: Config, style: Style, at: str, inner: int) -> Shapes:
    """A dense MLP: gate and up apart, gate and up stored together, or up and down alone."""
    hidden, bias = config.count("hidden_size", low=1), decided(config, style.mlp_bias)
    *inputs, down = style.mlp_names
    width = 2 * inner if style.mlp_kind == "fused" else inner
    shapes: Shapes = []
    for name in inputs:
        shapes += linear(at + name, width, hidden, bias)
    return shapes + linear(at + down, hidden, inner, bias)


def _dense_width(config: Config, style: Style) -> int:
    if config.model_type == "llama4_text":
        return config.count("intermediate_size_mlp", low=1)
    inner = config.maybe_count("intermediate_size", low=1)
    if inner is None and config.model_type == "falcon":
        return 4 * config.count("hidden_size", low=1)
    if inner is None:
        inner = config.count("intermediate_size", low=1)
    if config.model_type == "lfm2" and config.flag("block_auto_adjust_ff_dim", True):
        # Lfm2MLP of Transformers 5.17: two thirds, then rounded up to block_multiple_of
        inner = config.maybe_count("block_ff_dim", low=1) or inner
        inner = int(config.number("block_ffn_dim_multiplier", 1.0) * int(2 * inner / 3))
        multiple = config.count("block_multiple_of", 256, low=1)
        inner = multiple * -(-inner // multiple)
    return inner


def _each(at: str, count: int, hidden: int, inner: int, names: tuple[str, ...]) -> Shapes:
    """Experts stored one by one: the last name is the down projection."""
    *inputs, down = names
    shapes: Shapes = [(f"{at}experts.*.{n}.weight", (count, inner, hidden)) for n in inputs]
    shapes.append((f"{at}experts.*.{down}.weight", (count, hidden, inner)))
    return shapes


GATED = ("gate_proj", "up_proj", "down_proj")


def _gated(at: str, hidden: int, inner: int, bias: bool = False) -> Shapes:
    return (
        linear(at + "gate_proj", inner, hidden, bias)
        + linear(at + "up_proj", inner, hidden, bias)
        + linear(at + "down_proj", hidden, inner, bias)
    )


def _sizes(config: Config) -> tuple[int, int, int]:
    inner = config.maybe_count("moe_intermediate_size", low=1)
    if inner is None:
        inner = config.count("intermediate_size", low=1)
    return config.count("hidden_size", low=1), config.count("num_experts", low=1), inner


def _mixtral(config: Config, at: str) -> Shapes:
    hidden, count, _ = _sizes(config)
    at, inner = "block_sparse_moe.", config.count("intermediate_size", low=1)
    shapes = linear(at + "gate", count, hidden) + _each(at, count, hidden, inner, ("w1", "w3", "w2"))
    if config.flag("use_routing_bias"):
        shapes.append((at + "e_score_correction_bias", (count,)))
    return shapes


def _qwen2_moe(config: Config, at: str) -> Shapes:
    hidden, count, inner = _sizes(config)
    if config.model_type == "olmoe":
        inner = config.count("intermediate_size", low=1)
    shapes = linear(at + "gate", count, hidden) + _each(at, count, hidden, inner, GATED)
    return shapes + _shared_expert(config, at, hidden)


def _shared_expert(config: Config, at: str, hidden: int) -> Shapes:
    shared = config.maybe_count("shared_expert_intermediate_size")
    if not shared:
        return []
    return _gated(at + "shared_expert.", hidden, shared) + linear(at + "shared_expert_gate", 1, hidden)


def _stacked(config: Config, at: str) -> Shapes:
    """Qwen3-VL-MoE stores (experts, in, out); Qwen3.5-MoE (experts, out, in)."""
    hidden, count, inner = _sizes(config)
    shapes = linear(at + "gate", count, hidden)
    if config.model_type == "qwen3_vl_moe_text":
        shapes += [
            (at + "experts.gate_up_proj", (count, hidden, 2 * inner)),
            (at + "experts.down_proj", (count, inner, hidden)),
        ]
    else:
        shapes += [
            (at + "experts.gate_up_proj", (count, 2 * inner, hidden)),
            (at + "experts.down_proj", (count, hidden, inner)),
        ]
    return shapes + _shared_expert(config, at, hidden)


def _deepseek(config: Config, at: str) -> Shapes:
    hidden, count, inner = _sizes(config)
    shapes = linear(at + "gate", count, hidden) + _each(at, count, hidden, inner, GATED)
    if config.model_type.startswith("glm") or config.text.get("topk_method") == "noaux_tc":
        shapes.append((at + "gate.e_score_correction_bias", (count,)))
    shared = config.maybe_count("n_shared_experts")
    if shared:
        shapes += _gated(at + "shared_experts.", hidden, inner * shared)
    return shapes


def _ernie(config: Config, at: str) -> Shapes:
    hidden, count, inner = _sizes(config)
    bias = config.flag("use_bias")
    shapes = linear(at + "gate", count, hidden) + _each(at, count, hidden, inner, GATED)
    shapes.append((at + "moe_statics.e_score_correction_bias", (1, count)))
    shared = config.maybe_count("n_shared_experts")
    if shared:
        shapes += _gated(at + "shared_experts.", hidden, inner * shared, bias)
    return shapes


def _gpt_oss(config: Config, at: str) -> Shapes:
    hidden, count, _ = _sizes(config)
    inner = config.count("intermediate_size", low=1)
    return [
        *linear(at + "router", count, hidden, True),
        (at + "experts.gate_up_proj", (count, hidden, 2 * inner)),
        (at + "experts.gate_up_proj_bias", (count, 2 * inner)),
        (at + "experts.down_proj", (count, inner, hidden)),
        (at + "experts.down_proj_bias", (count, hidden)),
    ]


def _llama4(config: Config, at: str) -> Shapes:
    hidden, count, _ = _sizes(config)
    inner = config.count("intermediate_size", low=1)
    shapes = linear(at + "router", count, hidden)
    shapes += [
        (at + "experts.gate_up_proj", (count, hidden, 2 * inner)),
        (at + "experts.down_proj", (count, inner, hidden)),
    ]
    return shapes + _gated(at + "shared_expert.", hidden, inner)


def shared_mlp(config: Config) -> Shapes:
    """Granite's dense part: `shared_mlp` beside the experts, or alone without experts."""
    hidden, shared = config.count("hidden_size", low=1), config.maybe_count("shared_intermediate_size")
    if not shared or config.model_type == "granitemoe":
        return []
    return linear("shared_mlp.input_linear", 2 * shared, hidden) + linear(
        "shared_mlp.output_linear", hidden, shared
    )


def _granite(config: Config, at: str) -> Shapes:
    hidden, count, _ = _sizes(config)
    at, inner = "block_sparse_moe.", config.count("intermediate_size", low=1)
    shapes: Shapes = [
        (at + "input_linear.weight", (count, 2 * inner, hidden)),
        (at + "output_linear.weight", (count, hidden, inner)),
        (at + "router.layer.weight", (count, hidden)),
    ]
    return shapes + shared_mlp(config)


def _gemma4(config: Config) -> Shapes:
    hidden, count, inner = _sizes(config)
    return [
        ("router.proj.weight", (count, hidden)),
        ("router.scale", (hidden,)),
        ("router.per_expert_scale", (count,)),
        ("experts.gate_up_proj", (count, 2 * inner, hidden)),
        ("experts.down_proj", (count, hidden, inner)),
    ]


def _jamba(config: Config, at: str) -> Shapes:
    hidden, count, _ = _sizes(config)
    inner = config.count("intermediate_size", low=1)
    return linear(at + "router", count, hidden) + _each(at, count, hidden, inner, GATED)


def _lfm2(config: Config, at: str) -> Shapes:
    hidden, count, inner = _sizes(config)
    shapes = linear(at + "gate", count, hidden) + _each(at, count, hidden, inner, ("w1", "w3", "w2"))
    if config.flag("use_expert_bias", True):
        shapes.append((at + "expert_bias", (count,)))
    return shapes


def _nemotron_h(config: Config, at: str) -> Shapes:
    hidden, count, inner = _sizes(config)
    latent = config.maybe_count("moe_latent_size", low=1) or hidden
    shapes = linear(at + "gate", count, hidden) + _each(at, count, latent, inner, ("up_proj", "down_proj"))
    shapes.append((at + "gate.e_score_correction_bias", (count,)))
    if latent != hidden:
        shapes += linear(at + "fc1_latent_proj", latent, hidden) + linear(
            at + "fc2_latent_proj", hidden, latent
        )
    shared = config.maybe_count("moe_shared_expert_intermediate_size")
    if shared:
        shared *= config.maybe_count("n_shared_experts") or 1
        shapes += linear(at + "shared_experts.up_proj", shared, hidden)
        shapes += linear(at + "shared_experts.down_proj", hidden, shared)
    return shapes


EXPERTS = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "stacked": _stacked,
    "deepseek": _deepseek,
    "ernie": _ernie,
    "gpt_oss": _gpt_oss,
    "llama4": _llama4,
    "granite": _granite,
    "jamba": _jamba,
    "lfm2": _lfm2,
    "nemotron_h": _nemotron_h,
}
"""Experts of each family, by `Style.moe`."""
