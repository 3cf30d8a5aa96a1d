"""One rank's memory as plain numbers: shared by `estimate`, the levers and the ranking of thousands."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from profiles.footprint import laws
from profiles.footprint.facts import ModelFacts
from profiles.footprint.kv import CacheLayout, CacheRequest, Capacity, capacity, layout
from profiles.footprint.laws import Batch, Range
from profiles.footprint.ledger import Ledger
from profiles.footprint.runner import forgets_graphs
from profiles.footprint.schema import ServingSpec
from profiles.footprint.serving import DeviceView, kv_dtype, served_bytes
from profiles.footprint.version import (
    GRAPHS_SUBTRACTED,
    NULL_BLOCK,
    TOKENS_BY_CONCURRENCY,
    Version,
)
from profiles.footprint.weights import (
    FormatChoice,
    RankBytes,
    Sharding,
    mxfp4_by_triton,
    pipeline_split,
    stage_bytes,
)


class Extra(NamedTuple):
    """Beside the model: LoRA slots, a drafter's weights, its cache layers, measured residuals."""

    bytes_per_rank: int = 0
    drafter_kv_bytes_per_token: int = 0
    residual_weights: float = 0.0  # relative
    residual_activation: float = 0.0
    residual_non_torch: float = 0.0
    residual_graph: float = 0.0


class Rank(NamedTuple):
    """The boot log's lines on one pipeline stage."""

    weights: int
    read: RankBytes
    activation: Range
    non_torch: Range
    graph: Range
    available: Range  # for the KV cache


class Prediction(NamedTuple):
    """All stages, the cache, and what the tightest stage leaves for it."""

    ranks: tuple[Rank, ...]
    tight: int
    cache: CacheLayout
    budget: float
    blocks: int
    blocks_low: int
    blocks_high: int
    capacity: Capacity
    served_bytes: int
    kv_dtype: str
    graphs_inside: bool
    graphs_forgotten: bool  # by the runner that serves by default: they come on top of the budget


@lru_cache(maxsize=4096)
def _layout(facts: ModelFacts, ask: CacheRequest) -> CacheLayout:
    return layout(facts.kv_layers, ask)


def cache_request(spec: ServingSpec, facts: ModelFacts, version: Version) -> CacheRequest:
    """The layout's arguments out of filled serving arguments."""
    assert spec.block_size is not None
    assert spec.max_num_batched_tokens is not None
    assert spec.max_model_len is not None
    return CacheRequest(
        kv_dtype(spec, facts),
        served_bytes(spec, facts),
        spec.block_size,
        spec.tensor_parallel_size,
        spec.pipeline_parallel_size,
        spec.decode_context_parallel_size,
        spec.max_num_batched_tokens,
        spec.max_model_len,
        spec.num_speculative_tokens,
        version,
        spec.enable_prefix_caching,
    )


