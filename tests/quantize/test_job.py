"""The job's decisions before and after the heavy part, without a model."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from profiles.errors import EnvironmentProblem, RunFailed, UsageError
from tests.quantize.files import quantized_tensors, write_quantized, write_source
from tests.quantize.models import llama_units, plan_of
from tuners.events import Event
from tuners.quantize import QuantizeResult, QuantizeSpec, job
from tuners.quantize.job import MARKER, _publish, fingerprint, finished, run
from tuners.quantize.source import read_source

UNITS = llama_units(1)
PLAN = plan_of(UNITS, "W4A16_G32", "W8A8")


def spec_of(tmp_path: Path, **changes: object) -> QuantizeSpec:
    """A request on a source made of zeros."""
    source = tmp_path / "source"
    if not source.exists():
        write_source(source, UNITS)
    return QuantizeSpec.model_validate(
        {
            "model_path": str(source),
            "units": UNITS,
            "plan": PLAN,
            "out_dir": str(tmp_path / "out"),
            "calibration_texts": ("some text",),
            **changes,
        }
    )


def finish(spec: QuantizeSpec) -> str:
    """Lay a finished checkpoint of the request where it belongs; return its fingerprint."""
    out = write_quantized(Path(spec.out_dir), UNITS, PLAN, quantized_tensors(UNITS, PLAN))
    key = fingerprint(spec, read_source(spec.model_path, UNITS))
    result = QuantizeResult(
        checkpoint=str(out), files=(), weight_bytes=1, unit_bytes=1, seconds=1, peak_rss_bytes=1,
        recipe="", compute_dtype="float32", compute_reason="", calibration_tokens=0, methods={},
        plan_key=PLAN.key,
    )  # fmt: skip
    (out / MARKER).write_text(f"{key}\n{result.model_dump_json()}\n")
    return key


def test_a_finished_checkpoint_of_the_same_request_is_kept(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    finish(spec)
    events: list[Event] = []

    assert run(spec, events.append).skipped
    assert [e.kind for e in events] == ["stage_started", "stage_finished"]


@pytest.mark.parametrize("recover_steps", [0, 1])  # recovery alone would take the plain checkpoint
def test_asked_anew_it_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recover_steps: int
) -> None:
    finish(spec_of(tmp_path))
    spec = spec_of(tmp_path, anew=True, overwrite=True, recover_steps=recover_steps)

    def begun(*_: object) -> None:
        raise RunFailed("writing has begun")

    monkeypatch.setattr(job, "write_checkpoint", begun)
    with pytest.raises(RunFailed, match="writing has begun"):
        run(spec, lambda _: None)


def test_another_request_does_not_take_it_for_its_own(tmp_path: Path) -> None:
    key = finish(spec_of(tmp_path))
    other = spec_of(tmp_path, num_samples=17)
    with pytest.raises(UsageError, match="already holds something else"):
        run(other, lambda _: None)
    assert finished(Path(other.out_dir), fingerprint(other, read_source(other.model_path, UNITS))) is None
    assert finished(Path(other.out_dir), key) is not None


def test_files_of_others_are_never_replaced(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, overwrite=True)
    Path(spec.out_dir).mkdir()
    (Path(spec.out_dir) / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="already holds something else"):
        run(spec, lambda _: None)
    assert (Path(spec.out_dir) / "thesis.txt").read_text() == "mine"


def test_too_little_disk_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 5, 5))
    with pytest.raises(EnvironmentProblem, match="not enough disk space") as caught:
        run(spec_of(tmp_path), lambda _: None)
    assert caught.value.got == "5 bytes free"
    assert not spec_of(tmp_path).partial_dir.exists()


def test_a_uniform_16_bit_plan_has_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to quantize"):
        run(spec_of(tmp_path, plan=plan_of(UNITS, "BF16")), lambda _: None)


def test_publishing_replaces_the_old_folder_whole(tmp_path: Path) -> None:
    old, new = tmp_path / "out", tmp_path / "out.partial"
    for folder, name in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / name).write_text(name)
    _publish(new, old)

    assert [p.name for p in old.iterdir()] == ["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
