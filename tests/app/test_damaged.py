"""Files damaged under a run: a clear error, the next step, and nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.pipeline.facts import Facts
from advisor.pipeline.quantize import check_checkpoint, damage
from advisor.pipeline.tokenizer import check_tokenizer
from advisor.workspace import Workspace
from profiles.errors import RunFailed, UsageError
from profiles.models.reader import read_model
from profiles.tasks import load_task
from tests.app.tiny import write_tiny
from tests.quantize.files import quantized_tensors, write_quantized
from tests.validate.examples import cpu_device, hardware
from tuners.plan import PrecisionPlan
from tuners.quantize.job import MARKER, run
from tuners.quantize.schema import QuantizeSpec
from tuners.units import build_units, fixed_bytes

TOKENS = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 255}}}


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """The tiny model with a tokenizer."""
    folder = write_tiny(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENS))
    model = read_model(str(folder))
    units = tuple(build_units(model, cpu_device()))
    return Facts(hardware=hardware(), model=model, task=load_task("generic"), units=units,
                 fixed_bytes=fixed_bytes(model, units))  # fmt: skip


@pytest.fixture
def plan(facts: Facts) -> PrecisionPlan:
    return PrecisionPlan(formats={u.name: "W8A8" for u in facts.units})


@pytest.fixture
def workspace(tmp_path: Path, facts: Facts, plan: PrecisionPlan) -> Any:
    """A run with a finished checkpoint of zeros."""
    with Workspace.open(tmp_path / "run") as found:
        tensors = quantized_tensors(facts.units, plan)
        rest = {t.name: (t.dtype, t.shape) for t in facts.model.tensors
                if t.name.endswith(("norm.weight", "layernorm.weight", "embed_tokens.weight"))}  # fmt: skip
        mine = {n: t for n, t in tensors.items() if n.startswith("model.layers.") and "router" not in n}
        write_quantized(found.path("checkpoint"), facts.units, plan, rest | mine)
        found.path("checkpoint", "tokenizer.json").write_text(json.dumps(TOKENS))
        yield found


def test_a_sound_checkpoint_passes(workspace: Workspace, facts: Facts, plan: PrecisionPlan) -> None:
    assert damage(workspace, facts, plan) is None
    check_checkpoint(workspace, facts, plan)


@pytest.mark.parametrize(
    ("hurt", "words"),
    [
        ("truncated", "model.safetensors"),
        ("no header", "model.safetensors"),
        ("gone", ""),
        ("config", "config.json"),
        ("tokenizer", "tokenizer"),
        ("no tokenizer", "tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_refused_before_the_engine_starts(
    workspace: Workspace, facts: Facts, plan: PrecisionPlan, hurt: str, words: str
) -> None:
    folder = workspace.path("checkpoint")
    weights = folder / "model.safetensors"
    if hurt == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif hurt == "no header":
        weights.write_bytes(b"\xff" * 64)
    elif hurt == "gone":
        weights.unlink()
    elif hurt == "config":
        (folder / "config.json").write_text("{")
    elif hurt == "tokenizer":
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"other": 0}}}))
    else:
        (folder / "tokenizer.json").unlink()

    with pytest.raises(RunFailed, match="damaged") as caught:
        check_checkpoint(workspace, facts, plan)
    assert words in f"{caught.value.where} {caught.value.got}"
    assert f"advisor quantize --run {workspace.root}" in (caught.value.next_step or "")


def test_another_plans_checkpoint_is_not_taken_for_this_one(
    workspace: Workspace, facts: Facts, plan: PrecisionPlan
) -> None:
    other = PrecisionPlan(formats={**plan.formats, facts.units[0].name: "BF16"})
    with pytest.raises(RunFailed, match="not this plan's"):
        check_checkpoint(workspace, facts, other)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps({"model": {"vocab": {"a": 256}}}), "another model's"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps({"model": {"vocab": {"a": "x"}}}), "cannot be read"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(facts: Facts, text: str, words: str) -> None:
    check_tokenizer(facts.model)
    Path(facts.model_path, "tokenizer.json").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        check_tokenizer(facts.model)
    assert caught.value.next_step


def test_a_finished_checkpoint_that_was_damaged_is_written_again(
    facts: Facts, plan: PrecisionPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker says finished, the files say otherwise: the writer is called again."""
    from tests.quantize.test_job import finish
    from tests.quantize.test_job import spec_of as job_spec

    spec: QuantizeSpec = job_spec(tmp_path, overwrite=True)
    finish(spec)
    assert run(spec, lambda _: None).skipped
    weights = Path(spec.out_dir, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-10])
    called: list[Path] = []

    def write(*args: Any) -> Any:
        called.append(args[2])
        raise RunFailed("written again")

    monkeypatch.setattr("tuners.quantize.job.write_checkpoint", write)
    with pytest.raises(RunFailed, match="written again"):
        run(spec, lambda _: None)
    assert called == [spec.partial_dir]
    assert Path(spec.out_dir, MARKER).exists()  # nothing was removed before the new one is whole
