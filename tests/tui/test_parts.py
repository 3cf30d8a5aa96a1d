"""The parts without a screen: following, folding, drawing, finding processes."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.tui.follow import Follower
from advisor.tui.process import owner
from advisor.tui.run_state import RunState
from advisor.tui.session import Session
from advisor.tui.themes import CYCLE, following
from advisor.tui.widgets.layer_grid import Place, heat_text, plan_text
from advisor.tui.words import bar, duration, size
from tests.tui.conftest import RECORDED
from tuners.events import Progress, StageFinished, StageStarted, TrialFinished


@settings(deadline=None)  # files
@given(cuts=st.lists(st.integers(0, 4000), max_size=8))
def test_events_arrive_whole_however_the_file_grows(tmp_path_factory, cuts: list[int]) -> None:  # type: ignore[no-untyped-def]
    data = "".join(
        Progress(stage="search", done=i, text="é" * 3).model_dump_json() + "\n" for i in range(12)
    ).encode()
    path = tmp_path_factory.mktemp("stream") / "events.jsonl"
    follower = Follower(path)
    assert follower.read() == []
    seen = []
    for end in [*sorted(min(c, len(data)) for c in cuts), len(data)]:
        path.write_bytes(data[:end])
        seen += follower.read()

    assert [e.done for e in seen] == list(range(12))  # type: ignore[union-attr]


def test_a_run_made_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    follower = Follower(path)
    path.write_text((Progress(done=1).model_dump_json() + "\n") * 3)
    assert len(follower.read()) == 3
    path.write_text(Progress(done=2).model_dump_json() + "\n")

    assert [e.done for e in follower.read()] == [2]  # type: ignore[union-attr]


def test_replaying_the_recorded_run_gives_its_result() -> None:
    state = RunState(root=RECORDED)
    state.apply(Follower(RECORDED / "events.jsonl").read())

    assert len(state.trials) == 12
    assert state.best_trial is not None
    assert state.best_trial.kl == min(
        t.kl for t in state.trials if t.state == "complete" and t.kl is not None
    )
    assert state.words == "finished"
    assert {"profile", "search", "quantize", "validate", "export"} <= set(state.stages)
    assert state.current is None


def test_a_stage_that_never_ended_is_not_called_finished() -> None:
    state = RunState(root=RECORDED)
    state.apply([StageStarted(stage="search", title="Searching")])
    assert state.words == "ended without a word"
    state.owner = os.getpid()
    assert state.words == "live"
    state.apply([StageFinished(stage="search", title="Searching", seconds=1)])
    state.owner = None
    assert state.words == "finished"


def test_pruned_trials_are_never_the_best() -> None:
    def trial(number: int, kl: float, state: str) -> TrialFinished:
        return TrialFinished(
            number=number, label=f"t{number}", state=state, kl=kl, weight_bytes=1, bits_per_weight=5,
            best_kl=None, trials_total=2, seconds=0,
        )  # fmt: skip

    state = RunState()
    state.apply([trial(0, 0.5, "complete"), trial(1, 0.1, "pruned")])

    assert state.best_trial is not None
    assert state.best_trial.number == 0


def test_owner_is_a_process_that_lives_and_matches(tmp_path: Path) -> None:
    assert owner(tmp_path) is None
    argv = Path("/proc/self/cmdline").read_bytes().decode().replace("\0", " ").split()
    (tmp_path / "lock").write_text(f"pid {os.getpid()}: x {argv[-1]}\n")
    assert owner(tmp_path) == os.getpid()
    (tmp_path / "lock").write_text(f"pid {os.getpid()}: x tune something else entirely\n")
    assert owner(tmp_path) is None
    (tmp_path / "lock").write_text("pid 999999999: x\n")
    assert owner(tmp_path) is None
    (tmp_path / "lock").write_text("not a lock")
    assert owner(tmp_path) is None


def test_a_plan_is_read_without_colour() -> None:
    units = {f"layers.{b}.{r}": Place(r, b) for b in range(3) for r in ("qkv", "down")}
    formats = {
        name: ("W8A8" if place.role == "down" else "W4A16_G128" if place.block else "BF16")
        for name, place in units.items()
    }
    rows = [line.split() for line in plan_text(formats, units, 60).plain.splitlines()]

    assert ["qkv", "B", "4", "4"] in rows
    assert ["down", "8", "8", "8"] in rows
    assert "W8A8 x 3" in plan_text(formats, units, 60).plain


@given(
    blocks=st.integers(1, 130),
    width=st.integers(20, 200),
    values=st.lists(st.floats(1e-9, 10), min_size=1, max_size=4),
)
def test_the_map_fits_its_width_and_shows_every_cell(blocks: int, width: int, values: list[float]) -> None:
    units = {f"layers.{b}.qkv": Place("qkv", b) for b in range(blocks)}
    table = {name: {"W8A8": values[i % len(values)]} for i, name in enumerate(units)}
    first, *lines = heat_text(table, units, width).plain.splitlines()
    cells = "".join(line.removeprefix("W8A8 qkv") for line in lines if line.startswith("W8A8 qkv"))

    assert "nats per token" in first
    assert sum(c.isdigit() for c in cells) == blocks
    assert all(len(line) <= max(width, 22) for line in lines)


@given(share=st.floats(-1, 2), width=st.integers(1, 80))
def test_a_bar_has_its_width(share: float, width: int) -> None:
    assert len(bar(share, width)) == width
    assert abs(bar(share, width).count("█") - max(0.0, min(1.0, share)) * width) <= 0.5


def test_words() -> None:
    assert size(None) == "-"
    assert size(3 * 2**29) == "1.5 GiB"
    assert duration(4000) == "1 h 06 min"


def test_commands_leave_out_what_is_default() -> None:
    assert Session(model="m", through="search").tune_command() == ["tune", "m", "--budget", "5.5bits"]
    asked = Session(model="m", budget="", context=4096, tp=2, gpu="h100", count=2, trials=8, task="code")
    assert asked.tune_command() == [
        "tune", "m", "--task", "code", "--gpu", "h100", "--count", "2", "--context", "4096", "--tp", "2",
        "--trials", "8", "--through", "export",
    ]  # fmt: skip


def test_themes_go_round() -> None:
    seen = {CYCLE[0]}
    name = following(CYCLE[0])
    while name != CYCLE[0]:
        seen.add(name)
        name = following(name)

    assert seen == set(CYCLE)
    assert following("a theme of the user") == CYCLE[0]
