"""A run followed from its event stream, started, stopped, crashed, and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from textual.pilot import Pilot

from advisor.cli import runs
from advisor.tui import app as app_module
from advisor.tui.app import AdvisorApp
from advisor.tui.messages import Answer
from advisor.tui.process import Launched
from advisor.tui.widgets.lists import Table
from advisor.tui.widgets.stages import Stages
from profiles.errors import RunFailed
from tests.tui.driving import HANG_S, append, drive, opened, shows, text, until
from tuners.events import Message, StageFailed, StageStarted


def lines_of(run: Path) -> list[str]:
    """The recorded stream."""
    return (run / "events.jsonl").read_text().splitlines()


def test_a_stream_is_followed_while_it_grows(recorded: Path) -> None:
    lines = lines_of(recorded)
    trials = [i for i, line in enumerate(lines) if json.loads(line)["kind"] == "trial"]
    cut = trials[4]
    (recorded / "events.jsonl").write_text("\n".join(lines[:cut]) + "\n")

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        table = app.screen.query_one("#history", Table)
        await until(pilot, lambda: table.row_count == 4)
        append(recorded / "events.jsonl", lines[cut:])
        await until(pilot, lambda: table.row_count == len(trials))
        await shows(app, pilot, "best KL", "W8A8 x", "Trials 12")

    drive(scenario, run=recorded)


def test_the_stage_at_work_stays_in_sight_until_the_reader_scrolls_away(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = lines_of(recorded)
    stages = [i for i, line in enumerate(lines) if json.loads(line)["kind"] == "stage_started"]
    (recorded / "events.jsonl").write_text("\n".join(lines[: stages[-2]]) + "\n")
    for cached in recorded.glob("validation*.json"):
        cached.unlink()
    worker: list[int] = []
    monkeypatch.setattr(AdvisorApp, "working", lambda _app: worker[-1] if worker else None)

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "5", "validate")
        panel = app.screen.query_one(Stages)
        await until(pilot, lambda: panel.max_scroll_y > 0)
        assert panel.scroll_y == 0
        worker.append(os.getpid())  # the run is resumed
        append(recorded / "events.jsonl", [StageStarted(stage="more", title="One more").model_dump_json()])
        await until(pilot, lambda: panel.max_scroll_y > 0 and panel.scroll_y == panel.max_scroll_y)
        said = Message(text="something was said").model_dump_json()
        extra = StageStarted(stage="extra", title="Yet another").model_dump_json()
        append(recorded / "events.jsonl", [extra, *[said] * 8])
        await shows(app, pilot, "▶ Yet another", "the run is at work")
        panel.scroll_home(animate=False)
        await until(pilot, lambda: panel.scroll_y == 0)
        append(
            recorded / "events.jsonl", [StageStarted(stage="last", title="The last one").model_dump_json()]
        )
        await until(pilot, lambda: "last" in app.run_state.stages)
        await pilot.pause(1)
        assert panel.scroll_y == 0

    drive(scenario, run=recorded, size=(80, 24))


def test_without_a_run_the_validation_screen_says_where_runs_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "5", "validate")
        await shows(app, pilot, "no run is open: 4 starts one")
        assert "s quantizes" not in text(app)

    drive(scenario, run=None)


def test_the_sensitivity_map_is_drawn(recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "3", "task")
        await shows(app, pilot, "nats per token", "gate_up", "cells")

    drive(scenario, run=recorded)


def test_the_budget_line_selects_another_plan(recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await shows(app, pilot, "Plan: Advisor")
        await pilot.press("less_than_sign")
        await shows(app, pilot, "Best under 6.75 bits")

    drive(scenario, run=recorded)


def test_a_failed_stage_shows_the_error_and_the_next_step(recorded: Path) -> None:
    error = RunFailed("the engine died", got="killed by signal 9", next_step="read logs/validate.log")
    append(
        recorded / "events.jsonl",
        [
            StageStarted(stage="validate", title="Measuring").model_dump_json(),
            StageFailed(stage="validate", error=error.as_dict()).model_dump_json(),
            '{"cut by a cra',
        ],
    )

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await shows(app, pilot, "the engine died", "next: read logs/validate.log", "failed")
        await opened(app, pilot, "5", "validate")
        await shows(app, pilot, "the engine died")

    drive(scenario, run=recorded)


def test_a_command_that_fails_at_once_leaves_the_interface_alive(tmp_path: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await pilot.press("s")
        await until(pilot, lambda: app.launched is not None and not app.launched.running)
        await shows(app, pilot, "exit code")
        assert app.working() is None
        await opened(app, pilot, "1", "hardware")

    drive(scenario, model=str(tmp_path / "no-model"), gpu=None)


def test_start_without_a_model_says_what_to_do() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await pilot.press("s")
        await shows(app, pilot, "no model is chosen")
        assert app.launched is None

    drive(scenario)


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Launched]]:
    """Commands are replaced by a process that waits; the ones started are listed."""
    started: list[Launched] = []

    def launch(arguments: list[str], log: Path) -> Launched:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
        started.append(Launched(arguments, process, tmp_path / "log"))
        return started[-1]

    monkeypatch.setattr(app_module, "launch", launch)
    yield started
    for one in started:
        one.process.kill()
        one.process.wait()


def test_stop_ends_the_process(sleeper: list[Launched], recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "5", "validate")
        await pilot.press("s")
        assert sleeper[0].arguments == ["validate", "--run", str(recorded)]
        await pilot.press("s")
        assert len(sleeper) == 1
        await pilot.press("x")
        await until(pilot, lambda: not sleeper[0].running)
        await until(pilot, lambda: app.working() is None)

    drive(scenario, run=recorded)


def test_quit_asks_while_work_runs_and_leaves_it_running(sleeper: list[Launched], recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "6", "export")
        await pilot.press("s", "q")
        await shows(app, pilot, "Leave it running")
        await pilot.press("escape")
        await until(pilot, lambda: len(app.screen_stack) == 1)
        assert app.is_running
        await pilot.press("q")
        await shows(app, pilot, "Leave it running")
        await pilot.press("l")

    app = drive(scenario, run=recorded)

    assert app.return_value == 0
    assert sleeper[0].running


def test_quit_is_immediate_when_nothing_runs() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await pilot.press("q")

    assert drive(scenario).return_value == 0


def test_a_live_run_is_attached_to(recorded: Path) -> None:
    """The lock names a process that lives: this one."""
    argv = Path("/proc/self/cmdline").read_bytes().decode().split("\0")
    (recorded / "lock").write_text(f"pid {os.getpid()}: {' '.join([argv[0], argv[-2]])}\n")

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "7", "runs")
        await shows(app, pilot, "▶", "live")
        await pilot.press("D")
        await shows(app, pilot, "stop it first")

    drive(scenario, run=recorded)
    assert recorded.exists()


def test_validation_log_and_answers(recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "5", "validate")
        await shows(app, pilot, "Answers of the original", "quantized")
        (recorded / "logs").mkdir(exist_ok=True)
        (recorded / "logs" / "validate.log").write_text("INFO the engine says hello\n")
        await pilot.press("l")
        await shows(app, pilot, "the engine says hello")
        await pilot.press("l")
        await shows(app, pilot, "Answers of the original")

    drive(scenario, run=recorded)


def test_bundle_preview_and_serve_command(recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "6", "export")
        table = app.screen.query_one("#files", Table)
        await until(pilot, lambda: table.row_count >= 3)
        names = table.keys
        table.move_cursor(row=names.index("run.sh"))
        await shows(app, pilot, "#!")
        await pilot.press("y")
        assert app.clipboard == f"{recorded}/bundle/run.sh"
        await pilot.press("p")
        assert app.clipboard == str((recorded / "bundle" / "run.sh").resolve())

    drive(scenario, run=recorded)


def test_open_compare_and_delete(recorded: Path) -> None:
    other = recorded.with_name("other")
    other.mkdir()
    for name in ("inputs.yaml", "plan.yaml"):
        (other / name).write_text((recorded / name).read_text())
    plan = (other / "plan.yaml").read_text()
    (other / "plan.yaml").write_text(plan.replace(": W8A8", ": FP8_DYNAMIC", 1))

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "7", "runs")
        table = app.screen.query_one("#runs", Table)
        await until(pilot, lambda: table.row_count == 2)
        await pilot.press("g", "space", "j", "v")
        await shows(app, pilot, "1 units differ", "FP8_DYNAMIC", "advisor-runs/other", "advisor-runs/tiny")
        await pilot.press("escape", "g", "enter")
        await until(pilot, lambda: app.session.run == Path("advisor-runs/other"))
        await pilot.press("D")
        await shows(app, pilot, "with its checkpoint")
        await until(pilot, lambda: app.focused is not None and app.focused.id == "answer-keep")
        await pilot.press("enter")
        await until(pilot, lambda: len(app.screen_stack) == 1)
        assert other.exists()
        await pilot.press("D")
        await shows(app, pilot, "with its checkpoint")
        await pilot.press("D")
        await until(pilot, lambda: not other.exists() and table.row_count == 1)
        assert app.session.run is None

    drive(scenario)
    assert recorded.exists()


def test_a_look_that_comes_back_late_does_not_bring_back_what_is_gone(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = recorded.with_name("other")
    other.mkdir()
    (other / "inputs.yaml").write_text((recorded / "inputs.yaml").read_text())
    holding, held, release, describe = threading.Event(), threading.Event(), threading.Event(), runs.describe
    answers: list[bool] = []
    late = cast("Callable[[Answer], bool]", vars(Answer)["late"].fget)

    def slow(root: Path) -> dict[str, Any]:
        found = describe(root)
        if holding.is_set() and root.name == "tiny":  # the other run has been described by now
            held.set()
            release.wait(HANG_S)
        return found

    def noted(answer: Answer) -> bool:
        answers.append(late(answer))
        return answers[-1]

    monkeypatch.setattr(runs, "describe", slow)
    monkeypatch.setattr(Answer, "late", property(noted))

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "7", "runs")
        table = app.screen.query_one("#runs", Table)
        await until(pilot, lambda: table.row_count == 2)
        holding.set()
        await pilot.press("R")
        await until(pilot, held.is_set)
        holding.clear()
        shutil.rmtree(other)
        await pilot.press("R")
        await until(pilot, lambda: table.row_count == 1)
        release.set()
        await until(pilot, lambda: True in answers)
        assert table.row_count == 1

    drive(scenario)


def test_an_empty_place_says_how_to_begin() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "7", "runs")
        await shows(app, pilot, "4 starts one")
        await pilot.press("enter", "space", "v", "D", "r")
        await opened(app, pilot, "6", "export")
        assert "no bundle yet" in text(app)

    drive(scenario)
