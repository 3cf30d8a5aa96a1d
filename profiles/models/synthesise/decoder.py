"""Decoder-only models: embeddings, blocks by kind, final norm, head."""

from __future__ import annotations

from profiles.errors import UsageError, nearest
from profiles.models.config import Config
from profiles.models.layers import layer_kinds, shared_indexers
from profiles.models.schema import TensorInfo
from profiles.models.synthesise.attention import attention, conv_mixer, linear_attention, mamba
from profiles.models.synthesise.encoder import ENCODERS
from profiles.models.synthesise.moe import feed_forward, is_moe_layer
from profiles.models.synthesise.stored import Store
from profiles.models.synthesise.style import STYLES, Shapes, Style
from profiles.models.synthesise.towers import tower


def synthesise(config: Config, *, stack_experts: bool = True) -> tuple[TensorInfo, ...]:
    """Every tensor of the checkpoint that `config` describes.

    With `stack_experts` the experts of a layer that are stored one by one are given as one tensor
    `...experts.*.gate_proj.weight` of shape (experts, out, in): the same elements, far fewer objects.
    """
    store = Store(config, stack_experts=stack_experts)
    if config.model_type in ENCODERS:
        store.add_block("", ENCODERS[config.model_type](config))
        return store.tensors()
    style = STYLES.get(config.model_type)
    if style is None:
        raise UsageError(
            "tensors of this model_type cannot be derived from its config",
            where=config.where,
            got=repr(config.model_type),
            allowed=nearest(config.model_type, [*STYLES, *ENCODERS]),
        )
    root = _root(config, style)
    hidden, vocab = config.count("hidden_size", low=1), config.vocab
    store.add(f"{root}{style.embed}.weight", (vocab, hidden))
    blocks: dict[tuple[str, bool, bool], Shapes] = {}
    borrowing = shared_indexers(config)
    for index, kind in enumerate(layer_kinds(config)):
        key = (kind, is_moe_layer(config, style, index), index in borrowing)
        if key not in blocks:
            shapes = _block(config, style, kind, key[1])
            blocks[key] = [s for s in shapes if ".indexer." not in s[0]] if key[2] else shapes
        store.add_block(f"{root}{style.layers}{index}.", blocks[key], cache_key=key)
    if style.final_norm:
        store.add_block(root, _norm(style.final_norm, hidden, style))
    if not config.tied and config.architecture.endswith(("LM", "Generation", "LMHeadModel", "ChatGLMModel")):
        head = root.removesuffix(style.prefix) + style.head if root != style.prefix else style.head
        if root.startswith("model.language_model."):
            head = style.head
        store.add(f"{head}.weight", (vocab, hidden))
        if style.head_bias is True or (isinstance(style.head_bias, str) and config.flag(style.head_bias)):
            store.add(f"{head}.bias", (vocab,))
    store.add_block("", tower(config))
    return store.tensors()


def _root(config: Config, style: Style) -> str:
    """Prefix of the language model: multimodal checkpoints put it one level down, embedders drop it."""
    if config.architecture.endswith("ForConditionalGeneration"):
        if config.model_type.startswith(("qwen3_vl", "qwen3_5", "gemma4")):
            return "model.language_model."
        if config.model_type.startswith(("qwen2_vl", "qwen2_5_vl")):
            return style.prefix
        return "language_model." + style.prefix
    if config.architecture.endswith("Model") and config.model_type != "chatglm":
        return ""
    return style.prefix


def _norm(name: str, width: int, style: Style) -> Shapes:
    shapes: Shapes = [(f"{name}.weight", (width,))]
    if style.norm_bias:
        shapes.append((f"{name}.bias", (width,)))
    return shapes


def _block(config: Config, style: Style, kind: str, moe: bool) -> Shapes:
    hidden = config.count("hidden_size", low=1)
    shapes: Shapes = []
    for name in _norm_names(config, style):
        shapes += _norm(name, hidden, style)
    if moe and style.moe == "gemma4":
        for number in ("pre_feedforward_layernorm_2", "post_feedforward_layernorm_1",
                       "post_feedforward_layernorm_2"):  # fmt: skip
            shapes += _norm(number, hidden, style)
    if config.model_type == "nemotron_h":  # one mixer per layer
        if kind == "mamba":
            return shapes + mamba(config, "mixer.")
        if kind in ("mlp", "moe"):
            return shapes + feed_forward(config, style, moe=kind == "moe")
        return shapes + attention(config, style)
    if kind in ("full", "sliding", "chunked", "hybrid"):
        shapes += attention(config, style, kind)
    if kind in ("mamba", "hybrid"):
        shapes += mamba(config, "mamba.")
    if kind == "linear":
        shapes += linear_attention(config)
    if kind == "conv":
        shapes += conv_mixer(config)
    shapes += feed_forward(config, style, moe=moe)
    shapes += [(name, (1,)) for name in style.extra]
    return shapes


def _norm_names(config: Config, style: Style) -> tuple[str, ...]:
    if config.model_type == "falcon" and config.flag("new_decoder_architecture"):
        return ("input_layernorm",) if config.value("num_ln_in_parallel_attn") == 1 else ("ln_attn", "ln_mlp")
    if config.model_type == "stablelm" and config.flag("use_parallel_residual"):
        return style.norms[:1]
    return style.norms
