"""Uniform plans, what they cost where they fall back, and the parts that a deployment adds."""

from __future__ import annotations

import pytest

from profiles.footprint import ServingSpec, Verdict, estimate, explain
from profiles.footprint.explain import LINES
from profiles.footprint.plans import uniform_plans
from profiles.formats import MENU
from profiles.formats.kernels import kernel_support
from profiles.models import catalogue_model
from tests.footprint.build import GIB, cpu, gpu, llama

MODEL = "Qwen/Qwen3-8B"


def test_every_family_is_a_plan_or_says_why_not() -> None:
    plans, refused = uniform_plans(catalogue_model(MODEL), gpu(capability=(12, 0)).device)
    assert [p.family for p in plans] == ["16-bit", "fp8", "w8a16", "int4", "fp4", "mxfp4"]
    assert [r.family for r in refused] == ["int8"]
    assert "Blackwell" in refused[0].reason
    how = {p.family: p.runs for p in plans}
    assert (how["fp4"], how["fp8"], how["int4"]) == ("native", "native", "weight-only")
    on_cpu, _ = uniform_plans(catalogue_model(MODEL), cpu().device)
    assert {p.family: p.runs for p in on_cpu}["fp8"] == "slow"


def test_a_quantized_checkpoint_is_served_as_it_is() -> None:
    plans, refused = uniform_plans(catalogue_model("deepseek-ai/DeepSeek-V3"), gpu().device)
    assert [p.label for p in plans] == ["as stored: FP8 block 128x128"]
    assert "original" in refused[0].reason


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_what_falls_back_says_what_it_costs(capability: tuple[int, int]) -> None:
    device = gpu(capability=capability).device
    for fmt in MENU.values():
        found = kernel_support(fmt, device)
        if found.runs and not found.native:
            assert found.cost, fmt.name
        if not found.runs:
            assert not found.cost
            assert found.reason


def test_another_format_is_the_last_lever() -> None:
    found = estimate(catalogue_model(MODEL), gpu(16.0, name="RTX"), ServingSpec(max_model_len=4096))
    assert found.verdict is not Verdict.FITS
    changes = [lever.change for lever in found.levers]
    assert changes[-3:] == ["weights in FP8", "weights in INT8", "weights in INT4"]
    frees = {lever.change: lever.frees_bytes.value for lever in found.levers}
    assert frees["weights in INT4"] > frees["weights in FP8"] > 5 * GIB
    assert found.levers[-1].enough


def test_no_room_is_never_a_negative_context() -> None:
    found = estimate(catalogue_model("deepseek-ai/DeepSeek-V3"), gpu(), ServingSpec())
    assert found.verdict is Verdict.DOES_NOT_FIT
    assert found.longest_context.value == 0


def test_offloaded_weights_free_the_device_and_cost_time() -> None:
    model = catalogue_model(MODEL)
    here = estimate(model, gpu(24, name="RTX"), ServingSpec(max_model_len=4096))
    away = estimate(model, gpu(24, name="RTX"), ServingSpec(max_model_len=4096, cpu_offload_gb=4))
    assert here.weights.value - away.weights.value == pytest.approx(4 * GIB)
    assert away.kv_bytes.value - here.kv_bytes.value == pytest.approx(4 * GIB)
    assert here.itl_ms is not None
    assert away.itl_ms is not None
    assert away.itl_ms.low > here.itl_ms.value  # a link is far slower than the device's own memory
    assert any("host memory" in note for note in away.notes)


def test_a_drafter_costs_weights_and_cache() -> None:
    model = catalogue_model(MODEL)
    alone = estimate(model, gpu(), ServingSpec(max_model_len=4096))
    spec = {"speculative_model": "Qwen/Qwen3-0.6B", "num_speculative_tokens": 4, "max_model_len": 4096}
    both = estimate(model, gpu(), ServingSpec.model_validate(spec))
    assert both.weights.value - alone.weights.value == pytest.approx(1.12 * GIB, rel=0.02)
    assert both.kv_bytes_per_token.value - alone.kv_bytes_per_token.value == 2 * 28 * 8 * 128 * 2
    unknown = estimate(model, gpu(), ServingSpec(speculative_model="nobody/eagle", num_speculative_tokens=2))
    assert any("NOT counted" in note for note in unknown.notes)


