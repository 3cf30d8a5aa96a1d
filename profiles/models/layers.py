"""What each decoder layer is: attention of some kind, mamba, linear attention, or an MLP alone.

Rules restate the configuration classes of Transformers 5.17 (`layer_types` when absent) and the model
classes of vLLM 0.32 that read them.
"""

from __future__ import annotations

from profiles.errors import UsageError
from profiles.models.config import Config

WORDS = {
    "full_attention": "full",
    "deepseek_sparse_attention": "full",
    "attention": "full",
    "global_attention": "full",
    "sliding_attention": "sliding",
    "local_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "mamba": "mamba",
    "mamba2": "mamba",
    "conv": "conv",
    "short_conv": "conv",
    "mlp": "mlp",
    "moe": "moe",
    "hybrid": "hybrid",
}
"""Words of `layer_types` / `layers_block_type` and the kinds used here."""

PATTERN_LETTERS = {"M": "mamba", "*": "full", "-": "mlp", "E": "moe"}
"""Letters of Nemotron-H's `hybrid_override_pattern` (vLLM 0.32 nemotron_h.py)."""

EVERY_NTH_FULL = {
    "gemma3_text": 6,
    "gemma3": 6,
    "gemma3n_text": 5,
    "gemma4_text": 6,
    "cohere2": 4,
    "olmo3": 4,
}
"""Layer i is full attention when (i + 1) % n == 0, else a window (Transformers 5.17 defaults)."""

WINDOW_EVERYWHERE = frozenset(
    {"mistral", "mixtral", "phi3", "phimoe", "starcoder2", "ministral", "ministral3"}
)
"""Model types whose `sliding_window`, when set, holds for every layer (vLLM 0.32, `get_sliding_window`)."""


def layer_kinds(config: Config) -> list[str]:
    """One of `full sliding chunked linear mamba conv mlp moe hybrid` for each decoder layer."""
    count = config.num_layers
    for name in ("layer_types", "layers_block_type"):
        words = config.strings(name, count)
        if words is not None:
            return _no_empty_windows(config, [_kind(config, name, w) for w in words])
    kind = config.model_type
    if isinstance(pattern := config.text.get("hybrid_override_pattern"), str):
        return _pattern(config, pattern, count)
    if (marks := config.ints("hybrid_layer_pattern", count)) is not None:
        return ["sliding" if m == 1 else "full" for m in marks[:count]]
    if (marks := config.ints("attn_type_list", count)) is not None:
        return ["full" if m == 1 else "linear" for m in marks[:count]]
    if (full := config.ints("full_attn_idxs")) is not None:
        return ["full" if i in full else "conv" for i in range(count)]
    if (full := config.ints("attn_layer_indices")) is not None:
        return ["full" if i in full else "mamba" for i in range(count)]
    if isinstance(linear := config.text.get("linear_attn_config"), dict):
        kda = linear.get("kda_layers")
        if not isinstance(kda, list):
            raise config.bad("linear_attn_config", linear, "an object with kda_layers")
        return ["linear" if i + 1 in kda else "full" for i in range(count)]
    if kind == "falcon_h1":
        return ["hybrid"] * count
    if kind in ("mamba", "mamba2", "falcon_mamba"):
        return ["mamba"] * count
    if kind == "jamba":
        period, offset = config.count("attn_layer_period", low=1), config.count("attn_layer_offset")
        return ["full" if i % period == offset else "mamba" for i in range(count)]
    if kind in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):
        interval = config.count("full_attention_interval", 4, low=1)
        return ["full" if (i + 1) % interval == 0 else "linear" for i in range(count)]
    return _no_empty_windows(config, _windows(config, kind, count))


def _windows(config: Config, kind: str, count: int) -> list[str]:
    if kind in ("gemma2", "gpt_oss"):
        return ["full" if i % 2 else "sliding" for i in range(count)]
    if kind in ("llama4_text", "llama4"):
        rope = config.ints("no_rope_layers") or [int((i + 1) % 4 != 0) for i in range(count)]
        if len(rope) < count:
            raise config.bad("no_rope_layers", rope, f"{count} entries")
        return ["chunked" if rope[i] else "full" for i in range(count)]
    pattern = config.text.get("sliding_window_pattern", config.text.get("_sliding_window_pattern"))
    if isinstance(pattern, str):
        return ["full" if pattern[i % len(pattern)] == "G" else "sliding" for i in range(count)]
    if kind in EVERY_NTH_FULL or (kind == "exaone4" and pattern):
        every = pattern if pattern is not None else EVERY_NTH_FULL[kind]
        if type(every) is not int or every < 1:
            raise config.bad("sliding_window_pattern", every, "an integer from 1")
        kinds = ["full" if (i + 1) % every == 0 else "sliding" for i in range(count)]
        if kind == "gemma4_text":
            kinds[-1] = "full"
        return kinds
    if kind in WINDOW_EVERYWHERE and config.text.get("sliding_window"):
        return ["sliding"] * count
    if kind.startswith(("qwen2", "qwen3")) and config.text.get("use_sliding_window") is True:
        first = config.count("max_window_layers", 0)
        return ["sliding" if i >= first else "full" for i in range(count)]
    return ["full"] * count


def _no_empty_windows(config: Config, kinds: list[str]) -> list[str]:
    """A window of null or 0 means that there is none (vLLM 0.32 config/model.py)."""
    if "sliding" in kinds and not window_tokens(config, "sliding"):
        return ["full" if k == "sliding" else k for k in kinds]
    if "chunked" in kinds and not window_tokens(config, "chunked"):
        return ["full" if k == "chunked" else k for k in kinds]
    return kinds


def shared_indexers(config: Config) -> frozenset[int]:
    """Layers of sparse attention that use an earlier layer's indexer (GLM-5.2 `indexer_types`)."""
    words = config.strings("indexer_types", config.num_layers) or []
    return frozenset(i for i, word in enumerate(words) if word == "shared")


def window_tokens(config: Config, kind: str) -> int | None:
    """Tokens that a window or chunk holds; Cohere's window sees one more (vLLM 0.32 commandr.py)."""
    if kind == "chunked":
        return config.maybe_count("attention_chunk_size")
    window = config.maybe_count("sliding_window") or config.maybe_count("sliding_window_size")
    return window + 1 if window and config.model_type == "cohere2" else window


def _kind(config: Config, name: str, word: str) -> str:
    if word not in WORDS:
        raise UsageError(
            f"{name} names a kind of layer that is not known",
            where=config.where,
            got=repr(word)[:80],
            allowed=", ".join(WORDS),
        )
    return WORDS[word]


def _pattern(config: Config, pattern: str, count: int) -> list[str]:
    letters = pattern.replace("|", "")
    if len(letters) < count or set(letters) - set(PATTERN_LETTERS):
        allowed = f"{count} letters of {''.join(PATTERN_LETTERS)}"
        raise config.bad("hybrid_override_pattern", pattern, allowed)
    return [PATTERN_LETTERS[c] for c in letters[:count]]
