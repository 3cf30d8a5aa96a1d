"""Vision towers and projectors of multimodal models."""

from __future__ import annotations

from profiles.models.config import Config
from profiles.models.synthesise.attention import linear
from profiles.models.synthesise.style import Shapes


def tower(config: Config) -> Shapes:
    """Tensors of the vision tower and its projector; none for a text model."""
    raw = config.raw.get("vision_config")
    if not isinstance(raw, dict):
        return []
    vision = Config({"model_type": "", **raw}, config.where + ": vision_config")
    kind = str(config.raw.get("model_type") or "")
    if kind == "gemma3":
        return _siglip(vision, "vision_tower.vision_model.") + _gemma3_projector(config, vision)
    if kind == "gemma4":
        return _gemma4(config, vision)
    if kind in ("llava", "llava_next"):
        return _llava(config, vision, kind)
    if kind == "kimi_vl":
        return _moonvit(vision, "vision_tower.") + _kimi_projector(config, vision)
    if kind == "mistral3":
        return _pixtral(vision, "vision_tower.") + _mistral3_projector(config, vision)
    if kind in ("qwen2_5_vl", "qwen2_vl"):
        return _qwen2_vl(config, vision, kind)
    if kind in ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"):
        return _qwen3_vl(vision)
    if kind == "llama4":
        return _llama4(config, vision)
    config.assume(f"the vision tower of {kind} is not counted")
    return []


def _norm(name: str, width: int, bias: bool = True) -> Shapes:
    shapes: Shapes = [(f"{name}.weight", (width,))]
    return [*shapes, (f"{name}.bias", (width,))] if bias else shapes


