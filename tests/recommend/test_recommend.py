"""Conflicts, measurements against priors, what is dropped, and bad requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.recommend import ModelFacts, Recommendation, Use, hardware_classes, recommend
from advisor.recommend.engine import penalty
from advisor.recommend.rulebook import rulebook
from profiles.errors import InfeasibleError, UsageError
from profiles.hardware.schema import DeviceKind, HardwareProfile
from profiles.models.schema import LinearInfo, ModelProfile, StoredQuantization
from profiles.provenance import Figure
from profiles.tasks import list_tasks
from tests.recommend.machines import (
    A100,
    APPLE,
    B200,
    CPU,
    EIGHT_B,
    FOUR_A40,
    H100,
    L40S,
    RTX_3060,
    RTX_3090,
    RTX_4090,
    RTX_5090,
    SEVENTY_B,
    SMALL,
    TWO_A100,
    machine,
)

MACHINES = (A100, APPLE, B200, CPU, FOUR_A40, H100, L40S, RTX_3060, RTX_3090, RTX_4090, RTX_5090, TWO_A100)


def ratio(value: float, low: float, high: float) -> Figure:
    return Figure(
        value=value,
        low=low,
        high=high,
        unit="x",
        provenance="measured",
        source="this run",  # type: ignore[arg-type]
    )


def profile(in_features: int, *, quantized: bool = False) -> ModelProfile:
    linears = tuple(
        LinearInfo(name=f"l{i}", in_features=in_features, out_features=576, fused=f"l{i}", role="o", block=i)
        for i in range(4)
    )
    return ModelProfile(
        model_id="tiny",
        source="local",
        architecture="LlamaForCausalLM",
        model_type="llama",
        linears=linears,
        num_layers=4,
        hidden_size=in_features,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        vocab_size=49152,
        max_position_embeddings=2048,
        quantization=StoredQuantization(method="awq", label="W4A16 g128") if quantized else None,
    )


def pairs(answer: Recommendation) -> set[tuple[str, str]]:
    return {(c.winner, c.loser) for c in answer.conflicts}


def test_conflict_between_task_and_use_is_shown_with_the_winner() -> None:
    answer = recommend("math", use="cost-optimized", hardware=A100, model=EIGHT_B)
    assert answer.best.option.id == "int8"
    conflict = next(c for c in answer.conflicts if c.loser == "use-cost")
    assert conflict.winner == "task-high"
    assert "wins because" in conflict.text
    assert "INT4" in conflict.text


def test_conflict_between_use_and_hardware() -> None:
    assert ("use-edge", "hardware-h100") in pairs(recommend("generic", use="edge", hardware=H100))


def test_a_rule_that_got_its_way_is_in_no_conflict() -> None:
    answer = recommend("math", use="cost-optimized", hardware=H100, model=EIGHT_B)
    assert answer.best.option.id == "fp8"
    assert "hardware-h100" not in {c.loser for c in answer.conflicts}


def test_more_specific_hardware_wins() -> None:
    two_h100 = HardwareProfile(devices=H100.devices * 2, origin="catalogue")
    answer = recommend("generic", hardware=two_h100, model=EIGHT_B)
    assert answer.best.option.id == "fp8"
    assert ("hardware-h100", "hardware-multi-gpu") in pairs(answer)


def test_a_fact_against_a_rule_is_a_conflict_too() -> None:
    refused = {"gguf-q4": "too big", "gguf-q8": "too big"}
    conflicts = recommend("generic", use="edge", hardware=H100, refused=refused).conflicts
    conflict = next(c for c in conflicts if c.loser == "use-edge")
    assert conflict.winner == "footprint"
    assert "too big" in conflict.text


def test_measured_int4_that_passes_the_floor_overrides_the_prior() -> None:
    prior = recommend("math", use="cost-optimized", hardware=A100, model=EIGHT_B)
    seen = recommend(
        "math", use="cost-optimized", hardware=A100, model=EIGHT_B, measured={"int4": ratio(1.01, 1.0, 1.02)}
    )
    assert prior.best.option.family == "int8"
    assert seen.best.option.id == "int4-awq"
    assert ("measured-int4", "task-high") in pairs(seen)
    assert any(r.basis == "measured" for r in seen.best.reasons)


def test_measured_int4_that_fails_the_floor_overrides_cost() -> None:
    answer = recommend(
        "generic", use="cost-optimized", hardware=A100, model=EIGHT_B, measured={"int4": ratio(1.4, 1.3, 1.5)}
    )
    assert answer.best.option.family != "int4"
    assert ("measured-int4", "use-cost") in pairs(answer)
    assert ("measured-int4", "task-low") in pairs(answer)


def test_a_measurement_that_straddles_the_floor_decides_nothing() -> None:
    answer = recommend(
        "math", use="cost-optimized", hardware=A100, model=EIGHT_B, measured={"int4": ratio(1.03, 1.0, 1.06)}
    )
    assert answer.best.option.family == "int8"


def test_what_has_no_kernel_is_dropped_with_the_reason() -> None:
    dropped = {d.option.id: d.reason for d in recommend("generic", hardware=B200, model=EIGHT_B).dropped}
    assert "vLLM issue 54311" in dropped["int8"]
    apple = recommend("generic", hardware=APPLE, model=EIGHT_B)
    assert {c.option.engine for c in apple.choices} == {"llama.cpp"}
    assert all("metal" in d.reason for d in apple.dropped)


def test_what_does_not_fit_is_dropped_with_numbers() -> None:
    answer = recommend("generic", use="production", hardware=A100, model=SEVENTY_B)
    assert {d.option.id for d in answer.dropped} == {"bf16"}
    answer = recommend("math", use="production", hardware=L40S, model=SEVENTY_B)
    assert answer.best.option.family == "int4"
    reasons = {d.option.id: d.reason for d in answer.dropped}
    assert "69.5 GB" in reasons["fp8"]
    assert "use-production" in {c.loser for c in answer.conflicts}


def test_a_footprint_of_the_caller_can_refuse() -> None:
    answer = recommend(
        "generic",
        use="quality-critical",
        hardware=H100,
        model=EIGHT_B,
        refused={"FP8_DYNAMIC": "KV too small"},
    )
    assert answer.best.option.id == "bf16"
    assert [(d.option.id, d.reason, d.source) for d in answer.dropped] == [
        ("fp8", "KV too small", "footprint")
    ]


def test_nothing_fits_is_infeasible_with_a_next_step() -> None:
    with pytest.raises(InfeasibleError) as caught:
        recommend("generic", hardware=RTX_3060, model=SEVENTY_B)
    assert "weights alone" in (caught.value.got or "")
    assert "smaller model" in (caught.value.next_step or "")


@pytest.mark.parametrize(("width", "name"), [(4096, "W4A16_G128"), (576, "W4A16_G64"), (1568, "W4A16_G32")])
def test_int4_group_size_follows_the_model_s_shapes(width: int, name: str) -> None:
    answer = recommend("generic", use="cost-optimized", model=profile(width))
    assert answer.best.format == name


def test_quantized_checkpoint_is_pointed_out() -> None:
    assert any(
        "already W4A16 g128" in n for n in recommend("generic", model=profile(4096, quantized=True)).notes
    )


@pytest.mark.parametrize(
    ("task", "use", "hardware", "dtype"),
    [
        ("generic", "production", H100, "fp8"),
        ("generic", "production", A100, "auto"),
        ("long-context", "production", H100, "auto"),
        ("generic", "personal", RTX_4090, "auto"),
        ("generic", "cost-optimized", RTX_4090, "fp8"),
        ("generic", "production", None, "auto"),
        ("generic", "edge", H100, "auto"),
    ],
)
def test_kv_cache_dtype(task: str, use: str, hardware: HardwareProfile | None, dtype: str) -> None:
    best = recommend(task, use=use, hardware=hardware).best
    assert best.kv_cache_dtype == dtype
    assert best.kv_reason


def test_priors_say_that_they_are_priors() -> None:
    answer = recommend("code", hardware=A100)
    assert any("priors only" in note for note in answer.notes)
    assert any("cautious default" in note for note in answer.notes)
    assert {r.basis for c in answer.choices for r in c.reasons} == {"prior", "kernel"}


def test_unknown_hardware_class_says_so() -> None:
    answer = recommend("generic", hardware=machine("AMD Instinct MI300X", 192, kind=DeviceKind.ROCM))
    assert any("no row for AMD Instinct MI300X" in note for note in answer.notes)
    assert {c.format for c in answer.choices if c.option.engine == "vllm"} == {"BF16"}


def test_pascal_is_too_old_for_vllm_and_gets_llama_cpp() -> None:
    answer = recommend("generic", use="production", hardware=machine("NVIDIA GeForce GTX 1080", 8, (6, 1)))
    assert {c.option.engine for c in answer.choices} == {"llama.cpp"}
    assert all("compute capability 7.0" in d.reason for d in answer.dropped)


@pytest.mark.parametrize("name", ["NVIDIA RTX A6000", "NVIDIA RTX 6000 Ada Generation"])
def test_workstation_cards_are_not_consumer_cards(name: str) -> None:
    assert "consumer-rtx" not in hardware_classes(machine(name, 47.5, (8, 6)))


@pytest.mark.parametrize(
    "name", ["NVIDIA GeForce RTX 3090", "RTX 4090", "rtx-4090", "NVIDIA TITAN RTX", "GeForce GTX 1660"]
)
def test_consumer_cards_by_name(name: str) -> None:
    assert "consumer-rtx" in hardware_classes(machine(name, 16, (8, 6)))


@pytest.mark.parametrize("use", ["free", "", "Productoin"])
def test_unknown_use(use: str) -> None:
    with pytest.raises(UsageError, match="unknown use"):
        recommend("generic", use=use)


def test_use_aliases() -> None:
    assert recommend("generic", use="Local").use is Use.EDGE
    assert recommend("generic", use="cost optimized").use is Use.COST_OPTIMIZED


def test_unknown_task() -> None:
    with pytest.raises(UsageError, match="unknown task"):
        recommend("juggling")


@given(
    task=st.sampled_from([t.name for t in list_tasks()]),
    use=st.sampled_from([None, *Use]),
    hardware=st.sampled_from([None, *MACHINES]),
    model=st.sampled_from([None, SMALL, EIGHT_B]),
)
def test_every_situation_is_answered_consistently(
    task: str, use: Use | None, hardware: HardwareProfile | None, model: ModelFacts | None
) -> None:
    answer = recommend(task, use=use, hardware=hardware, model=model)
    shown = [c.option.id for c in answer.choices] + [d.option.id for d in answer.dropped]
    assert sorted(shown) == sorted(o.id for o in rulebook().options)
    assert [c.rank for c in answer.choices] == list(range(1, len(answer.choices) + 1))
    keys = [[penalty(rule, c.option) for rule in answer.fired] for c in answer.choices]
    assert keys == sorted(keys)
    fired = [r.id for r in answer.fired]
    for conflict in answer.conflicts:
        assert conflict.loser in fired
        if conflict.winner in fired:
            assert fired.index(conflict.winner) < fired.index(conflict.loser)
    assert Recommendation.model_validate_json(answer.model_dump_json()) == answer
