"""Stages: skipped when unchanged, never recorded when they failed, children that die are one error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from advisor.pipeline import export, footprint, latency, profile, quantize, search, validate
from advisor.pipeline.inputs import RunInputs, save_inputs
from advisor.pipeline.run import opened
from advisor.pipeline.stage import StageContext, run_stage
from advisor.workspace import StageRecord, write_text
from profiles.errors import EnvironmentProblem, ExitCode, Interrupted, RunFailed, UsageError
from tests.app.child_job import Spec
from tuners.child import run_child
from tuners.events import Event, StageFailed, StageFinished, StageStarted
from tuners.plan import PrecisionPlan


class Work:
    """A stage's work that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, stage: StageContext) -> str:
        self.calls += 1
        stage.workspace.path("out.txt").write_text("done")
        stage.emit(StageFinished(stage="s", title="child", seconds=1, peak_rss_bytes=123 + self.calls))
        return f"call {self.calls}"


def go(
    root: Path, work: Work, inputs: dict[str, int], *, resume: bool = True
) -> tuple[StageRecord, list[Event]]:
    seen: list[Event] = []
    with opened(root, seen.append) as context:
        record = run_stage(context, "s", "S", inputs, ("out.txt",), work, resume=resume)
    return record, seen


def test_an_unchanged_stage_is_skipped(tmp_path: Path) -> None:
    work = Work()
    first, events = go(tmp_path / "r", work, {"a": 1})
    again, skipped = go(tmp_path / "r", work, {"a": 1})
    assert work.calls == 1
    assert first == again
    assert first.peak_rss_bytes == 124
    assert [type(e) for e in events] == [StageStarted, StageFinished]
    assert [(type(e), e.skipped) for e in skipped if isinstance(e, StageFinished)] == [(StageFinished, True)]


def test_changed_inputs_a_missing_output_or_no_resume_run_it_again(tmp_path: Path) -> None:
    work = Work()
    go(tmp_path / "r", work, {"a": 1})
    go(tmp_path / "r", work, {"a": 2})
    assert work.calls == 2
    (tmp_path / "r" / "out.txt").unlink()
    go(tmp_path / "r", work, {"a": 2})
    assert work.calls == 3
    go(tmp_path / "r", work, {"a": 2}, resume=False)
    assert work.calls == 4


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (UsageError("no"), UsageError),
        (KeyboardInterrupt(), Interrupted),
        (OSError(28, "No space left on device"), EnvironmentProblem),
    ],
)
def test_a_failed_stage_leaves_no_record_and_says_so(
    tmp_path: Path, raised: BaseException, expected: type[Exception]
) -> None:
    def work(_: StageContext) -> str:
        raise raised

    seen: list[Event] = []
    with opened(tmp_path / "r", seen.append) as context, pytest.raises(expected):
        run_stage(context, "s", "S", {}, (), work)
    assert isinstance(seen[-1], StageFailed)
    assert not (tmp_path / "r" / "stages").exists()


def test_a_stage_without_its_output_has_failed(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as context, pytest.raises(RunFailed, match="without its output"):
        run_stage(context, "s", "S", {}, ("never.txt",), lambda _: "")


MODULES = {
    "profile": profile, "footprint": footprint, "latency": latency, "search": search, "quantize": quantize,
    "validate": validate, "export": export,
}  # fmt: skip


@pytest.mark.parametrize("last", ["quantize", "validate", "export"])
def test_without_resume_a_command_runs_its_own_stage_again_and_no_earlier_one(
    cli: Callable[..., tuple[int, str, str]],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last: str,
) -> None:
    kept: dict[str, bool] = {}

    def noted(name: str) -> Any:
        return lambda *_args, resume: kept.update({name: resume}) or SimpleNamespace(unit_bytes=0)

    for name, module in MODULES.items():
        monkeypatch.setattr(module, name, noted(name))
    monkeypatch.setattr("advisor.cli.report.answer", lambda root, json: 0)
    with opened(tmp_path / "r") as context:
        save_inputs(context.workspace, RunInputs(model=str(tiny), task="generic"))
        plan = PrecisionPlan(formats={"a": "W8A8"})
        write_text(context.workspace.path("plan.yaml"), plan.to_yaml())
    run = ("--run", tmp_path / "r", "--quiet")

    assert cli(last, "--no-resume", *run)[0] == 0
    assert [name for name, resumed in kept.items() if not resumed] == [last]
    assert list(kept) == list(MODULES)[: list(MODULES).index(last) + 1]
    assert cli(last, *run)[0] == 0
    assert all(kept.values())


def child(context: StageContext, mode: str, flag: str = "") -> str:
    answer = run_child(
        "tests.app.child_job",
        Spec(mode=mode, flag=flag),
        emit=context.emit,
        log_path=context.workspace.log_path("work"),
        stage="work",
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return str(answer["answer"])


def test_a_child_reports_its_result_and_its_peak(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as context:
        record = run_stage(context, "work", "Work", {}, (), lambda c: child(c, "fine"))
    assert record.summary == "42"
    assert record.peak_rss_bytes is not None
    assert record.peak_rss_bytes > 2**20


def test_a_killed_child_is_one_failed_stage_and_earlier_ones_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as context:
        run_stage(context, "before", "Before", {}, (), lambda _: "kept")
        with pytest.raises(RunFailed, match="SIGKILL") as failed:
            run_stage(context, "work", "Work", {}, (), lambda c: child(c, "killed"))
        assert failed.value.exit_code is ExitCode.RUN_FAILED
        assert list(context.workspace.records()) == ["before"]


def test_an_error_of_the_child_keeps_its_kind(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as context, pytest.raises(UsageError, match="does not like") as failed:
        run_stage(context, "work", "Work", {}, (), lambda c: child(c, "refused"))
    assert failed.value.next_step == "ask nicely"


INTERRUPTED = """
import signal, sys
from pathlib import Path
from advisor.__main__ import _on_terminate
from advisor.pipeline.run import opened
from advisor.pipeline.stage import run_stage
from profiles.errors import Interrupted
from tests.app.test_stages import child
# a test runner started in the background hands on an ignored SIGINT
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, _on_terminate)
try:
    with opened(Path(sys.argv[1])) as context:
        run_stage(context, "before", "Before", {}, (), lambda _: "kept")
        run_stage(context, "work", "Work", {}, (), lambda c: child(c, "hangs", sys.argv[2]))
except Interrupted as exc:
    sys.exit(int(exc.exit_code))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_its_child_keeps_its_work_and_frees_the_directory(
    tmp_path: Path, number: signal.Signals
) -> None:
    flag = tmp_path / "started"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "r"), str(flag)],
        cwd=Path(__file__).parents[2],
    )
    deadline = time.monotonic() + 60
    while not flag.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.wait(timeout=60) == ExitCode.INTERRUPTED
    with opened(tmp_path / "r") as context:
        assert list(context.workspace.records()) == ["before"]