def test_multi_token_prediction_is_one_more_layer() -> None:
    model = catalogue_model("zai-org/GLM-4.5-Air")
    spec = ServingSpec(max_model_len=4096, tensor_parallel_size=4)
    alone = estimate(model, gpu(count=4), spec)
    drafted = spec.model_copy(update={"speculative_model": "mtp", "num_speculative_tokens": 1})
    both = estimate(model, gpu(count=4), drafted)
    layer = alone.weights.value / model.num_layers
    assert 0.8 * layer < both.weights.value - alone.weights.value < 1.6 * layer
    assert any("multi-token" in note for note in both.notes)


def test_lora_slots_grow_with_number_and_rank() -> None:
    def held(**changes: int) -> float:
        spec = ServingSpec.model_validate({"max_model_len": 4096, **changes})
        return estimate(catalogue_model(MODEL), gpu(), spec).weights.value

    none, one, four = held(), held(max_loras=1), held(max_loras=4)
    assert none < one < four
    assert held(max_loras=1, max_lora_rank=64) - none == pytest.approx(4 * (one - none), rel=0.01)


def test_mla_keeps_its_up_projections_twice() -> None:
    model = catalogue_model("deepseek-ai/DeepSeek-V2-Lite-Chat")
    once = sum(i.numel for i in model.linears) * 2
    found = estimate(model, gpu(), ServingSpec(max_model_len=4096))
    copies = 27 * 16 * (128 + 128) * 512 * 2
    tables = 163840 * 64 * 2
    assert copies <= found.weights.value - once - tables < 1.3 * copies  # norms and allocator pages besides


def test_decode_context_parallelism_divides_a_latent_cache() -> None:
    model = catalogue_model("deepseek-ai/DeepSeek-V3")
    spec = ServingSpec(tensor_parallel_size=8, max_model_len=8192)
    machine = gpu(141, count=8, name="H200")
    alone = estimate(model, machine, spec)
    shared = estimate(model, machine, spec.model_copy(update={"decode_context_parallel_size": 8}))
    assert shared.kv_bytes_per_token.value == pytest.approx(alone.kv_bytes_per_token.value / 8)


def test_the_indexer_of_sparse_attention_has_a_cache_of_its_own() -> None:
    dense = estimate(catalogue_model("deepseek-ai/DeepSeek-V3"), gpu(), ServingSpec())
    sparse = estimate(catalogue_model("deepseek-ai/DeepSeek-V3.2"), gpu(), ServingSpec())
    assert sparse.kv_bytes_per_token.value - dense.kv_bytes_per_token.value == 61 * (128 + 4)


def test_laws_are_calibrated_on_their_device_and_version_alone() -> None:
    spec = ServingSpec(engine_version="0.19.0")
    assert estimate(llama(), gpu(name="NVIDIA H100 80GB HBM3"), spec).activation.provenance == "calibrated"
    other = estimate(llama(), gpu(name="NVIDIA A100"), spec).activation
    assert other.provenance == "estimated"
    assert "carried to NVIDIA A100" in other.source


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (MODEL, {}),
        ("Qwen/Qwen3-30B-A3B", {"tensor_parallel_size": 2, "enable_expert_parallel": True}),
        ("google/gemma-3-12b-it", {"enforce_eager": True}),
        ("ibm-granite/granite-4.0-h-tiny", {"kv_cache_memory_bytes": 1 << 30}),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", {"pipeline_parallel_size": 2, "cpu_offload_gb": 1}),
        ("BAAI/bge-m3", {}),
        ("openai/gpt-oss-20b", {"kv_cache_dtype": "fp8"}),
    ],
)
def test_every_line_has_a_formula_with_numbers_and_a_source(model: str, spec: dict[str, object]) -> None:
    found = estimate(catalogue_model(model), gpu(count=2), ServingSpec.model_validate(spec))
    text = explain(found)
    for field, title in LINES:
        figure = getattr(found, field)
        if figure is not None:
            assert figure.source, field
            assert figure.formula, field
            assert title in text
            assert any(c.isdigit() for c in figure.formula) or figure.value in (0, float("inf")), field
