"""The prediction as figures: value, interval, provenance, and the formula with its numbers in it."""

from __future__ import annotations

import math

from profiles.footprint.core import Prediction, usable
from profiles.footprint.facts import ModelFacts
from profiles.footprint.laws import GIB, Range, sampler_bytes
from profiles.footprint.schema import ServingSpec
from profiles.footprint.serving import DeviceView
from profiles.footprint.version import TOKENS_BY_CONCURRENCY, Version
from profiles.models.schema import KvKind
from profiles.provenance import Figure, Provenance

LINE_NAMES = ("weights", "activation", "non_torch", "cuda_graph", "kv_bytes")


def _ranged(r: Range, unit: str, known: Provenance, source: str, formula: str) -> Figure:
    return Figure(
        value=r.value,
        low=min(r.low, r.value),
        high=max(r.high, r.value),
        unit=unit,
        provenance=known,
        source=source,
        formula=formula,
    )


def weights_figure(p: Prediction, facts: ModelFacts, spec: ServingSpec, label: str, corrected: str) -> Figure:
    """Weights of the tightest rank; exact arithmetic unless a residual was applied."""
    rank = p.ranks[p.tight]
    rope = facts.rope_elements * p.served_bytes
    formula = (
        f"tensors of {label} on one rank of TP {spec.tensor_parallel_size} x PP {spec.pipeline_parallel_size}"
    )
    formula += f", {facts.dtype if spec.dtype == 'auto' else spec.dtype} where not quantized"
    if rope:
        formula += f" + RoPE table {facts.rope_elements:,} x {p.served_bytes} B"
    if spec.cpu_offload_gb:
        formula += f" - {spec.cpu_offload_gb} GiB offloaded"
    read = rank.read
    parts = [(read.experts, "routed experts"), (read.unread, "looked-up tables and towers")]
    named = [f"{words} {nbytes / GIB:,.2f}" for nbytes, words in parts if nbytes]
    named.append(f"the rest {(read.total - read.experts - read.unread) / GIB:,.2f} GiB")
    formula += f" ({' + '.join(named)}) = {rank.weights:,} B, allocator pages included"
    if corrected:
        return Figure.estimated(
            rank.weights, rank.weights * 0.99, rank.weights * 1.01, "B", corrected, formula
        )
    if facts.stored_method == "mxfp4":
        return Figure.estimated(
            rank.weights, rank.weights * 0.97, rank.weights * 1.03, "B",
            "tensor shapes padded as the expert kernel does (gpt-oss-120b: Triton 64.38, Marlin 65.97 GiB)",
            formula,
        )  # fmt: skip
    return Figure.exact(rank.weights, "B", "tensor shapes and dtypes", formula)


def activation_figure(
    p: Prediction,
    facts: ModelFacts,
    view: DeviceView,
    spec: ServingSpec,
    version: Version,
    known: Provenance,
    source: str,
) -> Figure:
    """The transient peak, with the law's numbers."""
    b = p.served_bytes
    per_entry = sampler_bytes(facts, version, cuda=not view.cpu) + b
    formula = (
        f"max(sampler: {spec.max_num_batched_tokens} x {facts.hidden} x {b} + {spec.max_num_seqs} x "
        f"{facts.vocab} x {per_entry:.1f}; MLP: {spec.max_num_batched_tokens} x (3 x {facts.intermediate} / "
        f"{spec.tensor_parallel_size} + 3.2 x {facts.hidden}) x {b}) + 0.065 GiB"
    )
    if facts.experts:
        formula += (
            f" + MoE {spec.max_num_batched_tokens} x {facts.experts_per_token} x (3 x {facts.expert_width} "
            f"/ ranks + {facts.hidden}) x {b}"
        )
    if facts.multimodal:
        formula += " + encoder cache and residual"
    return _ranged(p.ranks[p.tight].activation, "B", known, source, formula)


def overhead_figures(
    p: Prediction, facts: ModelFacts, spec: ServingSpec, known: Provenance, source: str
) -> tuple[Figure, Figure]:
    """Non-torch memory and CUDA graphs."""
    rank = p.ranks[p.tight]
    other = _ranged(
        rank.non_torch, "B", known, source,
        f"{rank.non_torch.value / GIB:.2f} GiB at TP {spec.tensor_parallel_size}, "
        f"PP {spec.pipeline_parallel_size}",
    )  # fmt: skip
    if not rank.graph.value:
        words = "no CUDA graphs: eager mode or no GPU"
        return other, Figure.exact(0, "B", words, words)
    inside = "subtracted from the KV cache" if p.graphs_inside else "on top of the budget in this version"
    if p.graphs_forgotten:
        inside = "on top of the budget with this version's second model runner, else subtracted"
    graph = _ranged(
        rank.graph, "B", Provenance.ESTIMATED, source,
        f"0.3 + 0.0165 x {facts.layers} layers / PP" + (" + 0.3 (MoE)" if facts.experts else "")
        + f" GiB, {inside}",
    )  # fmt: skip
    return other, graph


