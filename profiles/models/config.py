"""`config.json`, checked: numbers in range, aliases of older models, defaults named as such."""

from __future__ import annotations

import functools
import json
import math
from importlib import resources
from typing import Any

from profiles.errors import UsageError

TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where multimodal checkpoints keep the language model (vLLM 0.32, `get_hf_text_config`)."""

ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("n_head_kv", "num_kv_heads", "multi_query_group_num", "num_attention_groups"),
    "head_dim": ("kv_channels", "hidden_size_per_head", "attention_head_dim"),
    "intermediate_size": ("ffn_hidden_size", "n_inner"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length", "max_sequence_length"),
    "vocab_size": ("padded_vocab_size",),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": (
        "moe_k",
        "num_experts_per_token",
        "moe_topk",
        "moe_top_k",
        "num_experts_per_topk",
    ),
    "moe_intermediate_size": ("expert_ffn_hidden_size",),
    "n_shared_experts": ("num_shared_expert", "moe_num_shared_experts", "num_shared_experts"),
}
"""Names of one fact in older configs (`model_arch_config_convertor.py` of vLLM 0.32; Transformers)."""

LIMIT = 1 << 31
"""No count in a config is larger: vocabulary, width, context and experts all stay far below."""


@functools.cache
def default_table() -> dict[str, dict[str, Any]]:
    """Defaults of each model_type's configuration class (`defaults.json` names its source)."""
    text = resources.files("profiles.models").joinpath("defaults.json").read_text(encoding="utf-8")
    return {k: v for k, v in json.loads(text).items() if k != "source"}


