"""The run directory: one owner, inputs that stay, writes that are whole, errors that say what to do."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.pipeline.inputs import EFFORT, RunInputs, load_inputs, save_inputs
from advisor.workspace import (
    StageRecord,
    Workspace,
    default_run_dir,
    disk_errors,
    fingerprint,
    require_space,
    slug,
    write_json,
    write_text,
)
from profiles.errors import EnvironmentProblem, UsageError

HOLDER = """
import sys, time
from pathlib import Path
from advisor.workspace import Workspace
workspace = Workspace.open(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def hold(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_in_the_same_directory_is_refused_and_told_who_works_there(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        with pytest.raises(UsageError) as refused:
            Workspace.open(tmp_path / "run")
        assert f"pid {process.pid}" in str(refused.value.got)
        assert "--run" in str(refused.value.next_step)
    finally:
        process.kill()
        process.communicate()


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Workspace.open(tmp_path / "run"):
        assert f"pid {os.getpid()}" in (tmp_path / "run" / "lock").read_text()


def test_a_closed_run_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Workspace.open(tmp_path / "run") as workspace:
            assert workspace.root.is_dir()


def test_a_run_that_does_not_exist_is_not_created_by_looking(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run directory"):
        Workspace.open(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file"):
        Workspace.open(tmp_path / "file")


def test_writes_are_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "value.json"
    write_text(path, "old")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem) as problem:
        write_json(path, {"new": 1})
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["value.json"]
    assert "finished stages are kept" in str(problem.value.next_step)


def test_other_os_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), disk_errors(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "is a directory")


def test_too_little_space_is_refused_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(100, 90, 10))
    with pytest.raises(EnvironmentProblem, match="not enough disk space for the weights"):
        require_space(tmp_path / "not" / "yet", 11, "the weights")
    require_space(tmp_path / "not" / "yet", 10, "the weights")


def test_a_read_only_place_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot write"), disk_errors(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")


@given(st.text(min_size=1))
def test_slugs_are_safe_names(text: str) -> None:
    found = slug(text)
    assert found
    assert "/" not in found
    assert not found.startswith(".")


def test_the_default_directory_depends_on_the_question_only(tmp_path: Path) -> None:
    a = RunInputs(model="org/Model-1B", budget="5bits", task="generic", trials=3)
    b = a.model_copy(update={"trials": 99, "yes": True, "offline": True})
    c = a.model_copy(update={"budget": "6bits"})
    assert a.run_dir() == b.run_dir()
    assert a.run_dir() != c.run_dir()
    assert a.run_dir() == default_run_dir("org/Model-1B", a.identity())
    assert a.run_dir().name.startswith("Model-1B-")
    assert not a.identity().keys() & EFFORT


def test_other_inputs_in_the_same_directory_are_refused(tmp_path: Path) -> None:
    first = RunInputs(model="m", budget="5bits", task="generic")
    with Workspace.open(tmp_path / "run") as workspace:
        save_inputs(workspace, first)
        save_inputs(workspace, first.model_copy(update={"trials": 1}))
        with pytest.raises(UsageError) as refused:
            save_inputs(workspace, first.model_copy(update={"budget": "6bits"}))
        assert "budget: 5bits -> 6bits" in str(refused.value.got)
        assert load_inputs(workspace).budget == "5bits"
        assert load_inputs(workspace).trials == 1


def test_damaged_inputs_are_named(tmp_path: Path) -> None:
    (tmp_path / "inputs.yaml").write_text("model: [")
    with pytest.raises(UsageError, match="cannot read the inputs"):
        load_inputs(Workspace.read_only(tmp_path))


def test_a_stage_is_fresh_only_with_its_fingerprint_and_outputs(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "run") as workspace:
        workspace.path("out.json").write_text("{}")
        workspace.finish(StageRecord(name="s", fingerprint="f", seconds=1, outputs=("out.json",)))
        assert workspace.is_fresh("s", "f") is not None
        assert workspace.is_fresh("s", "g") is None
        assert workspace.is_fresh("t", "f") is None
        workspace.path("out.json").unlink()
        assert workspace.is_fresh("s", "f") is None


def test_a_damaged_record_counts_as_unfinished(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "run") as workspace:
        write_text(workspace.path("stages", "s.json"), '{"name": "s"')
        assert workspace.record("s") is None
        assert workspace.records() == {}


def test_records_come_in_the_order_of_finishing(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "run") as workspace:
        for age, name in ((30, "search"), (20, "quantize"), (10, "export")):
            workspace.finish(StageRecord(name=name, fingerprint="f", seconds=1))
            moment = time.time() - age
            os.utime(workspace.path("stages", f"{name}.json"), (moment, moment))
        assert list(workspace.records()) == ["search", "quantize", "export"]


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_fingerprints_do_not_depend_on_order(data: dict[str, int | str]) -> None:
    assert fingerprint(data) == fingerprint(dict(reversed(data.items())))
    assert fingerprint(data) != fingerprint({**data, "one more key": 1})