def predict(
    facts: ModelFacts,
    ledger: Ledger,
    view: DeviceView,
    spec: ServingSpec,
    version: Version,
    choice: FormatChoice | None = None,
    extra: Extra = Extra(),
    stages: list[RankBytes] | None = None,
) -> Prediction:
    """The memory of every stage under filled serving arguments (`serving.filled`); `stages` are the weights
    when they are known already."""
    assert spec.gpu_memory_utilization is not None
    assert spec.max_num_batched_tokens is not None
    assert spec.max_num_seqs is not None
    assert spec.max_model_len is not None
    width, pp = served_bytes(spec, facts), spec.pipeline_parallel_size
    sharding = Sharding(
        facts,
        spec.tensor_parallel_size,
        spec.data_parallel_size,
        spec.enable_expert_parallel,
        triton=mxfp4_by_triton(view.sm, version),
    )
    if stages is None:
        stages = stage_bytes(ledger, sharding, width, choice, pp, cuda=not view.cpu)
    batch = Batch(
        spec.max_num_batched_tokens,
        spec.max_num_seqs,
        width,
        spec.tensor_parallel_size,
        pp,
        spec.tensor_parallel_size * spec.data_parallel_size,
        spec.enable_expert_parallel,
        version,
        not view.cpu,
    )
    budget = math.ceil(view.total * spec.gpu_memory_utilization)
    inside = version >= GRAPHS_SUBTRACTED
    forgotten = inside and not view.cpu and forgets_graphs(facts, version)
    split = pipeline_split(facts.layers, pp)
    offload = spec.cpu_offload_gb * (1 << 30)
    ranks = []
    for stage, held in enumerate(stages):
        weights = held.total * (1 + extra.residual_weights) + extra.bytes_per_rank
        weights = int(max(0.0, weights - min(offload, held.total)))
        act = laws.activation(facts, batch, first=stage == 0, last=stage == pp - 1)
        act = act.shifted(extra.residual_activation)
        other = laws.non_torch(batch).shifted(extra.residual_non_torch)
        graph = laws.cuda_graphs(facts, batch, len(split[stage]), eager=spec.enforce_eager)
        graph = graph.shifted(extra.residual_graph) if graph.value else graph
        ranks.append(
            Rank(
                weights,
                held,
                act,
                other,
                graph,
                _available(budget, weights, act, other, graph, spec, inside, forgotten=forgotten),
            )
        )
    ask = cache_request(spec, facts, version)
    cache = _layout(facts, ask)
    if extra.drafter_kv_bytes_per_token and cache.block_bytes:
        wider = extra.drafter_kv_bytes_per_token * cache.block
        cache = cache._replace(block_bytes=(*cache.block_bytes[:-1], cache.block_bytes[-1] + wider))
    tight = min(range(pp), key=lambda i: ranks[i].available.value / max(1, cache.block_bytes[i]))
    blocks = cache.blocks([r.available.value for r in ranks])
    found = capacity(cache, blocks, spec.max_model_len, by_concurrency=version >= TOKENS_BY_CONCURRENCY)
    return Prediction(
        tuple(ranks),
        tight,
        cache,
        budget,
        blocks,
        cache.blocks([r.available.low for r in ranks]),
        cache.blocks([r.available.high for r in ranks]),
        found,
        width,
        ask.dtype,
        inside,
        forgotten,
    )


def reweighted(p: Prediction, stages: list[RankBytes], context: int, version: Version) -> Prediction:
    """The same engine with other weights: nothing else depends on the plan."""
    ranks = []
    for rank, held in zip(p.ranks, stages, strict=True):
        gained = rank.weights - held.total
        ranks.append(
            rank._replace(
                weights=held.total,
                read=held,
                available=Range(
                    rank.available.value + gained, rank.available.low + gained, rank.available.high + gained
                ),
            )
        )
    blocks = p.cache.blocks([r.available.value for r in ranks])
    return p._replace(
        ranks=tuple(ranks),
        blocks=blocks,
        blocks_low=p.cache.blocks([r.available.low for r in ranks]),
        blocks_high=p.cache.blocks([r.available.high for r in ranks]),
        capacity=capacity(p.cache, blocks, context, by_concurrency=version >= TOKENS_BY_CONCURRENCY),
    )


def _available(
    budget: float,
    weights: int,
    act: Range,
    other: Range,
    graph: Range,
    spec: ServingSpec,
    inside: bool,
    *,
    forgotten: bool,
) -> Range:
    """What is left for the cache. Where graphs may be forgotten the value is the smaller cache: with the
    other runner, too, as many tokens fit."""
    if spec.kv_cache_memory_bytes is not None:
        return Range(*(float(spec.kv_cache_memory_bytes),) * 3)
    taken = act.plus(other)
    if inside:
        taken = taken.plus(graph._replace(low=0.0) if forgotten else graph)
    left = budget - weights
    return Range(left - taken.value, left - taken.high, left - taken.low)


def usable(blocks: int, version: Version) -> int:
    """Blocks that requests can have: newer engines hold the null block back at the start-up check."""
    return max(0, blocks - 1) if version >= NULL_BLOCK else blocks