class Config:
    """A model's config with checked access; what came from defaults is kept in `assumptions`."""

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, dict):
            raise UsageError("config.json is not a JSON object", where=where, got=type(raw).__name__)
        self.raw: dict[str, Any] = raw
        self.where = where
        self.assumptions: list[str] = []
        self._cache: dict[tuple[str, int], int | None] = {}
        text = raw
        for _ in range(2):  # thinker_config holds a text_config
            inner = next((text[k] for k in TEXT_CONFIGS if isinstance(text.get(k), dict)), None)
            if inner is None:
                break
            text = inner
        self.text: dict[str, Any] = text
        self.nested = text is not raw
        self.model_type = str(text.get("model_type") or raw.get("model_type") or "")
        names = raw.get("architectures")
        if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise self.bad("architectures", names, "a list of names")
        self.architecture: str = names[0] if names else ""
        self.defaults = default_table().get(self.model_type, {})

    def bad(self, name: str, got: Any, allowed: str) -> UsageError:
        """The error for one wrong field."""
        return UsageError(
            f"config field {name} is not usable", where=self.where, got=repr(got)[:120], allowed=allowed
        )

    def value(self, name: str, default: Any = None) -> Any:
        """A raw value: the text config, its aliases, the outer config, the architecture's default."""
        for key in (name, *ALIASES.get(name, ())):
            if self.text.get(key) is not None:
                return self.text[key]
        for key in (name, *ALIASES.get(name, ())) if self.nested else ():
            if self.raw.get(key) is not None:
                return self.raw[key]
        if name in self.text and default is None:
            return None
        for key in (name, *ALIASES.get(name, ())):
            if key in self.defaults:
                self.assume(
                    f"{key}={self.defaults[key]!r}: default of {self.model_type} in Transformers 5.17"
                )
                return self.defaults[key]
        return default

    def assume(self, text: str) -> None:
        """Note something that the checkpoint does not say itself, once."""
        if text not in self.assumptions:
            self.assumptions.append(text)

    def count(self, name: str, default: int | None = None, *, low: int = 0) -> int:
        """An integer that must be there (or have a default)."""
        found = self.maybe_count(name, low=low)
        if found is not None:
            return found
        if default is not None:
            return default
        raise UsageError(
            f"config field {name} is missing",
            where=self.where,
            got="not in the file, and no known default for model_type " + repr(self.model_type),
            next_step="check that this is the model's own config.json",
        )

    def maybe_count(self, name: str, *, low: int = 0) -> int | None:
        """An integer, or None when the config has none; the same answer is remembered."""
        key = (name, low)
        if key not in self._cache:
            self._cache[key] = self._checked(name, self.value(name), low)
        return self._cache[key]

    def _checked(self, name: str, found: Any, low: int) -> int | None:
        if found is None:
            return None
        if isinstance(found, float) and math.isfinite(found) and found == int(found):
            found = int(found)
        if type(found) is not int or not low <= found < LIMIT:
            raise self.bad(name, found, f"an integer from {low} to {LIMIT - 1}")
        return found

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean; 0 and 1 are taken as one."""
        found = self.value(name, default)
        if found is None:
            return default
        if not isinstance(found, bool) and found not in (0, 1):
            raise self.bad(name, found, "true or false")
        return bool(found)

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        found = self.value(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise self.bad(name, found, "a finite number")
        return float(found)

    def strings(self, name: str, length: int) -> list[str] | None:
        """A per-layer list of words, or None; a wrong length is refused."""
        found = self.text.get(name)
        if found is None:
            return None
        if not isinstance(found, list) or not all(isinstance(v, str) for v in found) or len(found) < length:
            raise self.bad(name, found, f"a list of {length} words, one per layer")
        return found[:length]

    def ints(self, name: str, length: int | None = None) -> list[int] | None:
        """A list of integers, or None."""
        found = self.text.get(name)
        if found is None:
            return None
        if (
            not isinstance(found, list)
            or not all(type(v) is int and -LIMIT < v < LIMIT for v in found)
            or (length is not None and len(found) < length)
        ):
            raise self.bad(name, found, "a list of integers" + (f", {length} or more" if length else ""))
        return found

    @property
    def num_layers(self) -> int:
        """Decoder layers; more than 10,000 is refused."""
        layers = self._listed_layers() or self.count("num_hidden_layers", low=1)
        if layers > 10_000:
            raise self.bad("num_hidden_layers", layers, "at most 10000")
        return layers

    def _listed_layers(self) -> int | None:
        """Length of a per-layer list when the config names no number itself (Nemotron 3 Ultra)."""
        if any(self.text.get(n) is not None for n in ("num_hidden_layers", *ALIASES["num_hidden_layers"])):
            return None
        listed = next(
            (v for n in ("layers_block_type", "layer_types") if isinstance(v := self.text.get(n), list)), []
        )
        return len(listed) or None

    @property
    def heads(self) -> int:
        """Attention heads; 0 for a model without attention."""
        return self.count("num_attention_heads", 0)

    @property
    def kv_heads(self) -> int:
        """Key/value heads: the heads themselves when the config does not say."""
        found = self.text.get("num_key_value_heads")
        if found is None and self.model_type == "falcon":
            if self.flag("new_decoder_architecture"):
                return self.maybe_count("num_key_value_heads", low=1) or self.heads
            return 1 if self.flag("multi_query", True) else self.heads
        return self.maybe_count("num_key_value_heads") or self.heads

    @property
    def head_dim(self) -> int:
        """Width of a head: stated, or hidden_size / heads."""
        if self.text.get("kv_lora_rank"):  # MLA: head_dim in these configs is only the rotary part
            return self.count("qk_nope_head_dim", low=1) + self.count("qk_rope_head_dim", low=1)
        stated = self.text.get("head_dim")
        if stated is None and "head_dim" in self.defaults and self.model_type not in _COMPUTED_HEAD_DIM:
            return self.count("head_dim", low=1)
        stated = self._checked("head_dim", stated or self._alias_head_dim(), 1)
        if stated:
            return stated
        if not self.heads:
            return 0
        return max(1, self.count("hidden_size", low=1) // self.heads)

    def _alias_head_dim(self) -> Any:
        return next((self.text[k] for k in ALIASES["head_dim"] if self.text.get(k)), None)

    @property
    def vocab(self) -> int:
        """Rows of the embedding table as the config says."""
        padded = self.text.get("padded_vocab_size")
        return self._checked("padded_vocab_size", padded, 1) or self.count("vocab_size", low=1)

    @property
    def tied(self) -> bool:
        """Whether lm_head shares the embedding table."""
        if self.raw.get("tie_word_embeddings") is not None and self.nested:
            return bool(self.raw["tie_word_embeddings"])
        return self.flag("tie_word_embeddings")

    @property
    def dtype(self) -> str:
        """The dtype that the checkpoint declares; bfloat16 is assumed when it declares none."""
        for config in (self.text, self.raw):
            found = config.get("torch_dtype") or config.get("dtype")
            if isinstance(found, str) and found not in ("auto",):
                return found.removeprefix("torch.")
        self.assume("dtype=bfloat16: the config declares none")
        return "bfloat16"


_COMPUTED_HEAD_DIM = frozenset(
    {
        "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "phi", "phi3", "granite", "granitemoe", "olmo",
        "olmo2", "olmo3", "olmoe", "cohere", "cohere2", "starcoder2", "stablelm", "smollm3", "falcon",
        "jamba", "bert", "xlm-roberta", "roberta", "gpt2", "gpt_neox", "opt", "granitemoehybrid",
        "granitemoeshared", "phimoe",
        "nemotron", "lfm2", "lfm2_moe", "exaone4", "qwen3_moe", "apertus", "arcee", "ernie4_5_moe",
        "modernbert",
        "hunyuan_v1_moe", "hunyuan_v1_dense", "ministral", "minimax",
    }
)  # fmt: skip
"""Model types whose class computes head_dim as hidden_size / heads when it is absent (Transformers 5.17)."""
