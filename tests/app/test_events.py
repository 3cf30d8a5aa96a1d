"""The journal and what is shown of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from advisor.cli import progress
from advisor.journal import Journal, read_journal
from tuners.events import ChildLog, Event, Message, Progress, StageFailed, StageFinished, TrialFinished


def test_events_are_lines_and_listeners_hear_all(tmp_path: Path) -> None:
    heard: list[Event] = []
    journal = Journal(tmp_path / "events.jsonl", heard.append)
    journal(Message(text="one"))
    journal(ChildLog(source="engine", text="noise"))
    journal.close()
    journal(Message(text="after the end"))
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one"]
    assert len(heard) == 3


def test_a_resumed_run_appends_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for text in ("first", "second"):
        journal = Journal(path)
        journal(Message(text=text))
        journal.close()
    with path.open("a") as out:
        out.write('{"kind": "message", "te')
    assert [e.text for e in read_journal(path) if isinstance(e, Message)] == ["first", "second"]
    assert list(read_journal(tmp_path / "none")) == []


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    threads = [
        threading.Thread(target=lambda n=n: [journal(Message(text=f"{n}-{i}" * 50)) for i in range(50)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert len(list(read_journal(tmp_path / "events.jsonl"))) == 400


def test_plain_progress_is_lines_on_stderr_and_not_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    plain = progress.Plain()
    for done in range(100):
        plain(Progress(stage="search", done=done, total=100, eta_s=90))
    plain(StageFinished(stage="search", title="Search", seconds=61, summary="best"))
    plain(StageFailed(stage="quantize", error={"what": "no disk"}))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "search: 0/100, ETA 1 min 30 s",
        "search: done in 1 min 01 s - best",
        "quantize: failed - no disk",
    ]


def test_quiet_still_warns(capsys: pytest.CaptureFixture[str]) -> None:
    silent = progress.Silent()
    silent(Progress(stage="s", done=1))
    silent(Message(level="warning", text="mind the gap"))
    silent.close()
    assert capsys.readouterr() == ("", "warning: mind the gap\n")


def test_not_a_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress.renderer(quiet=False), progress.Plain)
    assert isinstance(progress.renderer(quiet=True), progress.Silent)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = progress.renderer(quiet=False)
    assert isinstance(bar, progress.Bar)
    bar(Progress(stage="s", done=1, total=2))
    bar(StageFinished(stage="s", title="S", seconds=1))
    bar.close()


def test_a_trial_line_says_what_was_measured() -> None:
    trial = TrialFinished(
        number=4, label="TPE", state="complete", kl=0.2, weight_bytes=1, bits_per_weight=5.5, best_kl=0.1,
        trials_total=32, seconds=3,
    )  # fmt: skip
    assert progress.line(trial) == "trial 5/32: TPE complete, KL 0.200, best 0.100"


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.26, "8.3 s"), (245, "4 min 05 s"), (4320, "1 h 12 min"), (59.99, "60.0 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
