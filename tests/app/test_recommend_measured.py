"""`advisor recommend --run`: what a search measured beats the priors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.pipeline.inputs import RunInputs, save_inputs
from advisor.workspace import Workspace, write_json
from profiles.hardware import planned
from profiles.models import read_model
from tuners.evaluate_schema import Quality
from tuners.plan import uniform
from tuners.search.schema import MeasuredPlan, SearchResult
from tuners.units import build_units

Cli = Callable[..., tuple[int, str, str]]
CliJson = Callable[..., Any]


@pytest.fixture
def searched(tiny: Path, tmp_path: Path) -> Path:
    """A run for summarization in which INT4 lost 30 % and INT8 nothing."""
    units = build_units(read_model(str(tiny)), planned("rtx-4090", 1).device)

    def point(family: str, perplexity: float) -> MeasuredPlan:
        quality = Quality(
            split="evaluate", kl=0.1, perplexity=perplexity, top1=0.9, tokens=2048, sequence_kl=(0.1, 0.1)
        )
        plan = uniform(units, family)
        return MeasuredPlan(label=plan.label, plan=plan, unit_bytes=1, bits_per_weight=4.0, quality=quality)

    points = (point("int4", 13.0), point("int8", 10.05))
    found = SearchResult(
        best=points[0], held_out=points, front=(), comparisons=(), perplexity_original=10.0, budget_bytes=1,
        fixed_bytes=0, trials=0, trials_pruned=0, trials_measured=0, sensitivity_seconds=0.0,
        search_seconds=0.0, signal_correlations={}, peak_rss_bytes=0,
    )  # fmt: skip
    root = tmp_path / "run"
    root.mkdir()
    workspace = Workspace.read_only(root)
    save_inputs(workspace, RunInputs(model=str(tiny), task="summarization"))
    write_json(workspace.path("search.json"), found)
    return root


def test_a_measurement_beats_the_prior(cli_json: CliJson, tiny: Path, searched: Path) -> None:
    here = ("recommend", tiny, "--use", "cost-optimized", "--gpu", "rtx-4090")
    before = cli_json(*here, "--task", "summarization")
    after = cli_json(*here, "--run", searched)
    assert before["choices"][0]["option"]["family"] == "int4"
    assert after["task"] == "summarization"
    assert after["measured"]["int4"]["value"] == pytest.approx(1.3)
    assert after["measured"]["int8"]["provenance"] == "measured"
    assert after["choices"][0]["option"]["family"] in ("int8", "fp8")
    assert any(r["basis"] == "measured" for r in after["choices"][0]["reasons"])
    over_int4 = next(d for d in after["decisions"] if d["over"].startswith("int4"))
    assert (over_int4["basis"], over_int4["rule"]) == ("measured", "measured-int4")
    assert "perplexity was measured (1.300 x" in after["beliefs"][0]["sentence"]


def test_the_ratio_s_interval_is_of_its_sequences(searched: Path) -> None:
    from advisor.cli.recommend import SPREAD, perplexity_ratio
    from advisor.pipeline.search import load_search

    found = load_search(Workspace.read_only(searched))
    bare = perplexity_ratio(found.held_out[0], found, "run")
    assert bare.high == pytest.approx(1.3 * (1 + SPREAD))
    noisy = [0.0, 0.5] * 8  # nats per token above the original's, sequence by sequence
    quality = found.held_out[0].quality.model_copy(
        update={"sequence_nll": tuple(2.0 + x for x in noisy), "sequence_tokens": (9,) * 16}
    )
    found = found.model_copy(update={"original_sequence_nll": (2.0,) * 16})
    wide = perplexity_ratio(found.held_out[0].model_copy(update={"quality": quality}), found, "run")
    assert wide.low < 1.2
    assert wide.high > 1.4
    assert wide.low < wide.value < wide.high


def test_measurements_of_another_task_are_refused(cli: Cli, tiny: Path, searched: Path) -> None:
    code, out, err = cli("recommend", tiny, "--run", searched, "--task", "math", "--gpu", "rtx-4090")
    assert (code, out) == (2, "")
    assert "another task" in err
    code, _, err = cli("recommend", tiny, "--run", searched / "gone", "--gpu", "rtx-4090")
    assert code == 2
    assert "Traceback" not in err
