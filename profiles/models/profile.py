"""From a checked config and a list of tensors to a `ModelProfile`, wherever both come from."""

from __future__ import annotations

from collections.abc import Sequence

from profiles.errors import UsageError, nearest
from profiles.models.architectures import ENGINE_VERSION, Architecture, architecture_table, find_architecture
from profiles.models.config import Config
from profiles.models.kv import kv_layers
from profiles.models.linears import linears_of
from profiles.models.schema import (
    KvKind,
    LinearInfo,
    ModelProfile,
    MoeFacts,
    StoredQuantization,
    TensorInfo,
)
from profiles.models.synthesise import synthesise

DECODERS = ("model.layers.", "model.language_model.layers.")
"""Where the decoder blocks of models with multi-token-prediction layers sit."""

MTP_LAYERS = 16
"""Blocks numbered beyond the last decoder layer are multi-token prediction (DeepSeek-V3, GLM-4.5: one)."""


def require_architecture(config: Config, *, trust_remote_code: bool) -> Architecture:
    """The engine's entry; remote code is refused unless asked for, missing names always."""
    if not config.architecture:
        raise UsageError(
            "config.json names no architecture",
            where=config.where,
            allowed='"architectures": ["LlamaForCausalLM"] or another that vLLM serves',
        )
    architecture = find_architecture(config.architecture)
    if config.raw.get("auto_map") and not architecture.known and not trust_remote_code:
        raise UsageError(
            "this model needs code from its own repository",
            where=config.where,
            got=f"architecture {config.architecture}, which vLLM {ENGINE_VERSION} does not have itself",
            next_step="if you trust the repository, ask again with trust_remote_code",
        )
    if config.raw.get("auto_map") and not architecture.known:
        config.assume(
            f"architecture {config.architecture} runs remote code: fusions and cache taken as Llama's"
        )
    return architecture


def build_profile(
    config: Config,
    tensors: Sequence[TensorInfo],
    architecture: Architecture,
    *,
    model_id: str,
    source: str,
    path: str | None = None,
    revision: str | None = None,
    quantization: StoredQuantization | None = None,
    license_name: str | None = None,
    tags: tuple[str, ...] = (),
    assumptions: Sequence[str] = (),
    logical: Sequence[TensorInfo] | None = None,
) -> ModelProfile:
    """The profile; tensors that the engine does not load (MTP layers, a tied lm_head) are left out.

    `logical` has the shapes of the weights where the stored tensors hide them (GGUF).
    """
    kept = resident(config, tensors)
    hidden = config.count("hidden_size", low=1)
    readable, known = kept, quantization
    if quantization is not None and quantization.method == "bitsandbytes":
        readable, known = _unpacked(config), None  # its files keep no shapes: flat bytes only
    if logical is not None:
        readable, known = resident(config, logical), None
    linears = linears_of(readable, architecture, quantization=known, hidden_size=hidden)
    if not architecture.known:
        _check_unknown(config, linears)
    layers = kv_layers(config, architecture)
    if not config.heads and any(layer.kind not in (KvKind.NONE, KvKind.MAMBA) for layer in layers):
        raise config.bad("num_attention_heads", config.heads, "1 or more: the model has attention layers")
    return ModelProfile(
        model_id=model_id,
        source=source,
        path=path,
        revision=revision,
        architecture=architecture.name,
        model_type=config.model_type,
        num_layers=config.num_layers,
        hidden_size=hidden,
        intermediate_size=config.maybe_count("intermediate_size"),
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab,
        max_position_embeddings=context_length(config),
        tie_word_embeddings=config.tied,
        torch_dtype=config.dtype,
        moe=moe_facts(config, linears),
        is_multimodal=architecture.multimodal
        or "vision_config" in config.raw
        or "audio_config" in config.raw,
        license=license_name,
        tags=tags,
        kv_layers=layers,
        quantization=quantization,
    ).model_copy(  # long lists were built checked above: no second validation
        update={
            "tensors": tuple(kept),
            "linears": linears,
            "assumptions": (*assumptions, *config.assumptions),
        }
    )


