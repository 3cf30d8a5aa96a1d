"""The search as its users run it: a child process, resumable, reproducible, within the budget."""

from __future__ import annotations

import threading
from pathlib import Path

import optuna
import pytest
import torch

from advisor.cli.report import memory_words, sensitivity_words
from profiles.errors import EnvironmentProblem, InfeasibleError, Interrupted, UsageError
from profiles.models import read_model
from profiles.tasks.schema import TaskProfile, TextSplits
from tests.latency.columns import column
from tests.tuners.conftest import sentences, shuffled
from tuners.budget import parse_budget
from tuners.child import run_child
from tuners.events import Event
from tuners.model.written import is_written
from tuners.plan import PrecisionPlan, Unit, uniform
from tuners.search import own_text
from tuners.search.pace import Pace
from tuners.search.schema import Goal, SearchResult, SearchSettings, SearchSpec
from tuners.search.scoring import score
from tuners.search.setup import Setup
from tuners.sensitivity.table import G2DY2
from tuners.solver import solve
from tuners.units import fixed_bytes


def spec(
    tiny_model_dir: Path, units: list[Unit], run_dir: Path, trials: int = 10, seed: int = 3
) -> SearchSpec:
    fixed = fixed_bytes(read_model(str(tiny_model_dir)), units)
    task = TaskProfile(
        name="test",
        title="test",
        prior="low",
        prior_source="test",
        origin="made by the test",
        licence="Apache-2.0",
        quality_floor_ppl_ratio=1.5,
        splits=TextSplits(
            search=tuple(sentences(40, 2)), select=tuple(sentences(20, 3)), evaluate=tuple(sentences(20, 4))
        ),
    )
    return SearchSpec(
        run_dir=run_dir,
        model_path=tiny_model_dir,
        units=tuple(units),
        fixed_bytes=fixed,
        budget_bytes=parse_budget("5.5bits", units, fixed).unit_bytes,
        task=task,
        settings=SearchSettings(trials=trials, seed=seed, seq_len=32, front_points=3, front_trials=2),
    )


def search(job: SearchSpec, events: list[Event] | None = None) -> SearchResult:
    sink = events if events is not None else []
    result = run_child(
        "tuners.search.job", job, emit=sink.append, log_path=job.run_dir / "log.txt", stage="search"
    )
    return SearchResult.model_validate(result)


