"""The search for a task: its objective counts the answers, and held-out items reach the report alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from profiles.models import read_model
from profiles.tasks.schema import TaskProfile
from tests.tuners.test_task_profile import task
from tuners.budget import parse_budget
from tuners.evaluate import Evaluator
from tuners.model import calibrate
from tuners.model.host import Feed, ModelHost
from tuners.plan import Unit
from tuners.search.job import run
from tuners.search.schema import SearchSettings, SearchSpec
from tuners.units import fixed_bytes


def spec(tiny_model_dir: Path, units: list[Unit], run_dir: Path, found: TaskProfile) -> SearchSpec:
    fixed = fixed_bytes(read_model(str(tiny_model_dir)), units)
    return SearchSpec(
        run_dir=run_dir,
        model_path=tiny_model_dir,
        units=tuple(units),
        fixed_bytes=fixed,
        budget_bytes=parse_budget("5.5bits", units, fixed).unit_bytes,
        task=found,
        settings=SearchSettings(trials=3, seq_len=84),
    )


def holds(rows: Tensor, item: list[int]) -> bool:
    """Whether any row has the item's tokens one after another."""
    windows = rows.unfold(1, len(item), 1)
    return bool((windows == torch.tensor(item)).all(-1).any())


@pytest.mark.filterwarnings("ignore")  # of Optuna, which a child process would keep to itself
def test_answers_are_the_objective_and_held_out_items_are_for_the_report(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Tensor]] = {}
    start, hessians, threads = Evaluator.__init__, calibrate.collect_hessians, torch.get_num_threads()

    def watched(
        self: Evaluator, host: ModelHost, store: object, ids: Tensor, *rest: object, **more: object
    ) -> None:
        start(self, host, store, ids, *rest, **more)  # type: ignore[arg-type]
        seen.setdefault(self.split, []).append(ids)

    def watched_hessians(host: ModelHost, units: list[Unit], feed: Feed) -> dict[str, Tensor]:
        seen.setdefault("quantization", []).append(feed.ids)
        return hessians(host, units, feed)

    monkeypatch.setattr(Evaluator, "__init__", watched)
    monkeypatch.setattr(calibrate, "collect_hessians", watched_hessians)
    torch.set_num_threads(1)
    try:
        job = spec(tiny_model_dir, tiny_units, tmp_path / "run", task("a", 1))
        result = run(job, lambda event: None)
    finally:
        torch.set_num_threads(threads)

    weights = torch.tensor(json.loads((job.run_dir / "evaluate_weights.json").read_text()))
    ids = torch.tensor(json.loads((job.run_dir / "evaluate_ids.json").read_text()))
    assert weights.shape == ids.shape
    assert result.held_out[0].quality.tokens == int(weights.sum()) == 22 * len(weights)
    host = ModelHost.load(tiny_model_dir, tiny_units)
    held_out = [host.tokenizer(text)["input_ids"] for text in job.task.splits.evaluate]
    assert any(holds(ids, item) for item in held_out)
    assert {"search", "select", "evaluate", "quantization"} <= seen.keys()
    for name, rows in seen.items():
        if name != "evaluate":
            assert not any(holds(r, item) for r in rows for item in held_out), name
