"""Validation closes the loop: its measurement corrects later predictions, and they say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.pipeline.facts import Facts, gather
from advisor.pipeline.footprint import footprint_of
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.learn import learn
from profiles.footprint import Residuals, ServingSpec, estimate
from tests.validate.examples import measurement
from tuners.plan import PrecisionPlan, uniform
from tuners.validate.schema import EngineMeasurement

GIB = 2**30
SPEC = ServingSpec(max_model_len=256, gpu_memory_utilization=0.9)


@pytest.fixture
def facts(tiny: Path) -> Facts:
    return gather(RunInputs(model=str(tiny), gpu="rtx-4090", task="generic"))


def measured(facts: Facts, plan: PrecisionPlan, weights: float = 1.0, less: float = 0.0) -> EngineMeasurement:
    """What the engine would say that needs `less` bytes more than predicted beside the weights."""
    from profiles.footprint.facts import facts_of

    predicted = footprint_of(facts, plan, SPEC)
    tables = facts_of(facts.model).rope_elements * 2
    return measurement(
        quantized=False,
        dtype="bfloat16",
        weights_bytes=int(predicted.weights.value * weights) - tables,
        kv_cache_bytes=int(predicted.kv_bytes.value - less),
    )


def test_a_measurement_corrects_the_next_prediction(facts: Facts, tmp_path: Path) -> None:
    plan = uniform(facts.units, "16-bit")
    before = footprint_of(facts, plan, SPEC)
    words = learn(facts, plan, SPEC, measured(facts, plan, less=GIB), tmp_path / "no.log")
    assert "kept for later predictions (0.32 | NVIDIA GeForce RTX 4090 | LlamaForCausalLM)" in words
    assert "+1,024 MiB" in words
    after = estimate(facts.model, facts.hardware, before.spec, residuals=Residuals.load())
    assert after.kv_bytes.value == pytest.approx(before.kv_bytes.value - GIB, rel=1e-4)
    assert "1 boot log ingested here" in after.kv_bytes.source


def test_the_childs_own_log_wins_where_it_has_the_lines(facts: Facts, tmp_path: Path) -> None:
    plan = uniform(facts.units, "16-bit")
    predicted = footprint_of(facts, plan, SPEC)
    log = tmp_path / "engine.log"
    log.write_text(
        f"INFO Model loading took {predicted.weights.value / GIB:.9f} GiB memory and 1 seconds\n"
        f"INFO Available KV cache memory: {predicted.kv_bytes.value / GIB - 2:.9f} GiB\n"
    )
    assert "+2,048 MiB" in learn(facts, plan, SPEC, measured(facts, plan, less=GIB), log)


def test_what_cannot_be_learned_from_is_said_and_nothing_is_kept(facts: Facts, tmp_path: Path) -> None:
    plan = uniform(facts.units, "16-bit")
    words = learn(facts, plan, SPEC, measured(facts, plan, weights=2.0), tmp_path / "no.log")
    assert words.startswith("nothing was learned")
    assert not Residuals.load().buckets