def test_search_finds_measures_and_reports(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    job, events = spec(tiny_model_dir, tiny_units, tmp_path / "run"), []
    result = search(job, events)

    assert result.best.unit_bytes <= job.budget_bytes
    assert PrecisionPlan.from_yaml(job.run_dir / "plan.yaml") == result.best.plan
    labels = [m.label for m in result.held_out]
    assert labels[1:] == ["exact additive", "uniform int4", "uniform int8", "uniform fp8"]
    assert result.trials == 10
    assert {e.kind for e in events} >= {"sensitivity", "trial", "front_point", "progress", "stage_finished"}
    storage = f"sqlite:///{job.run_dir / 'study.db'}"
    for name in optuna.get_all_study_names(storage):
        trials = optuna.load_study(study_name=name, storage=storage).trials
        assert all(t.constraints and max(t.constraints.values()) <= 0 for t in trials)
    measured_cells = [e for e in events if e.kind == "sensitivity"]
    assert len(measured_cells) == 3 * len(tiny_units)

    again: list[Event] = []
    resumed = search(job, again)
    assert resumed.best == result.best
    assert not [e for e in again if e.kind in ("trial", "sensitivity")]


@pytest.mark.parametrize(
    ("general", "foreign_from", "changes", "written"),
    [
        (True, -100, {}, True),
        (True, 100, {}, False),
        (False, -100, {}, False),
        (True, -100, {"written": False}, False),
        (True, -100, {"sensitivity": "quick", "trials": 0}, False),
        (True, -100, {"memory": "streamed"}, False),
    ],
)
def test_scores_and_choice_rest_on_half_written_text_where_general_text_is_foreign(
    tiny_model_dir: Path,
    tiny_units: list[Unit],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    general: bool,
    foreign_from: float,
    changes: dict,
    written: bool,
) -> None:
    monkeypatch.setattr(own_text, "FOREIGN_NATS", foreign_from)
    job = spec(tiny_model_dir, tiny_units, tmp_path)
    plain = Setup(job, lambda _e: None)
    task = job.task.model_copy(update={"general": general})
    settings = job.settings.model_copy(update=changes)
    setup = Setup(job.model_copy(update={"task": task, "settings": settings}), lambda _e: None)

    assert torch.equal(setup.evaluate.ids, plain.evaluate.ids)
    assert torch.equal(setup.calibration, plain.calibration)
    for ours, before in ((setup.search.ids, plain.search.ids), (setup.select.ids, plain.select.ids)):
        same = [torch.equal(a, b) for a, b in zip(ours, before, strict=True)]
        assert same == [not (written and is_written(place)) for place in range(len(before))]
    assert ("written" in setup.table_path.name) == written


def test_a_search_on_foreign_text_says_what_it_rests_on(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    job = spec(tiny_model_dir, tiny_units, tmp_path / "run", trials=4)
    told = [shuffled(text) for text in job.task.splits.search]
    splits = job.task.splits.model_copy(update={"search": tuple(told)})
    task = job.task.model_copy(update={"general": True, "splits": splits})
    result = search(job.model_copy(update={"task": task}))

    (note,) = result.notes
    assert note.endswith("foreign to it, so that half of the search and selection text is its own")
    assert result.best.unit_bytes <= job.budget_bytes


def test_same_seed_same_plan_also_after_an_interruption(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    straight = search(spec(tiny_model_dir, tiny_units, tmp_path / "a", trials=8))
    job = spec(tiny_model_dir, tiny_units, tmp_path / "b", trials=8)
    stop, events = threading.Event(), []

    def watch(event: Event) -> None:
        events.append(event)
        if sum(e.kind == "trial" for e in events) >= 3:
            stop.set()

    with pytest.raises(Interrupted, match="stopped"):
        run_child(
            "tuners.search.job",
            job,
            emit=watch,
            log_path=job.run_dir / "log.txt",
            stage="search",
            cancelled=stop.is_set,
        )
    done_before = [e for e in events if e.kind == "trial"]
    resumed = search(job)
    assert len(done_before) >= 3
    assert resumed.best.plan.key == straight.best.plan.key
    assert resumed.held_out[0].quality.kl == pytest.approx(straight.held_out[0].quality.kl, rel=1e-4)


def test_fast_mode_and_two_workers_share_one_study(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    job = spec(tiny_model_dir, tiny_units, tmp_path / "run")
    settings = job.settings.model_copy(
        update={"workers": 2, "sensitivity": "fast", "storage": f"journal:{tmp_path / 'journal.log'}"}
    )
    result = search(job.model_copy(update={"settings": settings}))

    assert result.sensitivity_mode == "fast"
    assert result.signal_correlations["fisher~kl"] > 0.5
    assert 0 < result.signal_errors["fisher/kl"] < 1
    assert result.cells_measured is not None
    assert result.cells == 3 * len(tiny_units) > result.cells_measured > 0
    assert "rank correlation" in (sensitivity_words(result) or "")
    assert "stated before" in (memory_words(result) or "")
    assert result.trials == 10
    assert result.best.unit_bytes <= job.budget_bytes
    assert [p.unit_bytes for p in result.front] == sorted(p.unit_bytes for p in result.front)


def test_a_missing_model_is_an_error_not_a_traceback(
    tiny_units: list[Unit], tiny_model_dir: Path, tmp_path: Path
) -> None:
    job = spec(tiny_model_dir, tiny_units, tmp_path / "run")
    broken = job.model_copy(update={"model_path": tmp_path / "nowhere"})
    with pytest.raises(UsageError) as info:
        search(broken)
    assert "cannot load this model" in str(info.value)


def test_a_limit_on_time_is_kept_and_the_front_has_speeds(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    job = spec(tiny_model_dir, tiny_units, tmp_path / "run", trials=6)
    latency = column(tiny_units, rest_ms=1.0, ms_per_megaweight=1.0)
    pace = Pace(tiny_units, Goal(), latency)
    scores = {u.name: dict.fromkeys(u.options, 1.0) for u in tiny_units}
    free = pace.decode(tiny_units, scores, job.budget_bytes)
    fast = pace.ms(pace.fastest({}, job.budget_bytes))
    limit = fast + 0.3 * (pace.ms(free) - fast)
    result = search(job.model_copy(update={"goal": Goal(max_ms=limit), "latency": latency}))

    assert pace.ms(result.best.plan.formats) <= limit * (1 + 1e-9)
    assert result.best.unit_bytes <= job.budget_bytes
    assert result.goal.max_ms == limit
    assert f"at most {limit:g} were asked for" in result.notes[0]
    storage = f"sqlite:///{job.run_dir / 'study.db'}"
    names = optuna.get_all_study_names(storage)
    studies = {name: optuna.load_study(study_name=name, storage=storage) for name in names}
    front = next(s for n, s in studies.items() if n.endswith("-front-ms"))
    assert front.metric_names == ["KL", "bytes", "ms per token"]
    for study in studies.values():
        for trial in study.trials:
            assert trial.user_attrs["decode_ms"] == pytest.approx(pace.ms(trial.user_attrs["formats"]))
            assert study is front or max(trial.constraints.values()) <= 1e-9
    assert all(p.speed is not None for p in result.front)
    best = [(p.unit_bytes, p.quality.kl, p.speed.decode_ms.value) for p in result.front if p.speed]
    for a in best:
        assert not [b for b in best if b != a and all(x <= y for x, y in zip(b, a, strict=True))]


def test_the_fastest_plan_keeps_the_limit_on_the_loss(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    job = spec(tiny_model_dir, tiny_units, tmp_path / "run", trials=8)
    latency = column(tiny_units)
    everything = sum(u.bytes_as("BF16") for u in tiny_units)
    pace = Pace(tiny_units, Goal(), latency)
    free = job.model_copy(update={"latency": latency, "budget_bytes": everything})
    most = 1e-3
    goal = Goal(objective="fastest", max_kl=most)
    result = search(free.model_copy(update={"goal": goal}))

    assert result.best.quality.kl <= most
    assert pace.ms(result.best.plan.formats) < pace.ms({u.name: "BF16" for u in tiny_units})
    assert "the fastest by prediction" in result.best.plan.notes[0]
    with pytest.raises(InfeasibleError, match="keeps the limit on the KL"):
        search(job.model_copy(update={"latency": latency, "goal": Goal(objective="fastest", max_kl=1e-9)}))


def test_a_timed_goal_needs_times(tiny_units: list[Unit]) -> None:
    with pytest.raises(UsageError, match="rates are not known"):
        Pace(tiny_units, Goal(max_ms=1.0))
    pace = Pace(tiny_units, Goal(max_ms=0.5), column(tiny_units, rest_ms=1.0))
    with pytest.raises(InfeasibleError, match="that fast") as slow:
        pace.check(pace.whole_bytes)
    assert "0.5 ms per token at batch 1" in str(slow.value.got)
    assert "1 ms of it are beside" in str(slow.value.allowed)
    Pace(tiny_units, Goal(max_ms=100.0), column(tiny_units)).check(pace.whole_bytes)


def quick_spec(tiny_model_dir: Path, units: list[Unit], run_dir: Path, **changes: object) -> SearchSpec:
    job = spec(tiny_model_dir, units, run_dir, trials=0)
    update = {"sensitivity": "quick", **changes}
    return job.model_copy(update={"settings": job.settings.model_copy(update=update)})


def test_a_quick_plan_is_better_than_the_same_bytes_elsewhere_and_resumes(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    job, events = quick_spec(tiny_model_dir, tiny_units, tmp_path / "run"), []
    result = search(job, events)

    assert result.sensitivity_mode == "quick"
    assert result.cells_measured == 0
    assert result.trials == 0
    assert [m.quality.split for m in result.held_out] == ["select"]
    assert result.held_out[0].plan.formats == result.best.plan.formats
    assert "--sensitivity exact" in result.notes[0]
    assert "quick" in (sensitivity_words(result) or "")
    assert any(e.kind == "message" and "a quick plan" in e.text for e in events)
    assert not [e for e in events if e.kind in ("sensitivity", "trial")]
    assert not list((job.run_dir / "cache").rglob("variants"))
    assert len(list((job.run_dir / "cache").rglob("reference-*"))) == 1

    setup = Setup(job, lambda _event: None)
    table = setup.load_table()
    assert table is not None
    setup.settings = setup.settings.model_copy(update={"quick_tokens": 16})
    assert torch.equal(setup.quick_sequences.ids, setup.scored.spread(len(setup.quick_sequences)).ids[:, :16])
    scores = table.scores(G2DY2)
    reverse = {u: {f: 1 / s for f, s in row.items()} for u, row in scores.items()}
    backwards = solve(job.units, reverse, job.budget_bytes)
    uniforms = [uniform(job.units, f) for f in ("int4", "int8", "fp8")]
    fitting = [p.formats for p in uniforms if p.bytes_of(job.units) <= job.budget_bytes]
    assert fitting
    for other in (backwards, *fitting):
        assert result.best.quality.kl < setup.select.quality(other).kl

    again: list[Event] = []
    assert search(job, again).best == result.best
    assert [e.skipped for e in again if e.kind == "stage_finished" and e.stage == "sensitivity"] == [True]


def test_a_quick_table_is_not_taken_for_a_measured_one(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    quick = Setup(quick_spec(tiny_model_dir, tiny_units, tmp_path), lambda _event: None)
    score(quick, lambda _event: None)
    exact = Setup(spec(tiny_model_dir, tiny_units, tmp_path), lambda _event: None)

    assert exact.cache == quick.cache
    assert exact.load_table() is None


def test_a_quick_search_does_not_stream(tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds the whole model") as info:
        search(quick_spec(tiny_model_dir, tiny_units, tmp_path / "a", memory="streamed"))
    assert "--sensitivity fast --memory streamed" in str(info.value.next_step)
    with pytest.raises(EnvironmentProblem, match="not enough memory for a quick search"):
        search(quick_spec(tiny_model_dir, tiny_units, tmp_path / "b", memory_bytes=2**20))


def test_the_cache_is_within_its_limit_after_a_search_too(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVISOR_CACHE_LIMIT_GIB", str(2**20 / 2**30))
    job = quick_spec(tiny_model_dir, tiny_units, tmp_path / "run")
    other = job.run_dir / "cache" / "other"

    def make_other(event: Event) -> None:
        if event.kind == "stage_started" and event.stage == "select":  # as if another search had grown it
            other.mkdir(parents=True)
            (other / "x.safetensors").write_bytes(b"0" * 2**20)

    run_child("tuners.search.job", job, emit=make_other, log_path=tmp_path / "log.txt", stage="search")
    assert not other.exists()
