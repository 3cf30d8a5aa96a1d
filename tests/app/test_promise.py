"""What validation is held to: the plan as it is served, its KV cache rounded with its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.pipeline.facts import gather
from advisor.pipeline.footprint import footprint_of
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.validate import measuring_spec, promised_quality, with_own_cache
from profiles.footprint.schema import ServingSpec
from tests.app.test_report import measured
from tuners.plan import PrecisionPlan, uniform
from tuners.search.schema import KvCost, SearchResult

FORMATS = {"a": "W8A8", "b": "W4A16_G64"}


def searched(dtype: str = "auto") -> SearchResult:
    """A finished search; with another dtype than auto it measured what that KV cache costs."""
    best = measured("Advisor", 0.1, FORMATS)
    kv = KvCost(
        dtype=dtype, kl_without=0.1, kl_with=0.15, difference=0.05, low=0.04, high=0.06, perplexity_with=22,
        top1_with=0.85, tokens=2048,
    )  # fmt: skip
    return SearchResult(
        best=best, held_out=(best,), front=(best,), comparisons=(), perplexity_original=20,
        budget_bytes=2**20, fixed_bytes=2**20, trials=32, trials_pruned=4, trials_measured=20,
        sensitivity_seconds=10, search_seconds=20, signal_correlations={}, peak_rss_bytes=2**30,
        kv=None if dtype == "auto" else kv,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "served", "kl", "ratio"),
    [
        ("auto", "auto", 0.1, 20.1 / 20),
        ("auto", "bfloat16", 0.1, 20.1 / 20),
        ("fp8", "fp8", 0.15, 22 / 20),
        ("fp8", "auto", 0.1, 20.1 / 20),  # the agent went back to the model's own
    ],
)
def test_the_promise_has_the_caches_rounding_in_it(asked: str, served: str, kl: float, ratio: float) -> None:
    plan = PrecisionPlan(formats=FORMATS, kv_cache_dtype=served)
    promised, source = promised_quality(searched(asked), plan)
    assert promised is not None
    assert promised["kl"] == kl
    assert promised["perplexity_ratio"] == pytest.approx(ratio)
    assert (served in source) == (served == "fp8")


@pytest.mark.parametrize(("asked", "served"), [("auto", "fp8"), ("fp8", "fp8_e5m2"), ("auto", "nvfp4")])
def test_a_cache_that_was_not_measured_with_the_plan_promises_nothing(asked: str, served: str) -> None:
    plan = PrecisionPlan(formats=FORMATS, kv_cache_dtype=served)
    promised, why = promised_quality(searched(asked), plan)
    assert promised is None
    assert f"a KV cache in {served}" in why


def test_another_plan_promises_nothing() -> None:
    other = PrecisionPlan(formats={**FORMATS, "b": "W8A8"})
    assert promised_quality(searched(), other) == (None, "the search measured another plan")


def test_the_original_is_measured_with_a_cache_of_its_own_dtype(tiny: Path) -> None:
    asked = RunInputs(
        model=str(tiny), task="generic", gpu="rtx-4090", serving=ServingSpec(kv_cache_dtype="fp8")
    )
    facts = gather(asked)
    original, quantized = (measuring_spec(i, facts) for i in (with_own_cache(asked), asked))
    assert (original.kv_cache_dtype, quantized.kv_cache_dtype) == ("auto", "fp8")
    plan = uniform(facts.units, "16-bit")
    each = [footprint_of(facts, plan, s).kv_bytes_per_token.value for s in (original, quantized)]
    assert each[0] == 2 * each[1]
