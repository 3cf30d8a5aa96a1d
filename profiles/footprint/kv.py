"""The KV cache as the engine lays it out: pages, groups, blocks per request.

Restates `vllm/v1/core/kv_cache_utils.py` and `kv_cache_interface.py` of vLLM 0.32 (grouping by spec into
equal groups with padding, one page size) and `Platform._align_hybrid_block_size` (mamba).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from profiles.footprint.facts import KvFacts
from profiles.footprint.version import ASYNC_IN_FLIGHT, HYBRID_MANAGER, MAMBA_ALIGN, Version
from profiles.models.schema import KvKind

FP8_KINDS = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla"})
SCALED_KINDS = frozenset({"int8", "int8_per_token_head", "fp8_per_token_head"})
"""One byte per element and two fp32 scales per token and head (`triton_attn.py`)."""
MLA_BLOCK_ALIGNMENT = 128
"""Hybrids of MLA and mamba use blocks that are multiples of it (vLLM 0.32)."""


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


class CacheSpec(NamedTuple):
    """What the engine keeps for a layer: two layers with equal specs can share a group."""

    kind: KvKind
    token_bytes: int  # per rank; 0 for mamba
    block: int
    page: int
    window: int = 0


class CacheGroup(NamedTuple):
    """Layers with one block table: the spec, and how many layers each pipeline stage has in it."""

    spec: CacheSpec
    layers: int
    on_stage: tuple[int, ...]


class CacheLayout(NamedTuple):
    """All groups; a block id costs `block_bytes` on each stage."""

    groups: tuple[CacheGroup, ...]
    block_bytes: tuple[int, ...]
    block: int
    in_flight: int
    dcp: int
    mamba_pages: int
    padding_layers: int

    @property
    def uniform(self) -> bool:
        """One group that keeps every token."""
        return len(self.groups) == 1 and self.groups[0].spec.kind in (KvKind.FULL, KvKind.MLA)

    def request_blocks(self, tokens: int) -> int:
        """Blocks of one request of that length, all groups together."""
        if len(self.groups) == 1:
            return self.group_blocks(self.groups[0].spec, tokens)
        return sum(self.group_blocks(group.spec, tokens) for group in self.groups)

    def group_blocks(self, spec: CacheSpec, tokens: int) -> int:
        """Blocks of one request in one group (the spec classes' `max_memory_usage_bytes`)."""
        match spec.kind:
            case KvKind.MAMBA:
                return self.mamba_pages
            case KvKind.SLIDING:
                return _cdiv(min(spec.window - 1 + self.in_flight, tokens), spec.block) + 1
            case KvKind.CHUNKED:
                return _cdiv(min(spec.window + self.in_flight, tokens), spec.block)
        return _cdiv(_cdiv(tokens, self.dcp), spec.block)

    def blocks(self, available: Sequence[float]) -> int:
        """Blocks that the tightest stage can hold in its bytes for the cache."""
        return min(
            (int(max(0.0, have)) // need for have, need in zip(available, self.block_bytes, strict=True)
             if need), default=0
        )  # fmt: skip

    def longest(self, blocks: int, concurrency: int, limit: int) -> int:
        """Most tokens per request that `concurrency` requests can have at once, 0 when none can."""
        if not self.groups:
            return limit
        if self.uniform:
            spec = self.groups[0].spec
            return min(limit, blocks // concurrency * spec.block * self.dcp)
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            if self.request_blocks(middle) * concurrency <= blocks:
                low = middle
            else:
                high = middle - 1
        return low


def token_bytes(layer: KvFacts, dtype: str, served_bytes: int, tp: int) -> int:
    """Bytes per token of one layer on one rank; heads replicate when TP exceeds them.

    Per head: (K + V) x element; the per-token-head kinds add two fp32 scales; NVFP4
    is 4 bits and an FP8 scale per 16. MLA keeps one latent; in FP8 the layout of 512 B latent, 16 B of
    scales and 128 B of 16-bit RoPE (656 B per token, `flashmla_sparse.py`), 352 B in NVFP4.
    """
    if layer.kind is KvKind.MLA:
        latent, rope = layer.kv_lora_rank, layer.qk_rope_head_dim
        if dtype in FP8_KINDS:
            kept = latent + _cdiv(latent, 128) * 4 + rope * 2
        elif dtype == "nvfp4":
            kept = _cdiv(latent * 352, 512)
        elif dtype in SCALED_KINDS:
            kept = latent + rope + 8
        elif dtype == "int4_per_token_head":
            kept = (latent + rope) // 2 + 8
        else:
            kept = (latent + rope) * _element(dtype, served_bytes)
        return kept + layer.indexer_bytes
    heads = max(1, _cdiv(layer.kv_heads, tp))
    key, value = layer.head_dim, layer.v_head_dim or layer.head_dim
    if dtype in FP8_KINDS:
        per_head = key + value
    elif dtype in SCALED_KINDS:
        per_head = key + value + 8
    elif dtype == "int4_per_token_head":
        per_head = key // 2 + value // 2 + 8
    elif dtype == "nvfp4":
        per_head = key // 2 + key // 16 + value // 2 + value // 16
    else:
        per_head = (key + value) * _element(dtype, served_bytes)
    return heads * per_head


def _element(dtype: str, served_bytes: int) -> int:
    return 2 if dtype in ("bfloat16", "float16") else served_bytes


class CacheRequest(NamedTuple):
    """The serving arguments that decide the layout."""

    dtype: str
    served_bytes: int
    block: int
    tp: int
    pp: int
    dcp: int
    batched_tokens: int
    max_model_len: int
    speculative_tokens: int
    version: Version
    prefix_caching: bool | None = None


def layout(layers: Sequence[KvFacts], ask: CacheRequest) -> CacheLayout:
    """The groups, pages and block size that the engine would choose."""
    found: dict[KvFacts, list[int]] = {}
    for layer, stage in zip(layers, _stages(layers, ask.pp), strict=True):
        if layer.kind is not KvKind.NONE:
            found.setdefault(layer, [0] * ask.pp)[stage] += 1
    kept = list(found)
    hybrid = ask.version >= HYBRID_MANAGER
    kinds = {layer.kind for layer in kept}
    widen = not hybrid and KvKind.FULL in kinds and len(kinds) > 1
    in_flight = ask.batched_tokens * (2 if ask.version >= ASYNC_IN_FLIGHT else 1)
    cached = ask.version >= MAMBA_ALIGN if ask.prefix_caching is None else ask.prefix_caching
    pages = (2 if cached and len(kinds) > 1 else 1) + ask.speculative_tokens
    counts: dict[CacheSpec, list[int]] = {}
    for layer, spec in zip(kept, _specs(kept, ask, widen=widen), strict=True):
        held = counts.setdefault(spec, [0] * ask.pp)
        for stage, number in enumerate(found[layer]):
            held[stage] += number
    groups, padding = _groups(counts)
    block_bytes = tuple(_block_bytes(groups, counts, stage) for stage in range(ask.pp))
    block = next((s.block for s in counts if s.kind is not KvKind.MAMBA), ask.block)
    return CacheLayout(groups, block_bytes, block, in_flight, ask.dcp, pages, padding)


def _stages(layers: Sequence[KvFacts], pp: int) -> list[int]:
    if pp == 1:
        return [0] * len(layers)
    from profiles.footprint.weights import pipeline_split

    out: list[int] = []
    for stage, blocks in enumerate(pipeline_split(len(layers), pp)):
        out += [stage] * len(blocks)
    return out


def _specs(kept: Sequence[KvFacts], ask: CacheRequest, *, widen: bool) -> list[CacheSpec]:
    memo: dict[KvFacts, int] = {}

    def per_token(layer: KvFacts) -> int:
        if layer not in memo:
            memo[layer] = token_bytes(layer, ask.dtype, ask.served_bytes, ask.tp)
        return memo[layer]

    attention = [layer for layer in kept if layer.kind is not KvKind.MAMBA]
    states = [
        _cdiv(layer.state_elements, ask.tp) * layer.state_bytes_per_element
        for layer in kept
        if layer.kind is KvKind.MAMBA
    ]
    block = ask.block
    widest = max(map(per_token, attention), default=0)
    if attention and states and widest:
        step = max(block, MLA_BLOCK_ALIGNMENT) if any(a.kind is KvKind.MLA for a in attention) else block
        block = step * max(1, _cdiv(max(states), step * widest))
    page = widest * block
    out: list[CacheSpec] = []
    for layer in kept:
        if layer.kind is KvKind.MAMBA:
            state = _cdiv(layer.state_elements, ask.tp) * layer.state_bytes_per_element
            out.append(CacheSpec(KvKind.MAMBA, 0, ask.max_model_len, max(state, page)))
            continue
        size = per_token(layer)
        kind = KvKind.FULL if widen and layer.kind in (KvKind.SLIDING, KvKind.CHUNKED) else layer.kind
        window = (layer.window or 0) if kind is layer.kind else 0
        out.append(CacheSpec(kind, size, block, size * block, window))
    if len({spec.page for spec in out}) > 1 and len({(s.kind, s.window) for s in out}) > 1:
        page = max(spec.page for spec in out)
        out = [_padded(spec, page) for spec in out]
    return out


def _padded(spec: CacheSpec, page: int) -> CacheSpec:
    """One page size for all: a larger block where it divides, padding where it does not."""
    if spec.page == page or spec.kind is KvKind.MAMBA or page % spec.page:
        return spec._replace(page=page)
    return spec._replace(page=page, block=spec.block * (page // spec.page))


def _groups(counts: dict[CacheSpec, list[int]]) -> tuple[tuple[CacheGroup, ...], int]:
    """Equal groups per spec: the size is the smallest bucket, or the largest when it is under 1.5 x that."""
    if not counts:
        return (), 0
    if len({(s.kind, s.window, s.block) for s in counts}) == 1:  # one kind, perhaps of several widths
        spec = max(counts, key=lambda s: s.page)
        per_stage = tuple(sum(c) for c in zip(*counts.values(), strict=True))
        return (CacheGroup(spec, sum(per_stage), per_stage),), 0
    totals = {spec: sum(stages) for spec, stages in counts.items()}
    size = min(totals.values())
    if max(totals.values()) < size * 1.5:
        size = max(totals.values())
    groups: list[CacheGroup] = []
    padding = 0
    for spec, total in totals.items():
        number = _cdiv(total, size)
        padding += number * size - total
        on_stage = tuple(_cdiv(n, number) for n in counts[spec])
        groups += [CacheGroup(spec, size, on_stage)] * number
    return tuple(groups), padding


def _block_bytes(groups: Sequence[CacheGroup], counts: dict[CacheSpec, list[int]], stage: int) -> int:
    """Bytes of one block id: the widest group's layers, or all layers of a single group."""
    if len(groups) == 1:
        return sum(spec.page * stages[stage] for spec, stages in counts.items())
    return max((group.spec.page * group.on_stage[stage] for group in groups), default=0)


class Capacity(NamedTuple):
    """What the engine prints about its cache."""

    blocks: int
    tokens: int
    concurrency: float


def capacity(cache: CacheLayout, blocks: int, max_model_len: int, *, by_concurrency: bool) -> Capacity:
    """Tokens and concurrency for a number of blocks, counted as that version counts them."""
    if not cache.groups:
        return Capacity(blocks, 0, math.inf)
    concurrency = blocks / cache.request_blocks(max_model_len)
    if by_concurrency or all(g.spec.kind is KvKind.MAMBA for g in cache.groups):
        return Capacity(blocks, int(concurrency * max_model_len), concurrency)
    return Capacity(blocks, blocks // len(cache.groups) * cache.block * cache.dcp, concurrency)
