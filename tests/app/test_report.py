"""What is printed about a finished run: measured figures only, the verdict in the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.cli.report import answer, collect, next_command
from advisor.workspace import StageRecord, Workspace, write_json
from tuners.evaluate_schema import Quality
from tuners.plan import PrecisionPlan
from tuners.search.schema import Comparison, MeasuredPlan, SearchResult
from tuners.validate.schema import EngineMeasurement, Gate, Line, ValidationReport


def measured(label: str, kl: float, formats: dict[str, str]) -> MeasuredPlan:
    quality = Quality(split="evaluate", kl=kl, perplexity=20 + kl, top1=0.9, tokens=2048, sequence_kl=(kl,))
    plan = PrecisionPlan(formats=formats, label=label)
    return MeasuredPlan(label=label, plan=plan, unit_bytes=2**20, bits_per_weight=5.5, quality=quality)


def engine(checkpoint: str) -> EngineMeasurement:
    return EngineMeasurement(
        checkpoint=checkpoint, engine_version="0.32.0", dtype="float32", load_seconds=3, kernels={},
        schemes={}, module_bytes={}, weights_bytes=1, kv_cache_bytes=1, kv_tokens=1, max_model_len=1,
        max_concurrency=1, peak_rss_bytes=1, perplexity=20, eval_tokens=2048,
    )  # fmt: skip


@pytest.fixture
def finished(tmp_path: Path) -> Callable[[bool], Path]:
    """A run directory whose search and validation are done."""

    def make(passed: bool) -> Path:
        root = tmp_path / "run"
        best = measured("Advisor (TPE 7)", 0.1, {"a": "W8A8", "b": "W4A16_G64"})
        found = SearchResult(
            best=best, held_out=(best, measured("uniform int4", 0.4, {"a": "W4A16_G64"})), front=(best,),
            comparisons=(
                Comparison(other="uniform int4", difference=-0.3, low=-0.4, high=-0.2, verdict="better"),
            ),
            perplexity_original=20, budget_bytes=2**20, fixed_bytes=2**20, trials=32, trials_pruned=4,
            trials_measured=20, sensitivity_seconds=10, search_seconds=20, signal_correlations={},
            peak_rss_bytes=2**30,
        )  # fmt: skip
        report = ValidationReport(
            passed=passed,
            gates=(Gate(name="kernels", passed=passed, reason="each as planned"),),
            lines=(Line(name="weights", predicted=100, measured=101, unit="B", tolerance=0.01, ok=True),),
            original=engine("o"), quantized=engine("q"), plan_key=best.plan.key,
        )  # fmt: skip
        write_json(root / "search.json", found)
        write_json(root / "validation.json", report)
        with Workspace.open(root) as workspace:
            for name in ("search", "quantize", "validate"):
                workspace.finish(
                    StageRecord(name=name, fingerprint="f", seconds=61, peak_rss_bytes=2**30, summary="words")
                )
        return root

    return make


def test_the_tables_hold_what_was_measured(
    finished: Callable[[bool], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = finished(True)
    assert answer(root, json=False) == 0
    out = capsys.readouterr().out
    for words in (
        "Advisor (TPE 7)", "uniform int4", "0.400", "20.100", "-0.300", "better",
        "pass: kernels: each as planned", "verdict: passed", "1 min 01 s", "1.00 GiB",
        f"next: advisor export --run {root}",
    ):  # fmt: skip
        assert words in out, words


def test_a_failed_gate_is_exit_code_4(
    finished: Callable[[bool], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(finished(False), json=False) == 4
    out = capsys.readouterr().out
    assert "FAIL: kernels" in out
    assert "verdict: FAILED" in out


def test_the_same_as_data(finished: Callable[[bool], Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = finished(True)
    assert answer(root, json=True) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert SearchResult.model_validate(found["search"]).trials == 32
    assert ValidationReport.model_validate(found["validation"]).passed
    assert found["bundle"] is None
    assert set(found["stages"]) == {"search", "quantize", "validate"}


def test_the_next_command_follows_what_is_done(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with Workspace.open(root) as workspace:
        for done, following in (
            ("search", f"advisor quantize --run {root}"),
            ("quantize", f"advisor validate --run {root}"),
            ("validate", f"advisor export --run {root}"),
            ("export", f"{root}/bundle/run.sh"),
        ):
            workspace.finish(StageRecord(name=done, fingerprint="f", seconds=1))
            assert next_command(root) == following
    assert collect(root)["search"] is None