def kv_figure(p: Prediction, view: DeviceView, spec: ServingSpec, known: Provenance, source: str) -> Figure:
    """Memory that is left for the cache on the tightest rank, never below zero."""
    rank = p.ranks[p.tight]
    if spec.kv_cache_memory_bytes is not None:
        words = "kv_cache_memory_bytes / VLLM_CPU_KVCACHE_SPACE" if view.cpu else "kv_cache_memory_bytes"
        return Figure.exact(
            spec.kv_cache_memory_bytes, "B", words, f"{spec.kv_cache_memory_bytes:,} B as asked for"
        )
    r = Range(*(max(0.0, x) for x in rank.available))
    terms = [p.budget, rank.weights, rank.activation.value, rank.non_torch.value]
    names = "budget - weights - activation - non-torch"
    if p.graphs_inside and rank.graph.value:
        terms.append(rank.graph.value)
        names += " - CUDA graphs"
    numbers = " - ".join(f"{x / GIB:,.2f}" for x in terms)
    return _ranged(r, "B", known, source, f"{names} = {numbers} = {rank.available.value / GIB:,.2f} GiB")


def per_token_figure(p: Prediction, spec: ServingSpec) -> Figure:
    """Bytes of cache per token of one request at max_model_len, on the tightest rank."""
    assert spec.max_model_len is not None
    cache, source = p.cache, "cache layout (vLLM 0.32 kv_cache_utils)"
    if not cache.groups:
        return Figure.exact(0, "B", "no cache: nothing is kept per token", "0")
    block_bytes = cache.block_bytes[p.tight]
    if cache.uniform:
        value = block_bytes / (cache.block * cache.dcp)
        words = f"{block_bytes:,} B per block / {cache.block * cache.dcp} tokens, KV dtype {p.kv_dtype}"
        return Figure.exact(value, "B", source, words)
    blocks = cache.request_blocks(spec.max_model_len)
    value = blocks * block_bytes / spec.max_model_len
    kinds = ", ".join(
        f"{sum(1 for g in cache.groups if g.spec.kind is k)} {k.value}"
        for k in KvKind
        if any(g.spec.kind is k for g in cache.groups)
    )
    words = (
        f"{blocks:,} blocks x {block_bytes:,} B / {spec.max_model_len:,} tokens; groups: {kinds} of "
        f"{max(g.layers for g in cache.groups)} layers, {cache.padding_layers} padding layers, "
        f"block {cache.block}"
    )
    return Figure.exact(value, "B", source, words)


def capacity_figures(
    p: Prediction, facts: ModelFacts, spec: ServingSpec, version: Version, known: Provenance, source: str
) -> tuple[Figure, Figure, Figure]:
    """KV tokens and concurrency as the engine prints them, longest context at the concurrency asked."""
    from profiles.footprint.kv import capacity

    assert spec.max_model_len is not None
    context = spec.max_model_len
    limit = facts.max_positions or max(context, 1 << 20)
    if not p.cache.groups:
        endless = Figure(
            value=math.inf,
            low=math.inf,
            high=math.inf,
            unit="",
            provenance=Provenance.EXACT,
            source="no cache",
            formula="nothing is kept per request: any number fits",
        )
        tokens = Figure.exact(0, "tokens", "no cache", "0")
        longest_known = Figure.exact(limit, "tokens", "the model's positions", f"{limit:,} positions")
        return tokens, endless, longest_known
    newer = version >= TOKENS_BY_CONCURRENCY
    ends = [
        capacity(p.cache, b, context, by_concurrency=newer) for b in (p.blocks_low, p.blocks, p.blocks_high)
    ]
    need = p.cache.request_blocks(context)
    if spec.kv_cache_memory_bytes is not None:
        known, source = Provenance.EXACT, "cache layout and the memory asked for"
    words = (
        f"int({p.blocks:,} blocks / {need:,} per request x {context:,})"
        if newer
        else f"{p.blocks:,} blocks // {len(p.cache.groups)} groups x {p.cache.block * p.cache.dcp}"
    )
    tokens = _ranged(
        Range(*(float(e.tokens) for e in (ends[1], ends[0], ends[2]))), "tokens", known, source, words
    )
    concurrency = _ranged(
        Range(ends[1].concurrency, ends[0].concurrency, ends[2].concurrency), "x", known, source,
        f"{p.blocks:,} blocks / {need:,} blocks per request of {context:,} tokens",
    )  # fmt: skip
    longest = [
        float(p.cache.longest(usable(b, version), spec.concurrency, limit))
        for b in (p.blocks, p.blocks_low, p.blocks_high)
    ]
    context_figure = _ranged(
        Range(*longest), "tokens", known, source,
        f"longest length of which {spec.concurrency} requests fit in {p.blocks:,} blocks, at most {limit:,}",
    )  # fmt: skip
    return tokens, concurrency, context_figure