def _siglip(vision: Config, root: str) -> Shapes:
    hidden, inner = vision.count("hidden_size", low=1), vision.count("intermediate_size", low=1)
    patch, image = vision.count("patch_size", low=1), vision.count("image_size", low=1)
    at = root + "embeddings."
    shapes: Shapes = [
        (at + "patch_embedding.weight", (hidden, 3, patch, patch)),
        (at + "patch_embedding.bias", (hidden,)),
        (at + "position_embedding.weight", ((image // patch) ** 2, hidden)),
    ]
    for i in range(vision.num_layers):
        at = f"{root}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes += linear(f"{at}self_attn.{name}", hidden, hidden, True)
        shapes += linear(at + "mlp.fc1", inner, hidden, True) + linear(at + "mlp.fc2", hidden, inner, True)
        shapes += _norm(at + "layer_norm1", hidden) + _norm(at + "layer_norm2", hidden)
    return shapes + _norm(root + "post_layernorm", hidden)


def _gemma3_projector(config: Config, vision: Config) -> Shapes:
    width, hidden = vision.count("hidden_size", low=1), config.count("hidden_size", low=1)
    return [
        ("multi_modal_projector.mm_input_projection_weight", (width, hidden)),
        ("multi_modal_projector.mm_soft_emb_norm.weight", (width,)),
    ]


def _pixtral(vision: Config, root: str) -> Shapes:
    hidden, inner = vision.count("hidden_size", low=1), vision.count("intermediate_size", low=1)
    patch = vision.count("patch_size", low=1)
    shapes: Shapes = [
        (root + "patch_conv.weight", (hidden, 3, patch, patch)),
        (root + "ln_pre.weight", (hidden,)),
    ]
    for i in range(vision.num_layers):
        at = f"{root}transformer.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes += linear(f"{at}attention.{name}", hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            shapes += linear(f"{at}feed_forward.{name}", inner, hidden)
        shapes += linear(at + "feed_forward.down_proj", hidden, inner)
        shapes += _norm(at + "attention_norm", hidden, False) + _norm(at + "ffn_norm", hidden, False)
    return shapes


def _gemma4(config: Config, vision: Config) -> Shapes:
    hidden, inner = vision.count("hidden_size", low=1), vision.count("intermediate_size", low=1)
    patch, root = vision.count("patch_size", low=1), "model.vision_tower."
    width, heads, kv = vision.head_dim, vision.heads, vision.kv_heads
    shapes: Shapes = [
        (
            root + "patch_embedder.position_embedding_table",
            (2, vision.count("position_embedding_size", low=1), hidden),
        ),
        (root + "patch_embedder.input_proj.weight", (hidden, 3 * patch * patch)),
    ]
    if vision.flag("standardize"):
        shapes += [(root + "std_bias", (hidden,)), (root + "std_scale", (hidden,))]
    for i in range(vision.num_layers):
        at = f"{root}encoder.layers.{i}."
        for name, rows in (("q_proj", heads * width), ("k_proj", kv * width), ("v_proj", kv * width)):
            shapes += linear(f"{at}self_attn.{name}.linear", rows, hidden)
        shapes += linear(f"{at}self_attn.o_proj.linear", hidden, heads * width)
        shapes += [(f"{at}self_attn.{name}.weight", (width,)) for name in ("q_norm", "k_norm")]
        for name in ("gate_proj", "up_proj"):
            shapes += linear(f"{at}mlp.{name}.linear", inner, hidden)
        shapes += linear(f"{at}mlp.down_proj.linear", hidden, inner)
        for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                     "post_feedforward_layernorm"):  # fmt: skip
            shapes += _norm(at + name, hidden, False)
    return shapes + linear(
        "model.embed_vision.embedding_projection", config.count("hidden_size", low=1), hidden
    )


def _llava(config: Config, vision: Config, kind: str) -> Shapes:
    """A CLIP or SigLIP tower; LLaVA-NeXT separates image rows with a learned vector."""
    root = "vision_tower.vision_model."
    hidden = vision.count("hidden_size", low=1)
    tower_shapes = _siglip(vision, root)
    if vision.model_type == "clip_vision_model":
        places = (vision.count("image_size", low=1) // vision.count("patch_size", low=1)) ** 2 + 1
        at = root + "embeddings."
        skip = (at + "patch_embedding.bias", at + "position_embedding.weight")
        tower_shapes = [entry for entry in tower_shapes if entry[0] not in skip]
        tower_shapes += [(at + "class_embedding", (hidden,)), (skip[1], (places, hidden))]
        tower_shapes += _norm(root + "pre_layrnorm", hidden)  # the published spelling
    row = [("image_newline", (config.count("hidden_size", low=1),))] if kind == "llava_next" else []
    return tower_shapes + _llava_projector(config, vision) + row


def _llava_projector(config: Config, vision: Config) -> Shapes:
    """Two layers over the features of one tower layer, or of several side by side (Granite Vision)."""
    width, hidden = vision.count("hidden_size", low=1), config.count("hidden_size", low=1)
    chosen = config.raw.get("vision_feature_layer")
    layers = len(chosen) if isinstance(chosen, list) and 0 < len(chosen) <= 64 else 1
    at = "multi_modal_projector."
    shapes = linear(at + "linear_1", hidden, layers * width, True) + linear(
        at + "linear_2", hidden, hidden, True
    )
    return shapes


def _moonvit(vision: Config, root: str) -> Shapes:
    """Kimi-VL's native-resolution tower (vLLM 0.32 `moonvit.py`)."""
    hidden, inner = vision.count("hidden_size", low=1), vision.count("intermediate_size", low=1)
    patch = vision.count("patch_size", 14, low=1)
    grid = (vision.count("init_pos_emb_height", 64, low=1), vision.count("init_pos_emb_width", 64, low=1))
    shapes: Shapes = [
        (root + "patch_embed.proj.weight", (hidden, 3, patch, patch)),
        (root + "patch_embed.proj.bias", (hidden,)),
        (root + "patch_embed.pos_emb.weight", (*grid, hidden)),
    ]
    for i in range(vision.num_layers):
        at = f"{root}encoder.blocks.{i}."
        shapes += linear(at + "wqkv", 3 * hidden, hidden, True) + linear(at + "wo", hidden, hidden, True)
        shapes += linear(at + "mlp.fc0", inner, hidden, True) + linear(at + "mlp.fc1", hidden, inner, True)
        shapes += _norm(at + "norm0", hidden) + _norm(at + "norm1", hidden)
    return shapes + _norm(root + "encoder.final_layernorm", hidden)


def _kimi_projector(config: Config, vision: Config) -> Shapes:
    width, hidden = vision.count("hidden_size", low=1), config.count("hidden_size", low=1)
    kernel = vision.ints("merge_kernel_size") or [2, 2]
    merged = width * kernel[0] * kernel[-1]
    at = "multi_modal_projector."
    return [
        *_norm(at + "pre_norm", width),
        *linear(at + "linear_1", merged, merged, True),
        *linear(at + "linear_2", hidden, merged, True),
    ]


def _mistral3_projector(config: Config, vision: Config) -> Shapes:
    width, hidden = vision.count("hidden_size", low=1), config.count("hidden_size", low=1)
    merge = config.count("spatial_merge_size", 2, low=1)
    at = "multi_modal_projector."
    return [
        (at + "norm.weight", (width,)),
        (at + "patch_merger.merging_layer.weight", (width, width * merge * merge)),
        (at + "linear_1.weight", (hidden, width)),
        (at + "linear_2.weight", (hidden, hidden)),
    ]


def _qwen2_vl(config: Config, vision: Config, kind: str) -> Shapes:
    newer = kind == "qwen2_5_vl"
    hidden = vision.count("hidden_size" if newer else "embed_dim", low=1)
    inner = vision.count("intermediate_size", low=1) if newer else int(hidden * vision.number("mlp_ratio", 4))
    patch, frames = vision.count("patch_size", 14, low=1), vision.count("temporal_patch_size", 2, low=1)
    merge = vision.count("spatial_merge_size", 2, low=1) ** 2
    shapes: Shapes = [("visual.patch_embed.proj.weight", (hidden, 3, frames, patch, patch))]
    for i in range(vision.count("depth", low=1)):
        at = f"visual.blocks.{i}."
        shapes += linear(at + "attn.qkv", 3 * hidden, hidden, True) + linear(
            at + "attn.proj", hidden, hidden, True
        )
        names = ("gate_proj", "up_proj") if newer else ("fc1",)
        for name in names:
            shapes += linear(f"{at}mlp.{name}", inner, hidden, True)
        shapes += linear(at + ("mlp.down_proj" if newer else "mlp.fc2"), hidden, inner, True)
        shapes += _norm(at + "norm1", hidden, not newer) + _norm(at + "norm2", hidden, not newer)
    at = "visual.merger."
    shapes += _norm(at + "ln_q", hidden, not newer)
    shapes += linear(at + "mlp.0", hidden * merge, hidden * merge, True)
    return shapes + linear(at + "mlp.2", config.count("hidden_size", low=1), hidden * merge, True)


def _qwen3_vl(vision: Config) -> Shapes:
    hidden, inner = vision.count("hidden_size", low=1), vision.count("intermediate_size", low=1)
    patch, frames = vision.count("patch_size", 16, low=1), vision.count("temporal_patch_size", 2, low=1)
    merge, out = vision.count("spatial_merge_size", 2, low=1) ** 2, vision.count("out_hidden_size", low=1)
    root = "model.visual."
    shapes: Shapes = [
        (root + "patch_embed.proj.weight", (hidden, 3, frames, patch, patch)),
        (root + "patch_embed.proj.bias", (hidden,)),
        (root + "pos_embed.weight", (vision.count("num_position_embeddings", 2304, low=1), hidden)),
    ]
    for i in range(vision.count("depth", low=1)):
        at = f"{root}blocks.{i}."
        shapes += linear(at + "attn.qkv", 3 * hidden, hidden, True) + linear(
            at + "attn.proj", hidden, hidden, True
        )
        shapes += linear(at + "mlp.linear_fc1", inner, hidden, True)
        shapes += linear(at + "mlp.linear_fc2", hidden, inner, True)
        shapes += _norm(at + "norm1", hidden) + _norm(at + "norm2", hidden)
    mergers = [(root + "merger.", hidden)]
    deep = len(vision.ints("deepstack_visual_indexes") or [])
    mergers += [(f"{root}deepstack_merger_list.{i}.", hidden * merge) for i in range(deep)]
    for at, width in mergers:
        shapes += _norm(at + "norm", width)
        shapes += linear(at + "linear_fc1", hidden * merge, hidden * merge, True)
        shapes += linear(at + "linear_fc2", out, hidden * merge, True)
    return shapes


def _llama4(config: Config, vision: Config) -> Shapes:
    hidden, inner = vision.count("hidden_size", low=1), vision.count("intermediate_size", low=1)
    patch, image = vision.count("patch_size", low=1), vision.count("image_size", low=1)
    out, projected = vision.count("vision_output_dim", low=1), vision.count("projector_output_dim", low=1)
    root = "vision_model."
    shapes: Shapes = [
        (root + "class_embedding", (hidden,)),
        (root + "positional_embedding_vlm", ((image // patch) ** 2 + 1, hidden)),
        (root + "patch_embedding.linear.weight", (hidden, 3 * patch * patch)),
        *_norm(root + "layernorm_pre", hidden),
        *_norm(root + "layernorm_post", hidden),
    ]
    for i in range(vision.num_layers):
        at = f"{root}model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes += linear(f"{at}self_attn.{name}", hidden, hidden, True)
        shapes += linear(at + "mlp.fc1", inner, hidden, True) + linear(at + "mlp.fc2", hidden, inner, True)
        shapes += _norm(at + "input_layernorm", hidden) + _norm(at + "post_attention_layernorm", hidden)
    ratio = vision.number("pixel_shuffle_ratio", 0.5)
    merged = int(hidden / (ratio * ratio)) if ratio > 0 else hidden
    at = root + "vision_adapter.mlp."
    shapes += linear(at + "fc1", vision.count("projector_input_dim", low=1), merged)
    shapes += linear(at + "fc2", projected, vision.count("projector_input_dim", low=1))
    shapes += linear("multi_modal_projector.linear_1", config.count("hidden_size", low=1), out)
    return shapes
