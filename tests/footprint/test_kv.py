"""The cache's layout against boot logs of vLLM and its own rules."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.footprint import ServingSpec, estimate
from profiles.footprint.facts import facts_of, kv_facts
from profiles.footprint.kv import CacheRequest, capacity, layout, token_bytes
from profiles.models import catalogue_model
from profiles.models.schema import KvKind, KvLayer
from tests.footprint.build import GIB, gpu, llama

FULL = KvLayer(kind=KvKind.FULL, kv_heads=8, head_dim=128)
WINDOW = KvLayer(kind=KvKind.SLIDING, kv_heads=8, head_dim=128, window=1024)
MLA = KvLayer(kind=KvKind.MLA, kv_heads=1, kv_lora_rank=512, qk_rope_head_dim=64)
STATE = KvLayer(kind=KvKind.MAMBA, state_elements=500_000, state_bytes_per_element=2)


def asked(version: tuple[int, int] = (0, 19), **more: int | str) -> CacheRequest:
    values = {
        "dtype": "auto", "served_bytes": 2, "block": 16, "tp": 1, "pp": 1, "dcp": 1,
        "batched_tokens": 8192, "max_model_len": 8192, "speculative_tokens": 0, **more,
    }  # fmt: skip
    return CacheRequest(**values, version=version)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "dtype", "tp", "expected"),
    [
        (FULL, "auto", 1, 4096),
        (FULL, "auto", 16, 512),  # heads replicate
        (FULL, "fp8", 1, 2048),
        (FULL, "int8", 1, 2048 + 8 * 8),  # two fp32 scales per token and head
        (FULL, "int8_per_token_head", 1, 2048 + 8 * 8),
        (FULL, "fp8_per_token_head", 1, 2048 + 8 * 8),
        (FULL, "int4_per_token_head", 1, 1024 + 8 * 8),
        (FULL, "nvfp4", 1, 8 * 2 * 72),  # 9/16 of a byte
        (MLA, "auto", 8, 1152),  # not divided
        (MLA, "fp8", 1, 656),
        (MLA, "nvfp4", 1, 352),
    ],
)
def test_bytes_per_token(layer: KvLayer, dtype: str, tp: int, expected: int) -> None:
    assert token_bytes(kv_facts(layer), dtype, 2, tp) == expected


@pytest.mark.parametrize(
    ("model", "tp", "context", "gib", "tokens", "concurrency"),
    [
        ("google/gemma-3-12b-it", 1, 8192, 47.72, 130304, 15.88),
        ("google/gemma-3-4b-it", 1, 8192, 62.51, 468144, 57.05),
        ("google/gemma-2-9b-it", 1, 8192, 54.12, 168880, 20.6),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 4, 8192, 16.75, 365968, 44.68),
        ("meta-llama/Llama-3.1-8B-Instruct", 2, 8192, 63.76, 1044688, 127.53),
    ],
)
def test_what_engines_printed(
    model: str, tp: int, context: int, gib: float, tokens: int, concurrency: float
) -> None:
    cache = layout(facts_of(catalogue_model(model)).kv_layers, asked(tp=tp, max_model_len=context))
    found = capacity(cache, cache.blocks([gib * GIB]), context, by_concurrency=False)
    assert found.tokens == pytest.approx(tokens, rel=0.001)
    assert found.concurrency == pytest.approx(concurrency, rel=0.001)


def test_newer_engines_count_tokens_by_concurrency() -> None:
    layers = tuple(map(kv_facts, (FULL, *[WINDOW] * 5)))
    cache = layout(layers, asked(max_model_len=32768))
    old = capacity(cache, 10_000, 32768, by_concurrency=False)
    new = capacity(cache, 10_000, 32768, by_concurrency=True)
    assert new.tokens == int(new.concurrency * 32768)
    assert new.tokens > old.tokens


def test_groups_are_equal_and_padded() -> None:
    layers = tuple(map(kv_facts, [FULL] * 10 + [WINDOW] * 52))  # Gemma-3-27B: 62 layers padded to 7 x 10
    cache = layout(layers, asked())
    assert len(cache.groups) == 7
    assert cache.padding_layers == 8
    assert cache.block_bytes == (10 * 16 * 4096,)


def test_nearly_equal_buckets_take_the_larger_size() -> None:
    cache = layout(tuple(map(kv_facts, [FULL] * 13 + [WINDOW] * 12)), asked())
    assert [g.layers for g in cache.groups] == [13, 13]


def test_old_engines_keep_windows_in_full() -> None:
    layers = tuple(map(kv_facts, (FULL, *[WINDOW] * 5)))
    assert len(layout(layers, asked((0, 8))).groups) == 1


def test_a_window_holds_no_more_than_itself_and_what_is_in_flight() -> None:
    cache = layout((kv_facts(WINDOW),), asked(batched_tokens=2048))
    assert cache.request_blocks(1_000_000) == -(-(1023 + 2048) // 16) + 1
    assert cache.request_blocks(100) == 8


def test_mamba_takes_pages_and_widens_attention_blocks() -> None:
    layers = tuple(map(kv_facts, (FULL, STATE, STATE, STATE)))
    cache = layout(layers, asked())
    assert cache.block == 16 * -(-1_000_000 // (16 * 4096))
    assert cache.request_blocks(8192) == -(-8192 // cache.block) + 3
    aligned = layout(layers, asked((0, 32)))
    assert aligned.request_blocks(8192) == -(-8192 // cache.block) + 6


def test_decode_context_parallelism_divides_tokens() -> None:
    cache = layout((kv_facts(MLA),) * 4, asked(dcp=4, tp=4))
    assert cache.request_blocks(8192) == 128


def test_pipeline_stages_have_their_own_block_bytes() -> None:
    cache = layout((kv_facts(FULL),) * 6, asked(pp=4))
    assert cache.block_bytes == tuple(n * 16 * 4096 for n in (1, 2, 2, 1))


def test_cpu_blocks_as_the_engine_printed_them() -> None:
    layer = kv_facts(KvLayer(kind=KvKind.FULL, kv_heads=3, head_dim=64))
    cache = layout((layer,) * 30, asked((0, 32), block=128, served_bytes=4, max_model_len=1024))
    found = capacity(cache, cache.blocks([GIB]), 1024, by_concurrency=True)
    assert (found.tokens, found.concurrency) == (23296, 22.75)


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.sampled_from(["full", "mixed", "hybrid"]))
@settings(max_examples=60)
def test_more_tokens_never_take_fewer_blocks(a: int, b: int, kind: str) -> None:
    layers = {"full": [FULL] * 4, "mixed": [FULL, WINDOW, WINDOW], "hybrid": [FULL, STATE, STATE]}[kind]
    cache = layout(tuple(map(kv_facts, layers)), asked())
    low, high = sorted((a, b))
    assert cache.request_blocks(low) <= cache.request_blocks(high)


@given(st.integers(1, 8192), st.integers(1, 8192), st.integers(1, 64), st.floats(0.02, 4))
@settings(max_examples=60, deadline=None)
def test_more_context_never_fits_where_less_does_not(a: int, b: int, concurrency: int, gib: float) -> None:
    low, high = sorted((a, b))
    spec = ServingSpec(concurrency=concurrency, max_num_seqs=64, max_num_batched_tokens=512)
    fits = [
        estimate(llama(), gpu(gib), spec.model_copy(update={"max_model_len": n})).verdict == "fits"
        for n in (low, high)
    ]
    assert fits[0] or not fits[1]


@given(st.integers(0, 1 << 20), st.integers(1, 8))
def test_the_longest_context_is_the_longest(blocks: int, concurrency: int) -> None:
    cache = layout(tuple(map(kv_facts, (FULL, WINDOW, WINDOW))), asked())
    longest = cache.longest(blocks, concurrency, 1 << 17)
    assert longest == 0 or cache.request_blocks(longest) * concurrency <= blocks
    assert longest == 1 << 17 or cache.request_blocks(longest + 1) * concurrency > blocks


def test_a_checkpoint_that_declares_fp8_cache_gets_it() -> None:
    from profiles.models.schema import StoredQuantization

    stored = StoredQuantization(method="compressed-tensors", label="KV cache only", kv_cache_dtype="fp8")
    plain = llama()
    quantized = plain.model_copy(update={"quantization": stored})
    ratio = [estimate(m, gpu(), ServingSpec()).kv_bytes_per_token.value for m in (plain, quantized)]
    assert ratio[0] == 2 * ratio[1]
