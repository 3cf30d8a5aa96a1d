"""The rows of the models screen: which families it ranks."""

from __future__ import annotations

from advisor.tui.ranking import best_answers
from profiles.footprint import ServingSpec
from tests.footprint.build import cpu


def test_the_models_screen_offers_no_format_that_only_a_slow_kernel_runs() -> None:
    families = {a.family for a in best_answers(cpu(), ServingSpec()).values()}
    assert "int8" in families
    assert "fp8" not in families
