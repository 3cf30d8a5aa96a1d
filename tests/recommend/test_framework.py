"""Every row of the decision framework, one by one and against each other."""

from __future__ import annotations

import pytest

from advisor.recommend import ModelFacts, methods, recommend, reference_table
from profiles.hardware.schema import HardwareProfile
from tests.recommend.machines import (
    A100,
    APPLE,
    B200,
    CPU,
    EIGHT_B,
    FOUR_A40,
    FOURTEEN_B,
    H100,
    L40S,
    RTX_3060,
    RTX_3090,
    RTX_4090,
    RTX_5090,
    SEVENTY_B,
    SMALL,
    TWO_A100,
)

LOW = ("generic", "classification", "qa")
MEDIUM = ("summarization", "translation", "reasoning")
HIGH = ("math", "code", "recall")


@pytest.mark.parametrize("task", HIGH)
@pytest.mark.parametrize("use", [None, "production", "cost-optimized", "personal", "edge"])
@pytest.mark.parametrize("hardware", [None, H100, A100, RTX_4090, CPU])
def test_high_sensitivity_gets_8_bits_rather_than_4(
    task: str, use: str | None, hardware: HardwareProfile | None
) -> None:
    answer = recommend(task, use=use, hardware=hardware, model=EIGHT_B)
    assert answer.best.option.family in ("int8", "fp8")


@pytest.mark.parametrize("task", [*LOW, *MEDIUM])
def test_lower_sensitivity_admits_4_bits(task: str) -> None:
    assert recommend(task, use="cost-optimized", hardware=A100, model=EIGHT_B).best.option.family == "int4"


@pytest.mark.parametrize(
    ("use", "families", "engine"),
    [
        ("quality-critical", {"16-bit", "fp8"}, "vllm"),
        ("production", {"int8", "fp8"}, "vllm"),
        ("cost-optimized", {"int4"}, "vllm"),
        ("personal", {"int4"}, None),
        ("edge", {"int4"}, "llama.cpp"),
    ],
)
@pytest.mark.parametrize("hardware", [None, H100, A100, RTX_4090, CPU])
def test_rows_by_use(
    use: str, families: set[str], engine: str | None, hardware: HardwareProfile | None
) -> None:
    best = recommend("generic", use=use, hardware=hardware, model=EIGHT_B).best.option
    assert best.family in families
    assert engine in (None, best.engine)


def test_cost_is_awq_and_edge_is_q4_k_m() -> None:
    assert recommend("generic", use="cost-optimized").best.option.method == "AWQ"
    assert recommend("generic", use="edge").best.format == "Q4_K_M"


@pytest.mark.parametrize(
    ("hardware", "model", "families", "engine"),
    [
        (TWO_A100, EIGHT_B, {"16-bit", "int8"}, "vllm"),
        (FOUR_A40, EIGHT_B, {"16-bit", "int8"}, "vllm"),
        (L40S, EIGHT_B, {"int8", "fp8"}, "vllm"),
        (H100, EIGHT_B, {"fp8"}, "vllm"),
        (B200, EIGHT_B, {"fp8"}, "vllm"),
        (A100, EIGHT_B, {"int8"}, "vllm"),
        (RTX_4090, FOURTEEN_B, {"int4"}, "vllm"),
        (RTX_3090, FOURTEEN_B, {"int4"}, "vllm"),
        (RTX_3060, EIGHT_B, {"int4"}, "vllm"),
        (RTX_4090, SMALL, {"int4"}, "vllm"),
        (CPU, EIGHT_B, {"int4"}, "llama.cpp"),
        (APPLE, EIGHT_B, {"int4"}, "llama.cpp"),
    ],
)
def test_rows_by_hardware(
    hardware: HardwareProfile, model: ModelFacts, families: set[str], engine: str
) -> None:
    best = recommend("generic", hardware=hardware, model=model).best.option
    assert best.family in families
    assert best.engine == engine


def test_12_gb_also_advises_a_smaller_model() -> None:
    assert any("smaller model" in note for note in recommend("generic", hardware=RTX_3060).notes)


def test_consumer_rtx_gets_awq_or_gptq_first() -> None:
    ids = [c.option.id for c in recommend("generic", hardware=RTX_4090, model=SMALL).choices]
    assert set(ids[:2]) == {"int4-awq", "int4-gptq"}


def test_24_gb_rule_fires_only_for_larger_models() -> None:
    small = recommend("generic", hardware=RTX_4090, model=SMALL)
    large = recommend("generic", hardware=RTX_4090, model=FOURTEEN_B)
    assert "hardware-24gb" not in {r.id for r in small.fired}
    assert "hardware-24gb" in {r.id for r in large.fired}


def test_production_on_an_rtx_3090_is_int8_for_want_of_fp8_arithmetic() -> None:
    answer = recommend("generic", use="production", hardware=RTX_3090, model=EIGHT_B)
    assert answer.best.format == "W8A8"


def test_quality_on_a_cpu_avoids_the_slow_fp8_fallback() -> None:
    answer = recommend("generic", use="quality-critical", hardware=CPU, model=EIGHT_B)
    assert answer.best.format == "BF16"
    fp8 = next(c for c in answer.choices if c.option.id == "fp8")
    assert any(r.rule == "kernel-slow" and r.stance == "against" for r in fp8.reasons)


def test_reference_table_is_llama_2_70b() -> None:
    rows = [
        (r.name, r.perplexity.value, r.relative_latency.value, r.weights_gb.value) for r in reference_table()
    ]
    assert rows == [
        ("FP16", 3.12, 1.0, 140),
        ("INT8", 3.14, 0.6, 70),
        ("FP8", 3.13, 0.5, 70),
        ("INT4 AWQ", 3.18, 0.4, 35),
        ("INT4 GPTQ", 3.20, 0.4, 35),
    ]
    assert {r.model for r in reference_table()} == {"LLaMA-2-70B"}
    assert all(r.perplexity.source for r in reference_table())
    assert [r.condition for r in reference_table()] == ["", "", "H100", "", ""]


def test_reference_weights_agree_with_our_arithmetic() -> None:
    choices = {c.option.id: c for c in recommend("generic", model=SEVENTY_B).choices}
    for row in reference_table():
        ours = choices[row.option].weights_bytes
        assert ours is not None
        assert ours.value / 1e9 == pytest.approx(row.weights_gb.value, rel=0.06)


def test_methods_of_the_framework_are_covered() -> None:
    names = " ".join(m.name for m in methods())
    for word in (
        "static", "dynamic", "QAT", "GPTQ", "AWQ", "SmoothQuant", "INT8 symmetric", "INT8 asymmetric",
        "INT4", "E4M3", "E5M2", "INT8 KV", "FP8 KV", "weight-only", "Q4_K_M",
    ):  # fmt: skip
        assert word in names
    engines = {c.option.engine for c in recommend("generic").choices}
    also = {name for c in recommend("generic").choices for name in c.option.also}
    assert {*engines, *also} == {"vllm", "llama.cpp", "TensorRT-LLM"}


def test_calibration_is_128_to_1024_samples() -> None:
    notes = recommend("generic", use="cost-optimized", hardware=A100).notes
    assert any("128 to 1024 samples" in note for note in notes)


def test_rtx_5090_has_no_int8_but_fp8() -> None:
    answer = recommend("generic", use="production", hardware=RTX_5090, model=EIGHT_B)
    assert answer.best.option.id == "fp8"
    assert any(d.option.id == "int8" and "Blackwell" in d.reason for d in answer.dropped)
