"""A run directory of a tiny model: real profile and footprint, results as the later stages write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from advisor.cli.tune import make_inputs
from advisor.pipeline.facts import load_facts
from advisor.pipeline.run import opened, run_through
from advisor.workspace import write_json, write_text
from tests.app.test_report import engine, measured
from tests.app.tiny import write_tiny
from tuners.plan import uniform
from tuners.search.schema import Comparison, SearchResult
from tuners.sensitivity.table import Cell, SensitivityTable
from tuners.validate.schema import Gate, Line, ValidationReport

HOSTILE = "</script><script>alert(1)</script> | `x` <img src=http://evil.example/a.png>"
"""What a model may answer."""


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a run; `validated` False stops after the footprint."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(*, validated: bool = True, passed: bool = True) -> Path:
        root = tmp_path / "runs" / "tiny"
        inputs = make_inputs(model=str(write_tiny(tmp_path / "tiny")), task="generic", budget="9bits")
        with opened(root) as context:
            run_through(context, inputs, "footprint")
            facts = load_facts(context.workspace)
        if not validated:
            return root
        plan = uniform(facts.units, "int8").model_copy(update={"label": "Advisor (TPE 7)"})
        best = measured("Advisor (TPE 7)", 0.1, plan.formats).model_copy(update={"plan": plan})
        other = measured("uniform int4", 0.4, uniform(facts.units, "int4").formats)
        cells = tuple(
            Cell(unit=u.name, format=f, sequence_kl=(0.01 * (i + 1), 0.02 * (i + 1)))
            for i, u in enumerate(facts.units)
            for f in u.options
            if f != "BF16"
        )
        found = SearchResult(
            best=best, held_out=(best, other), front=(best,),
            comparisons=(
                Comparison(other="uniform int4", difference=-0.3, low=-0.4, high=-0.2, verdict="better"),
            ),
            perplexity_original=20, budget_bytes=2**20, fixed_bytes=facts.fixed_bytes, trials=32,
            trials_pruned=4, trials_measured=20, sensitivity_seconds=10, search_seconds=20,
            signal_correlations={}, peak_rss_bytes=2**30,
        )  # fmt: skip
        after = engine("q").model_copy(update={"generations": (HOSTILE,), "prompts": ("2 < 3?",)})
        before = engine("o").model_copy(update={"generations": ("fine",), "prompts": ("2 < 3?",)})
        report = ValidationReport(
            passed=passed, gates=(Gate(name="kernels", passed=passed, reason="each as planned"),),
            lines=(Line(name="weights", predicted=100, measured=103, unit="B", tolerance=0.01, ok=False),),
            original=before, quantized=after, plan_key=plan.key,
        )  # fmt: skip
        write_json(root / "search.json", found)
        write_json(root / "validation.json", report)
        write_json(
            root / "sensitivity.json",
            SensitivityTable(cells=cells, tokens=512, seconds=1, naive_forwards=1, suffix_forwards=1),
        )
        write_text(root / "plan.yaml", plan.to_yaml())
        return root

    return make
