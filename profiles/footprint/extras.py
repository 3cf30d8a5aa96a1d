"""What is held beside the model: LoRA slots and a speculative drafter."""

from __future__ import annotations

from pathlib import Path

from profiles.errors import AdvisorError
from profiles.footprint.core import Extra
from profiles.footprint.facts import ModelFacts, facts_of
from profiles.footprint.kv import token_bytes
from profiles.footprint.ledger import QUANTIZABLE_ROLES, Ledger, ledger_of
from profiles.footprint.schema import ServingSpec
from profiles.footprint.serving import kv_dtype, served_bytes
from profiles.footprint.weights import Sharding, group_bytes, stage_bytes
from profiles.models.schema import KvKind

WITHOUT_WEIGHTS = frozenset({"ngram", "[ngram]", "suffix", "mtp", "prompt_lookup"})
"""Speculation methods that load no second model (`mtp` loads layers of the model itself)."""


def lora_bytes(ledger: Ledger, sharding: Sharding, spec: ServingSpec, width: int) -> int:
    """Stacked A and B buffers of every slot for every linear (vLLM 0.32 `lora/layers`)."""
    if not spec.max_loras:
        return 0
    total = 0
    for group in ledger.groups:
        for line in group.lines:
            if line.role not in QUANTIZABLE_ROLES or line.role.startswith("expert"):
                continue
            rows, columns, _ = sharding.rank_shape(line)
            total += (rows + columns) * spec.max_lora_rank * width * len(group.blocks)
    return total * spec.max_loras


def extras(facts: ModelFacts, ledger: Ledger, spec: ServingSpec, *, cuda: bool) -> tuple[Extra, list[str]]:
    """Bytes beside the model, and notes on what could not be counted."""
    notes: list[str] = []
    width = served_bytes(spec, facts)
    held = lora_bytes(ledger, Sharding(facts, spec.tensor_parallel_size), spec, width)
    if held:
        notes.append(
            f"{spec.max_loras} LoRA slots of rank {spec.max_lora_rank}: {held / 2**30:.2f} GiB per rank"
        )
        if facts.experts:
            notes.append("LoRA on experts is not counted")
    per_token = 0
    name = spec.speculative_model
    if name and name.lower() not in WITHOUT_WEIGHTS:
        drafter, per_token, words = _drafter(name, spec, width, cuda=cuda)
        held += drafter
        notes.append(words)
    elif name and name.lower() == "mtp":
        layer, per_token = _own_predictor(facts, ledger, spec, width, cuda=cuda)
        held += layer
        notes.append(
            f"multi-token prediction taken as one more decoder layer and a projection of 2 x {facts.hidden}: "
            f"{layer / 2**30:.2f} GiB, {per_token:,} B of KV per token (estimated)"
        )
    return Extra(bytes_per_rank=held, drafter_kv_bytes_per_token=per_token), notes


def _own_predictor(
    facts: ModelFacts, ledger: Ledger, spec: ServingSpec, width: int, *, cuda: bool
) -> tuple[int, int]:
    """Bytes and KV bytes per token of the model's own MTP module: its last decoder layer again, and the
    projection of hidden state and embedding (DeepSeek-V3's `eh_proj`; Qwen3-Next and GLM-4.5 alike)."""
    sharding = Sharding(
        facts, spec.tensor_parallel_size, spec.data_parallel_size, spec.enable_expert_parallel
    )
    held = 2 * facts.hidden * facts.hidden * width
    for group in ledger.groups:
        if facts.layers - 1 in group.blocks:
            stored = (None,) * len(group.lines)
            held += group_bytes(group, stored, sharding, width, cuda=cuda) // len(group.blocks)
    dtype = kv_dtype(spec, facts)
    widest = max(
        (
            token_bytes(layer, dtype, width, spec.tensor_parallel_size)
            for layer in facts.kv_layers
            if layer.kind not in (KvKind.NONE, KvKind.MAMBA)
        ),
        default=0,
    )
    return held, widest


def _drafter(name: str, spec: ServingSpec, width: int, *, cuda: bool) -> tuple[int, int, str]:
    from profiles.models import catalogue_model, find_model, read_model

    try:
        profile = read_model(name) if Path(name).is_dir() else catalogue_model(find_model(name).id)
    except (AdvisorError, OSError, ValueError):
        return (
            0,
            0,
            f"the drafter {name[:80]} is neither a folder nor in the catalogue: "
            "its weights and KV cache are NOT counted",
        )
    facts = facts_of(profile)
    sharding = Sharding(facts, spec.tensor_parallel_size)
    held = stage_bytes(ledger_of(profile), sharding, width, cuda=cuda)[0].total
    dtype = kv_dtype(spec, facts)
    per_token = sum(
        token_bytes(layer, dtype, width, spec.tensor_parallel_size)
        for layer in facts.kv_layers
        if layer.kind not in (KvKind.NONE, KvKind.MAMBA)
    )
    return (
        held,
        per_token,
        f"drafter {profile.model_id}: {held / 2**30:.2f} GiB, {per_token:,} B of KV per token",
    )