def resident(config: Config, tensors: Sequence[TensorInfo]) -> list[TensorInfo]:
    """Tensors that stay in memory: no MTP layers, tied embeddings once, no saved rotary tables."""
    count = config.num_layers
    beyond = range(count, count + MTP_LAYERS)
    extra = ("mtp.", "model.mtp", *(f"{root}{i}." for root in DECODERS for i in beyond))
    spare_head = config.tied and any(t.name.endswith("embed_tokens.weight") for t in tensors)
    kept: list[TensorInfo] = []
    mtp = 0
    for tensor in tensors:
        name = tensor.name
        if name.startswith(extra):
            mtp += 1
        elif spare_head and name in ("lm_head.weight", "language_model.lm_head.weight"):
            config.assume("lm_head.weight is stored although tied to the embeddings: counted once")
        elif not name.endswith("rotary_emb.inv_freq"):
            kept.append(tensor)
    if mtp:
        config.assume(
            f"{mtp} tensors of multi-token-prediction layers are not counted: loaded only to speculate"
        )
    return kept


def _unpacked(config: Config) -> list[TensorInfo]:
    """The tensors before bitsandbytes flattened them, from the config."""
    raw = {k: v for k, v in config.raw.items() if k != "quantization_config"}
    config.assume("shapes of bitsandbytes weights taken from the config: the files hold flat bytes")
    return list(synthesise(Config(raw, config.where)))


def _check_unknown(config: Config, linears: Sequence[LinearInfo]) -> None:
    """An architecture outside the table passes only if its modules look like Llama's, and says so."""
    roles = {item.role for item in linears if item.block is not None}
    if not {"qkv", "o"} <= roles or not roles & {"down", "expert_down"}:
        raise UsageError(
            "unknown architecture",
            where=config.where,
            got=config.architecture,
            allowed=nearest(config.architecture, architecture_table()),
            next_step=f"only architectures that vLLM {ENGINE_VERSION} serves can be planned",
        )
    config.assume(
        f"architecture {config.architecture} is not in vLLM {ENGINE_VERSION}'s registry: "
        "fusions taken from Llama because its modules have the same names"
    )


def context_length(config: Config) -> int:
    """Longest context that the config declares (YaRN and friends included where Transformers does)."""
    length = config.count("max_position_embeddings", 0, low=0)
    if not length:
        config.assume("max_position_embeddings=0: the config names no longest context")
    scaling = config.text.get("rope_scaling") or config.text.get("rope_parameters")
    if isinstance(scaling, dict):
        kind = scaling.get("rope_type", scaling.get("type"))
        factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
        if (
            kind == "yarn"
            and isinstance(original, int)
            and isinstance(factor, int | float)
            and not isinstance(factor, bool)
            and 0 < factor < 1e9
            and 0 < original < 1 << 31
        ):
            # Seldom written differently from max_position_embeddings; vLLM takes original x factor.
            return max(length, min(int(original * factor), (1 << 31) - 1))
    return length


def moe_facts(config: Config, linears: Sequence[LinearInfo]) -> MoeFacts | None:
    """Routed experts as config and tensors have them; None for a dense model."""
    experts = [item for item in linears if item.role.startswith("expert")]
    if not experts:
        return None
    count = max(item.copies for item in experts)
    down = next((item for item in experts if item.role == "expert_down"), experts[0])
    per_token = config.maybe_count("num_experts_per_tok", low=1)
    if per_token is None:
        config.assume("num_experts_per_tok=1: the config does not say")
    blocks = {item.block for item in experts}
    return MoeFacts(
        num_experts=count,
        experts_per_token=min(per_token or 1, count),
        moe_intermediate_size=down.in_features,
        shared_experts=_shared(config, linears),
        moe_layers=len(blocks),
    )


def _shared(config: Config, linears: Sequence[LinearInfo]) -> int:
    if not any(item.role.startswith("shared") for item in linears):
        return 0
    return config.maybe_count("n_shared_experts") or 1
