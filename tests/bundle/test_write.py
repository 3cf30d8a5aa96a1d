"""A finished bundle is whole, and is never lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.bundle import verify
from advisor.bundle import write as writing
from profiles.errors import EnvironmentProblem, UsageError
from tests.bundle.conftest import Writer

EXPECTED = {
    "serve.yaml", "env.sh", "run.sh", "compose.yaml", "README.md", "plan.yaml", "validation.json",
    "recipe.yaml", "bundle.json", "provenance.json", "deploy/targets.json", "deploy/tiny-64-6-bits.service",
    "deploy/llama.cpp/quantize.sh", "deploy/llama.cpp/Modelfile",
    "model/config.json", "model/model.safetensors", "model/recipe.yaml",
}  # fmt: skip


def test_every_file_is_there_and_hashed(write: Writer, tmp_path: Path) -> None:
    files = write()

    assert {f.relative_to(tmp_path / "bundle").as_posix() for f in files} == EXPECTED
    assert verify(tmp_path / "bundle") == []
    assert not (tmp_path / "bundle.partial").exists()


def test_the_checkpoint_takes_no_second_copy(write: Writer, tmp_path: Path, checkpoint: Path) -> None:
    write()
    linked = tmp_path / "bundle" / "model" / "model.safetensors"

    assert linked.samefile(checkpoint / "model.safetensors")


def test_a_changed_a_missing_and_an_unlisted_file_are_named(write: Writer, tmp_path: Path) -> None:
    write()
    bundle = tmp_path / "bundle"
    (bundle / "serve.yaml").write_text("model: other\n")
    (bundle / "env.sh").unlink()
    (bundle / "extra").write_text("")

    assert verify(bundle) == ["env.sh: missing", "serve.yaml: changed", "extra: not in the manifest"]


def test_a_finished_bundle_is_only_replaced_when_asked(write: Writer, tmp_path: Path) -> None:
    write()
    before = (tmp_path / "bundle" / "bundle.json").read_text()

    with pytest.raises(UsageError, match="finished bundle"):
        write(task_name="code")
    assert (tmp_path / "bundle" / "bundle.json").read_text() == before

    write(task_name="code", force=True)
    assert '"task": "code"' in (tmp_path / "bundle" / "bundle.json").read_text()
    assert not (tmp_path / "bundle.old").exists()


def test_other_directories_are_left_alone_even_with_force(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")

    with pytest.raises(UsageError, match="left alone"):
        write(tmp_path / "home", force=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years"


def test_a_full_disk_leaves_the_old_bundle_and_nothing_half_done(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    before = (tmp_path / "bundle" / "bundle.json").read_text()

    def full(context: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(writing.ARTIFACTS, "validation.json", full)
    with pytest.raises(EnvironmentProblem, match="could not be written") as caught:
        write(force=True)

    assert caught.value.got is not None
    assert "No space left" in caught.value.got
    assert (tmp_path / "bundle" / "bundle.json").read_text() == before
    assert not (tmp_path / "bundle.partial").exists()


def test_a_left_over_partial_is_replaced(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "bundle.partial" / "model").mkdir(parents=True)
    (tmp_path / "bundle.partial" / "junk").write_text("killed here")

    write()

    assert verify(tmp_path / "bundle") == []


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_half_a_checkpoint_is_refused(write: Writer, checkpoint: Path, missing: str) -> None:
    (checkpoint / missing).unlink()

    with pytest.raises(UsageError, match="not a checkpoint"):
        write()
