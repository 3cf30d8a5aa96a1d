"""The gates: each one fails for its own reason alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import UsageError
from profiles.formats.kernels import TORCH_INT4_KERNEL
from tests.validate.examples import (
    cpu_device,
    cuda_device,
    measurement,
    plan,
    predictions,
    units,
)
from tuners.validate.report import compare, engine_module, planned_kernel
from tuners.validate.schema import EngineMeasurement, Predictions, ValidationReport


def _report(
    quantized: EngineMeasurement | None = None,
    *,
    original: EngineMeasurement | None = None,
    predicted: Predictions | None = None,
    floor: float = 1.05,
) -> ValidationReport:
    return compare(
        original or measurement(quantized=False),
        quantized or measurement(),
        plan=plan(),
        units=units(),
        device=cpu_device(),
        predicted=predicted or predictions(),
        floor=floor,
    )


def _failed(report: ValidationReport) -> list[str]:
    assert report.passed is (not [g for g in report.gates if not g.passed])
    return [g.name for g in report.gates if not g.passed]


def test_all_gates_pass_when_everything_is_as_promised() -> None:
    report = _report()

    assert _failed(report) == []
    assert report.plan_key == plan().key
    assert {line.name for line in report.lines} >= {
        "weights",
        "KV cache tokens",
        "perplexity ratio",
        "prefill",
    }


def test_another_kernel_than_planned_fails_and_is_named() -> None:
    kernels = measurement().kernels | {"model.layers.0.mlp.gate_up_proj": "CPUWNA16LinearKernel"}

    report = _report(measurement(kernels=kernels))

    assert _failed(report) == ["kernels"]
    assert report.kernel_mismatches == {
        "model.layers.0.mlp.gate_up_proj": (TORCH_INT4_KERNEL, "CPUWNA16LinearKernel")
    }


def test_a_unit_that_the_engine_does_not_have_is_a_mismatch() -> None:
    kernels = {k: v for k, v in measurement().kernels.items() if not k.endswith("o_proj")}

    assert _failed(_report(measurement(kernels=kernels))) == ["kernels"]


@pytest.mark.parametrize(("off", "fails"), [(0.005, False), (-0.005, False), (0.02, True), (-0.02, True)])
def test_memory_is_held_to_one_percent(off: float, fails: bool) -> None:
    right = measurement()
    heavier = _report(measurement(weights_bytes=round(right.weights_bytes * (1 + off))))
    fewer = _report(measurement(kv_tokens=round(1000 * (1 + off))))

    assert _failed(heavier) == (["weights"] if fails else [])
    assert _failed(fewer) == (["KV cache tokens"] if fails else [])


@pytest.mark.parametrize(("tokens", "fails"), [(975, True), (985, False), (1045, False), (1065, True)])
def test_a_cache_predicted_as_an_interval_is_held_to_it(tokens: int, fails: bool) -> None:
    """On a GPU what is left for the cache is an estimate: 990 to 1050 here, and 1 % around it."""
    promised = predictions(kv_tokens_range=(990, 1050))
    report = _report(measurement(kv_tokens=tokens), predicted=promised)
    gate = next(g for g in report.gates if g.name == "KV cache tokens")

    assert _failed(report) == (["KV cache tokens"] if fails else [])
    assert gate.reason.startswith("predicted 1,000 tokens (990 tokens to 1,050 tokens), measured")


def test_the_floor_decides() -> None:
    assert _failed(_report(floor=1.04)) == []
    assert _failed(_report(floor=1.039)) == ["quality floor"]


@pytest.mark.parametrize("floor", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_a_floor_that_is_no_ratio_is_refused(floor: float) -> None:
    with pytest.raises(UsageError, match="quality floor"):
        _report(floor=floor)


@pytest.mark.parametrize(
    ("promise", "value"), [("perplexity_ratio", 1.2), ("kl", 0.2), ("kl", 0.001), ("top1", 0.99)]
)
def test_an_engine_that_disagrees_with_the_search_fails(promise: str, value: float) -> None:
    report = _report(predicted=predictions(**{promise: value}))

    assert _failed(report) == ["engine agrees with the search"]


def test_no_promise_no_gate() -> None:
    report = _report(predicted=predictions(perplexity_ratio=None, kl=None, top1=None))

    assert "engine agrees with the search" not in [g.name for g in report.gates]
    assert any("promised no quality" in note for note in report.notes)


def test_endless_repetition_fails_when_it_is_new_and_more_than_chance() -> None:
    loop, fine = "the same words " * 20, "Paris is the capital of France."

    def answers(loops: int) -> tuple[str, ...]:
        return (loop,) * loops + (fine,) * (6 - loops)

    sound = measurement(quantized=False, generations=answers(0))
    assert _failed(_report(measurement(generations=answers(3)), original=sound)) == ["generations"]
    once = _report(measurement(generations=answers(1)), original=sound)
    assert _failed(once) == []
    assert "by chance alone: 50%" in next(g.reason for g in once.gates if g.name == "generations")
    looping = measurement(quantized=False, generations=answers(6))
    assert _failed(_report(measurement(generations=answers(6)), original=looping)) == []


@pytest.mark.parametrize("name", ["engine_version", "dtype", "eval_tokens", "max_model_len"])
def test_measurements_under_other_conditions_are_refused(name: str) -> None:
    other = {"engine_version": "0.31.0", "dtype": "bfloat16", "eval_tokens": 12, "max_model_len": 99}

    with pytest.raises(UsageError, match=name):
        _report(measurement(**{name: other[name]}))


def test_speeds_inform_only() -> None:
    report = _report(measurement(decode_tokens_s=0.001, prefill_tokens_s=0.001, ttft_ms=1e9, itl_ms=1e9))

    assert report.passed
    assert [line.ok for line in report.lines if line.unit in {"tokens/s", "ms"}] == [None] * 4


@given(st.floats(0.5, 3.0), st.floats(0.5, 3.0))
def test_passing_means_within_the_floor(ratio: float, floor: float) -> None:
    report = _report(
        measurement(perplexity=20.0 * ratio), predicted=predictions(perplexity_ratio=ratio), floor=floor
    )

    assert report.passed is (20.0 * ratio / 20.0 <= floor)


def test_reports_survive_json() -> None:
    report = _report()

    assert ValidationReport.model_validate_json(report.model_dump_json()) == report


def test_tensor_parallelism_prices_the_slice_that_a_rank_gets() -> None:
    gate_up, down = units()[2], units()[3]

    assert planned_kernel(gate_up, "W8A8", cuda_device(), tp=2) == "CutlassInt8ScaledMMLinearKernel"
    assert planned_kernel(down, "W4A16_G32", cpu_device(), tp=8).startswith("none (")


def test_multimodal_prefixes_are_found_but_never_guessed() -> None:
    name = "model.layers.0.mlp.down_proj"

    assert engine_module(name, {"model.sublayers.0.mlp.down_proj": "k"}) is None
    assert engine_module(name, {"language_model.model.layers.0.mlp.down_proj": "k"}) is not None
    assert engine_module(name, {"a.layers.0.mlp.down_proj": "k", "b.layers.0.mlp.down_proj": "k"}) is None
