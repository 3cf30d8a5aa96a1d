"""What is chosen on which text: calibration, trials, selection and report never share a sequence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tuners.test_search import spec
from tests.tuners.test_solver import make_unit
from tuners.evaluate_schema import Quality, SequenceLoss
from tuners.nats import nats, signed
from tuners.plan import PrecisionPlan, Unit
from tuners.search.pace import Pace
from tuners.search.report import Reporter
from tuners.search.schema import SearchSettings
from tuners.search.setup import Setup, divide
from tuners.sensitivity.table import Cell, SensitivityTable


def rows(ids: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in ids.tolist()}


def test_no_sequence_is_in_two_of_calibration_trials_selection_and_report(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    job = spec(tiny_model_dir, tiny_units, tmp_path / "run")
    setup = Setup(job, lambda _e: None)
    sets = {
        "calibration": rows(setup.calibration),
        "search": rows(setup.search.ids),
        "select": rows(setup.select.ids),
        "evaluate": rows(setup.evaluate.ids),
    }
    assert all(len(found) >= 4 for found in sets.values())
    names = list(sets)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not sets[a] & sets[b], (a, b)
    # the cells and the probes are scored on the trials' own text
    assert rows(setup.cell_sequences.ids) <= sets["search"]
    assert rows(setup.scored.spread(job.settings.probe_sequences).ids) <= sets["search"]


@pytest.mark.parametrize("count", [8, 9, 40, 41])
def test_calibration_and_trials_part_the_text_when_there_is_enough(count: int) -> None:
    ids = torch.arange(count * 3).view(count, 3)
    calibration, search = divide(ids, 4)
    assert len(search) == 4
    assert rows(calibration) | rows(search) == rows(ids)
    assert not rows(calibration) & rows(search)


class OneSplit:
    """An evaluator whose losses are made up, and that remembers what it measured."""

    def __init__(self, split: str, kl_of: dict[str, float]) -> None:
        self.split, self.kl_of = split, kl_of
        self.measured: list[str] = []

    def quality(self, formats: dict[str, str]) -> Quality:
        plan = PrecisionPlan(formats=formats)
        self.measured.append(plan.key)
        kl = self.kl_of[plan.key]
        losses = [SequenceLoss(kl=kl + 0.001 * i, nll=1.0, top1=1.0, tokens=8) for i in range(8)]
        return Quality.of(self.split, losses)


def test_the_winner_is_the_best_on_the_selection_text_whatever_trials_and_report_say() -> None:
    units = [make_unit(i) for i in range(3)]
    cells = tuple(
        Cell(unit=u.name, format=f, sequence_kl=(k, k), fisher=k, gdy2=k, mse=k)
        for u in units
        for f, k in (("W4A16_G64", 1.0), ("W8A8", 0.1), ("FP8_DYNAMIC", 0.2))
    )
    table = SensitivityTable(cells=cells, tokens=1, seconds=1, naive_forwards=9, suffix_forwards=5)
    finalists = [
        PrecisionPlan(formats={u.name: f for u in units}, label=f)
        for f in ("W4A16_G64", "W8A8", "FP8_DYNAMIC")
    ]
    # the trials' order is the list's, the report's is the reverse of the selection's
    on_select = dict(zip([p.key for p in finalists], (0.30, 0.10, 0.20), strict=True))
    on_report = dict(zip([p.key for p in finalists], (0.01, 0.90, 0.50), strict=True))
    budget = sum(u.bytes_as("W8A8") for u in units)
    select, evaluate = OneSplit("select", on_select), OneSplit("evaluate", on_report)
    setup: Any = SimpleNamespace(
        spec=SimpleNamespace(units=tuple(units), budget_bytes=budget, fixed_bytes=0, model_id="m"),
        settings=SearchSettings(finalists=3), select=select, evaluate=evaluate, search=None,
        pace=lambda: Pace(units),
    )  # fmt: skip
    reporter = Reporter(setup, table, lambda _e: None)
    for plan in (reporter.exact(s, budget) for s in table.signals()):
        on_select.setdefault(plan.key, 0.25)

    best = reporter.choose(SimpleNamespace(finalists=lambda count: finalists[:count]))  # type: ignore[arg-type]

    assert best.plan.formats == finalists[1].formats
    assert set(select.measured) >= {p.key for p in finalists}
    assert evaluate.measured == []


def test_small_losses_keep_three_digits() -> None:
    assert [nats(x) for x in (0.0000347, 0.0584, 0.05, 0.137, 1.5, 123.4, 0.0)] == [
        "3.47e-05", "0.0584", "0.0500", "0.137", "1.50", "123", "0",
    ]  # fmt: skip
    assert [signed(x) for x in (0.0584, -0.0000347, 0.0)] == ["+0.0584", "-3.47e-05", "0"]
