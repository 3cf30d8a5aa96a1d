"""What every layer keeps per request, from the config alone."""

from __future__ import annotations

from profiles.models.architectures import Architecture
from profiles.models.config import Config
from profiles.models.layers import layer_kinds, shared_indexers, window_tokens
from profiles.models.schema import KvKind, KvLayer

NO_LATENT_CACHE = frozenset({"minicpm3"})
"""Models with MLA weights whose cache holds whole heads all the same (vLLM 0.32, `is_deepseek_mla`)."""

SSM_FLOAT32 = frozenset({"nemotron_h"})
"""Model types whose SSM state is float32 unless configured (vLLM 0.32, `DEFAULT_MAMBA_SSM_CACHE_DTYPE`)."""


def kv_layers(config: Config, architecture: Architecture) -> tuple[KvLayer, ...]:
    """One entry per decoder layer; a layer with attention *and* mamba (Falcon-H1) has two."""
    if architecture.encoder:
        return (KvLayer(kind=KvKind.NONE),) * config.num_layers
    kinds = layer_kinds(config)
    by_kind = {kind: _entries(config, kind) for kind in set(kinds)}
    layers = [entry for kind in kinds for entry in by_kind[kind]]
    if without := shared_indexers(config):
        layers = [
            e.model_copy(update={"indexer_bytes": 0}) if i in without else e for i, e in enumerate(layers)
        ]
    shared = config.count("num_kv_shared_layers", 0) if config.model_type.startswith("gemma") else 0
    if shared:
        if shared >= len(layers):
            raise config.bad("num_kv_shared_layers", shared, f"fewer than {len(layers)} layers")
        layers[-shared:] = [KvLayer(kind=KvKind.NONE)] * shared
    return tuple(layers)


def _entries(config: Config, kind: str) -> tuple[KvLayer, ...]:
    if kind in ("mlp", "moe"):
        return (KvLayer(kind=KvKind.NONE),)
    if kind in ("mamba", "linear", "conv"):
        return (_state(config, kind),)
    if kind == "hybrid":
        return (_attention(config, "full"), _state(config, "mamba"))
    return (_attention(config, kind),)


