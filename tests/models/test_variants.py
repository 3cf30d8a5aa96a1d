"""Models under other names: what is concluded from the name, how it weighs, and what is refused."""

from __future__ import annotations

import pytest

from profiles.errors import UsageError
from profiles.footprint import ServingSpec, estimate, uniform_formats
from profiles.models import catalogue_model, find_model
from tests.footprint.build import gpu

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "label", "gib"),
    [
        ("RedHatAI/Qwen2.5-7B-Instruct-quantized.w8a8", "W8A8", 8.14),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "FP8 dynamic", 8.49),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "W4A16 g128", 5.20),
        ("Qwen/Qwen3-8B-FP8", "FP8 block 128x128", 8.80),
    ],
)
def test_weights_that_engines_reported_for_quantized_releases(name: str, label: str, gib: float) -> None:
    model = catalogue_model(name)
    assert model.quantization is not None
    assert model.quantization.label == label
    assert any("as its name says" in text for text in model.assumptions)
    found = estimate(model, gpu(), ServingSpec(engine_version="0.19.0"))
    assert found.weights.value / GIB == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize(
    ("name", "base", "family"),
    [
        ("x/Qwen3-8B-quantized.w4a16", "Qwen/Qwen3-8B", "int4"),
        ("x/Qwen3-30B-A3B-FP8-dynamic", "Qwen/Qwen3-30B-A3B", "fp8"),
        ("x/Qwen3-14B-quantized.w8a8", "Qwen/Qwen3-14B", "int8"),
    ],
)
def test_a_release_weighs_what_the_same_plan_is_priced(name: str, base: str, family: str) -> None:
    release, original = catalogue_model(name), catalogue_model(base)
    plan = uniform_formats(original, gpu().device, family)
    priced = estimate(original, gpu(), ServingSpec(), plan).checkpoint.value
    assert sum(t.nbytes for t in release.tensors) == pytest.approx(priced, rel=1e-4)
    assert sum(i.numel for i in release.linears) == sum(i.numel for i in original.linears)


def test_base_and_tuned_names_lead_to_one_row_and_say_so() -> None:
    model = catalogue_model("google/gemma-7b")
    assert model.model_id == "google/gemma-7b"
    assert any("google/gemma-7b-it" in text for text in model.assumptions)
    assert find_model("google/gemma-7b").id == "google/gemma-7b"


def test_int4_experts_of_kimi_are_packed_and_its_attention_is_not() -> None:
    model = catalogue_model("moonshotai/Kimi-K2.5")
    stored = sum(t.nbytes for t in model.tensors)
    assert 540 * GIB < stored < 570 * GIB  # 595 GB published
    packed = {t.name.rpartition(".")[0] for t in model.tensors if t.name.endswith(".weight_packed")}
    assert packed
    assert all(".experts." in name for name in packed)


@pytest.mark.parametrize(
    "name", ["nobody/nothing", "openai/gpt-oss-20b-AWQ", "Qwen/Qwen3-8", "deepseek-ai/DeepSeek-V3-AWQ", "AWQ"]
)
def test_what_no_layout_is_known_for_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        catalogue_model(name)
    assert caught.value.allowed
