"""Weights: sums over tensors, sharding, allocator pages, checkpoints."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.footprint import ServingSpec, estimate, uniform_formats
from profiles.footprint.facts import facts_of, rope_elements
from profiles.footprint.ledger import ledger_of
from profiles.footprint.weights import Sharding, allocated, pipeline_split, stage_bytes
from profiles.formats import MENU, get_format
from profiles.models import catalogue_model
from profiles.models.schema import ModelProfile
from tests.footprint.build import GIB, gpu, llama

MIB = 1 << 20


def rank_total(model: ModelProfile, tp: int = 1, pp: int = 1, **more: bool) -> int:
    """Bytes of the heaviest rank."""
    sharding = Sharding(facts_of(model), tp, 1, more.get("expert_parallel", False))
    return max(r.total for r in stage_bytes(ledger_of(model), sharding, 2, None, pp, cuda=False))


def test_one_rank_holds_every_tensor_and_the_rope_table() -> None:
    model = llama()
    assert rank_total(model) == sum(t.nbytes for t in model.tensors) + 8192 * 64 * 2


def test_float32_doubles_what_is_16_bit() -> None:
    model = llama()
    spec = ServingSpec(dtype="float32", kv_cache_memory_bytes=GIB)
    both = [
        estimate(model, gpu(), s).weights.value for s in (spec, spec.model_copy(update={"dtype": "auto"}))
    ]
    assert both[0] == 2 * both[1]


@given(
    st.dictionaries(st.integers(0, 3), st.sampled_from(sorted(MENU)), max_size=4),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_price_of_a_plan_is_the_sum_over_its_tensors(by_block: dict[int, str], tied: bool) -> None:
    model = llama(tied=tied)
    plan = {m.name: by_block[m.block] for m in model.linears if m.block in by_block}
    expected = 0
    shapes = {f"{m.name}.weight": m for m in model.linears}
    for tensor in model.tensors:
        linear = shapes.get(tensor.name)
        if linear is not None and linear.name in plan:
            fmt = get_format(plan[linear.name])
            expected += fmt.weight_bytes(linear.out_features, linear.in_features)
        else:
            expected += tensor.nbytes
    found = estimate(model, gpu(), ServingSpec(), plan)
    assert found.checkpoint.value == expected
    assert found.weights.value == expected + 8192 * 64 * 2  # every tensor is below the allocator's pages


@given(st.sampled_from(["W4A16_G128", "W8A8", "FP8_DYNAMIC", "NVFP4"]), st.integers(0, 27))
@settings(max_examples=30, deadline=None)
def test_more_bits_never_weigh_less(low: str, index: int) -> None:
    model = llama()
    names = [m.name for m in model.linears if m.block is not None]
    plan = dict.fromkeys(names, low)
    wider = {**plan, names[index % len(names)]: "BF16"}
    assert estimate(model, gpu(), ServingSpec(), wider).weights.value >= (
        estimate(model, gpu(), ServingSpec(), plan).weights.value
    )


@given(
    st.sampled_from([2, 4, 8]),
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
    st.sampled_from([None, "int4", "fp8"]),
)
@settings(max_examples=30, deadline=None)
def test_tensor_parallelism_never_raises_weights_per_rank(
    kv_heads: int, experts: int, expert_parallel: bool, family: str | None
) -> None:
    model = llama(kv_heads=kv_heads, experts=experts if experts > 1 else 0)
    plan = uniform_formats(model, None, family) if family else None
    sizes = []
    for tp in (1, 2, 4, 8):
        spec = ServingSpec(tensor_parallel_size=tp, enable_expert_parallel=expert_parallel)
        sizes.append(estimate(model, gpu(count=8), spec, plan).weights.value)
    assert all(a >= b for a, b in pairwise(sizes))


def test_kv_heads_replicate_beyond_their_number() -> None:
    model = llama(kv_heads=2, heads=8)
    sharding = Sharding(facts_of(model), 8)
    lines = {
        name.rsplit(".", 1)[-1]: line
        for group in ledger_of(model).groups
        for line, name in zip(group.lines, group.names[0], strict=True)
    }
    assert sharding.rank_shape(lines["k_proj"]) == (64, 512, 1)
    assert sharding.rank_shape(lines["q_proj"]) == (64, 512, 1)
    assert sharding.rank_shape(lines["down_proj"]) == (512, 128, 1)


def test_vocabulary_is_padded_to_64_rows() -> None:
    small, padded = llama(vocab=4001, layers=1), llama(vocab=4032, layers=1)
    assert rank_total(small) == rank_total(padded)


def test_expert_parallelism_spreads_whole_experts() -> None:
    model = llama(experts=8)
    sharded, spread = rank_total(model, 4), rank_total(model, 4, expert_parallel=True)
    assert sharded == spread  # eight equal experts divide evenly either way
    assert rank_total(model, 8) < sharded


def test_pipeline_stages_share_the_blocks() -> None:
    assert [len(r) for r in pipeline_split(31, 4)] == [8, 8, 8, 7]
    model = llama(layers=4)
    ranks = stage_bytes(ledger_of(model), Sharding(facts_of(model)), 2, None, 2, cuda=False)
    rope = rope_elements(model) * 2
    assert sum(r.total - rope for r in ranks) == sum(t.nbytes for t in model.tensors)


def test_tied_embeddings_are_held_at_both_ends_of_a_pipeline() -> None:
    model = llama(tied=True)
    ranks = stage_bytes(ledger_of(model), Sharding(facts_of(model)), 2, None, 2, cuda=False)
    rope = rope_elements(model) * 2
    once = sum(t.nbytes for t in model.tensors)
    assert sum(r.total - rope for r in ranks) == once + 4096 * 512 * 2


@pytest.mark.parametrize(
    ("mib", "charged"), [(5, 5), (10, 10), (10.5, 10.5), (11, 12), (12, 12), (259, 260), (31.5, 32)]
)
def test_allocator_pages(mib: float, charged: float) -> None:
    assert allocated(int(mib * MIB)) == int(charged * MIB)


@given(st.integers(1, 1 << 32), st.integers(1, 1 << 24))
def test_allocator_is_monotone(a: int, more: int) -> None:
    assert a <= allocated(a) <= a + MIB
    assert allocated(a + more) >= allocated(a)


@pytest.mark.parametrize(
    ("model", "tp", "gib"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 14.9888),
        ("Qwen/Qwen2.5-7B-Instruct", 1, 14.25),
        ("Qwen/Qwen3-0.6B", 1, 1.1201),
        ("Qwen/Qwen3-32B", 2, 30.59),
        ("google/gemma-3-27b-it", 4, 13.1665),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 4, 53.12),
        ("moonshotai/Kimi-VL-A3B-Instruct", 1, 30.74),
        ("google/gemma-4-26B-A4B", 1, 48.5),
    ],
)
def test_weights_that_engines_reported(model: str, tp: int, gib: float) -> None:
    found = estimate(catalogue_model(model), gpu(count=tp), ServingSpec(tensor_parallel_size=tp))
    assert found.weights.value / GIB == pytest.approx(gib, rel=0.005)


@pytest.mark.parametrize(
    ("model", "version", "capability", "gib"),
    [
        ("openai/gpt-oss-120b", "0.10.0", (9, 0), 65.9651),  # Marlin
        ("openai/gpt-oss-120b", "0.19.0", (9, 0), 64.38),  # Triton
        ("openai/gpt-oss-20b", "0.19.0", (8, 0), 13.72),  # Marlin on Ampere
    ],
)
def test_mxfp4_experts_weigh_what_their_kernel_pads(
    model: str, version: str, capability: tuple[int, int], gib: float
) -> None:
    found = estimate(catalogue_model(model), gpu(capability=capability), ServingSpec(engine_version=version))
    assert found.weights.value / GIB == pytest.approx(gib, rel=0.005)
    assert found.weights.low <= gib * GIB <= found.weights.high


def test_llama2_70b_is_140_70_and_35_gb() -> None:
    model = catalogue_model("meta-llama/Llama-2-70b-hf")
    device = gpu().device
    sizes = [
        estimate(model, gpu(), ServingSpec(), uniform_formats(model, device, f)).checkpoint.value / 1e9
        for f in ("16-bit", "int8", "int4")
    ]
    assert sizes == pytest.approx([140, 70, 35], rel=0.04)


def test_uniform_formats_leave_embeddings_heads_and_routers() -> None:
    model = llama(experts=4)
    plan = uniform_formats(model, gpu().device, "fp8")
    assert set(plan.values()) == {"FP8_DYNAMIC"}
    assert not any(w in name for name in plan for w in ("embed", "lm_head", "mlp.gate"))
    assert any("experts" in name for name in plan)


def test_uniform_int4_takes_the_largest_group_that_divides() -> None:
    model = llama(hidden=192, heads=3, kv_heads=3, intermediate=384)
    plan = uniform_formats(model, None, "int4")
    assert plan["model.layers.0.self_attn.q_proj"] == "W4A16_G64"
    assert plan["model.layers.0.mlp.down_proj"] == "W4A16_G128"


@pytest.mark.parametrize(
    ("model", "elements"),
    [
        ("google/gemma-3-4b-it", 131072 * 256 * 9),  # linear scaling by 8, and the windows' own table
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 262144 * 64),  # a quarter of the head rotates
        ("Qwen/Qwen2.5-VL-7B-Instruct", 4 * 128000 * 128),  # multimodal positions
        ("deepseek-ai/DeepSeek-V3.1", 163840 * 64),
        ("BAAI/bge-base-en-v1.5", 0),
    ],
)
def test_rope_tables(model: str, elements: int) -> None:
    assert rope_elements(catalogue_model(model)) == elements