def _attention(config: Config, kind: str) -> KvLayer:
    if uses_latent_cache(config):
        width = config.maybe_count("index_head_dim") or 0
        return KvLayer(
            kind=KvKind.MLA,
            kv_heads=1,
            kv_lora_rank=config.count("kv_lora_rank", low=1),
            qk_rope_head_dim=config.count("qk_rope_head_dim", low=1),
            # FP8 keys and a float32 scale per 128 (vLLM 0.32, `DeepseekV32IndexerCache`)
            indexer_bytes=width + 4 * -(-width // 128),
        )
    heads, width = config.kv_heads, config.head_dim
    value_width = config.maybe_count("v_head_dim")
    if config.model_type == "minicpm3":
        width = config.count("qk_nope_head_dim", low=1) + config.count("qk_rope_head_dim", low=1)
        value_width = None  # padded to the key's width
    if kind == "sliding" and config.model_type.startswith("mimo_v2"):
        heads = config.maybe_count("swa_num_key_value_heads", low=1) or heads
        width = config.maybe_count("swa_head_dim", low=1) or width
        value_width = config.maybe_count("swa_v_head_dim", low=1) or value_width
    if kind == "full" and config.model_type == "gemma4_text":
        width = config.maybe_count("global_head_dim", low=1) or width
        heads = config.maybe_count("num_global_key_value_heads", low=1) or heads
    if heads < 1 or width < 1:
        raise config.bad("num_key_value_heads x head_dim", f"{heads} x {width}", "1 or more each")
    return KvLayer(
        kind={"sliding": KvKind.SLIDING, "chunked": KvKind.CHUNKED}.get(kind, KvKind.FULL),
        kv_heads=heads,
        head_dim=width,
        v_head_dim=value_width if value_width and value_width != width else None,
        window=window_tokens(config, kind) if kind in ("sliding", "chunked") else None,
    )


def uses_latent_cache(config: Config) -> bool:
    """Whether attention layers keep MLA's latent instead of heads."""
    return bool(config.maybe_count("kv_lora_rank")) and config.model_type not in NO_LATENT_CACHE


def _state(config: Config, kind: str) -> KvLayer:
    """State per sequence, in 2-byte elements so that parts of different dtypes add up exactly.

    Shapes restate vLLM 0.32 `MambaStateShapeCalculator` at TP1 without speculative decoding.
    """
    conv, state = {"conv": _short_conv, "linear": _linear, "mamba": _mamba}[kind](config)
    model_bytes = 4 if config.dtype == "float32" else 2
    total = conv * model_bytes + state * _state_bytes(config, kind, model_bytes)
    return KvLayer(kind=KvKind.MAMBA, state_elements=total // 2, state_bytes_per_element=2)


def _state_bytes(config: Config, kind: str, model_bytes: int) -> int:
    declared = config.value("mamba_ssm_cache_dtype") or config.value("mamba_ssm_dtype")
    if config.model_type in ("nemotron_h", "qwen3_5_text", "qwen3_5_moe_text") and isinstance(declared, str):
        return 4 if declared == "float32" else 2
    if config.model_type in SSM_FLOAT32 or "linear_attn_config" in config.text:
        return 4
    if kind == "linear" and "attn_type_list" in config.text:
        return 4  # MiniMax lightning attention keeps float32
    return model_bytes


def _short_conv(config: Config) -> tuple[int, int]:
    width = config.maybe_count("conv_dim", low=1) or config.count("hidden_size", low=1)
    return width * (config.count("conv_L_cache", 3, low=1) - 1), 0


def _linear(config: Config) -> tuple[int, int]:
    kda = config.text.get("linear_attn_config")
    if isinstance(kda, dict):
        heads, width, taps = (kda.get(k) for k in ("num_heads", "head_dim", "short_conv_kernel_size"))
        if not all(type(v) is int and 0 < v < 1 << 20 for v in (heads, width, taps)):
            raise config.bad("linear_attn_config", kda, "num_heads, head_dim and short_conv_kernel_size")
        assert isinstance(heads, int)
        assert isinstance(width, int)
        assert isinstance(taps, int)
        return 3 * heads * width * (taps - 1), heads * width * width
    if "attn_type_list" in config.text:
        return 0, config.heads * config.head_dim**2
    key_heads, key_width, value_heads, value_width = delta_net(config)
    taps = config.count("linear_conv_kernel_dim", low=1)
    conv = (2 * key_heads * key_width + value_heads * value_width) * (taps - 1)
    return conv, value_heads * value_width * key_width


def delta_net(config: Config) -> tuple[int, int, int, int]:
    """Key heads, their width, value heads, their width of gated delta-net layers (Qwen3-Next)."""
    return (
        config.count("linear_num_key_heads", low=1),
        config.count("linear_key_head_dim", low=1),
        config.count("linear_num_value_heads", low=1),
        config.count("linear_value_head_dim", low=1),
    )


class MambaShape:
    """Sizes of a mamba layer under the names of either config family; `heads` is 0 for Mamba-1."""

    def __init__(self, config: Config) -> None:
        hidden = config.count("hidden_size", low=1)
        nemotron = config.model_type == "nemotron_h" or config.maybe_count("mamba_num_heads") is not None
        if nemotron:
            self.heads = config.count("mamba_num_heads", low=1)
            self.head_dim = config.count("mamba_head_dim", low=1)
            self.inner = self.heads * self.head_dim
            self.groups = config.count("n_groups", low=1)
            self.state = config.count("ssm_state_size", low=1)
            self.taps = config.count("conv_kernel", low=1)
        elif config.model_type in ("mamba", "falcon_mamba"):
            self.heads = self.head_dim = self.groups = 0
            self.inner = config.maybe_count("intermediate_size", low=1) or 2 * hidden
            self.state = config.count("state_size", 16, low=1)
            self.taps = config.count("conv_kernel", 4, low=1)
        else:
            self.inner = config.maybe_count("mamba_d_ssm", low=1) or int(
                config.number("mamba_expand", 2) * hidden
            )
            self.state = config.count("mamba_d_state", low=1)
            self.taps = config.count("mamba_d_conv", low=1)
            self.heads = 0 if config.model_type == "jamba" else config.count("mamba_n_heads", low=1)
            self.groups = config.count("mamba_n_groups", 1, low=1) if self.heads else 0
            stated = config.text.get("mamba_d_head")
            self.head_dim = 0
            if self.heads:
                self.head_dim = stated if type(stated) is int and stated > 0 else self.inner // self.heads

    @property
    def conv_dim(self) -> int:
        """Channels of the short convolution."""
        return self.inner + 2 * self.groups * self.state


def _mamba(config: Config) -> tuple[int, int]:
    shape = MambaShape(config)
    conv = shape.conv_dim * (shape.taps - 1)
    return conv, (shape.heads * shape.head_dim if shape.heads else shape.inner) * shape.state
