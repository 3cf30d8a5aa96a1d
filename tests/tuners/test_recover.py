"""Recovery on a tiny trained model: untrained it is the checkpoint, training helps, bad text is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pytest
import torch
from safetensors.torch import load_file, save_file

from profiles.errors import EnvironmentProblem, UsageError
from profiles.formats import get_format
from profiles.tasks.split import fingerprint
from tests.tuners.conftest import sentences
from tuners.evaluate import compare
from tuners.events import Event
from tuners.model.host import ModelHost
from tuners.model.variants import LinearVariant, rtn
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize import recover
from tuners.quantize.codes import read_codes, write_codes
from tuners.quantize.recover import RecoverSpec, recover_checkpoint
from tuners.quantize.served import install_checkpoint
from tuners.quantize.student import make_student

FORMATS = ("W4A16_G32", "W8A8", "W4A16_ASYM_G64", "FP8_DYNAMIC", "BF16")


def written(host: ModelHost, plan: PrecisionPlan, folder: Path) -> Path:
    """The plan's checkpoint, rounded to nearest, as compressed-tensors stores it."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    tensors = {n: p.data.to(torch.bfloat16).clone() for n, p in host.model.named_parameters()}
    for unit in host.units.values():
        fmt = get_format(plan.formats[unit.name])
        for linear in unit.linears if fmt.weight_bits < 16 else ():
            weight = tensors.pop(f"{linear.name}.weight")
            made = rtn(weight, fmt)
            tensors |= write_codes(linear.name, fmt, made.codes, made.scale)
            if fmt.packed_shape_bytes:
                tensors[f"{linear.name}.weight_shape"] = torch.tensor(weight.shape)
            if made.zero is not None:
                packed = pack_to_int32(made.zero, fmt.weight_bits, packed_dim=0)
                tensors[f"{linear.name}.weight_zero_point"] = packed.contiguous()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def mixed(tiny_units: Sequence[Unit]) -> PrecisionPlan:
    return PrecisionPlan(formats={u.name: FORMATS[i % len(FORMATS)] for i, u in enumerate(tiny_units)})


def spec_of(model: Path, units: Sequence[Unit], plan: PrecisionPlan, **changes: object) -> RecoverSpec:
    return RecoverSpec.model_validate(
        {
            "model_path": str(model), "units": tuple(units), "plan": plan, "texts": tuple(sentences(40, 2)),
            "steps": 40, "seq_len": 40, "least": 48, **changes,
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", FORMATS[:-1])
def test_codes_come_back_from_the_file(name: str) -> None:
    fmt = get_format(name)
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    made = rtn(weight, fmt)
    tensors = write_codes("m", fmt, made.codes, made.scale)
    tensors["m.weight_shape"] = torch.tensor([48, 64])
    found = read_codes(tensors, "m", fmt)

    assert torch.equal(found.codes.float(), made.codes.float())
    assert torch.equal(
        LinearVariant(found.codes, found.scale, made.zero).dequantize(torch.float32),
        made.dequantize(torch.float32),
    )


def test_an_untrained_student_is_the_checkpoint(
    tiny_model_dir: Path, tiny_units: Sequence[Unit], mixed: PrecisionPlan, tmp_path: Path
) -> None:
    host = ModelHost.load(tiny_model_dir, tiny_units)
    folder = written(host, mixed, tmp_path / "checkpoint")
    ids = host.tokenise(sentences(8, 3), seq_len=32)
    install_checkpoint(host, folder, mixed)
    served = host.logits(ids)
    student = make_student(ModelHost.load(tiny_model_dir, tiny_units), folder, mixed)
    with torch.no_grad():
        assert torch.allclose(student.logits(ids), served, atol=1e-5)
    assert student.flipped() == 0
    before = load_file(folder / "model.safetensors")
    for name, tensor in student.changed().items():
        assert torch.equal(tensor.float(), before[name].float()), name
    assert any(bool((x != x.round()).any()) for x in student.latents())


def test_training_helps_on_unseen_text_and_changes_values_alone(
    tiny_model_dir: Path, tiny_units: Sequence[Unit], mixed: PrecisionPlan, tmp_path: Path
) -> None:
    host = ModelHost.load(tiny_model_dir, tiny_units)
    folder = written(host, mixed, tmp_path / "checkpoint")
    ids = host.tokenise(sentences(16, 3), seq_len=32)
    reference = torch.log_softmax(host.logits(ids), -1)
    before = load_file(folder / "model.safetensors")

    def held_out() -> float:
        other = ModelHost.load(tiny_model_dir, tiny_units)
        install_checkpoint(other, folder, mixed)
        return median(x.kl for x in compare(other.logits(ids), reference, ids))

    rounded = held_out()
    events: list[Event] = []
    result = recover_checkpoint(folder, spec_of(tiny_model_dir, tiny_units, mixed), events.append)
    after = load_file(folder / "model.safetensors")

    assert result.kept
    assert result.kl_after < result.kl_before
    assert result.check_tokens == round(0.15 * 48) * 40  # written ones fill the check, too
    assert held_out() < 0.9 * rounded
    assert 0 < result.flipped < 0.2
    assert {n: (t.dtype, t.shape) for n, t in after.items()} == {
        n: (t.dtype, t.shape) for n, t in before.items()
    }
    changed = {n.rpartition(".")[2] for n in after if not torch.equal(after[n].float(), before[n].float())}
    assert changed == {"weight", "weight_packed", "weight_scale"}
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    eight = next(m.name for u in tiny_units for m in u.linears if mixed.formats[u.name] == "W8A8")
    assert torch.equal(after[f"{eight}.weight"], before[f"{eight}.weight"])
    assert any(e.kind == "progress" and "checked" in e.text for e in events)


def test_what_did_not_help_is_not_written(
    tiny_model_dir: Path,
    tiny_units: Sequence[Unit],
    mixed: PrecisionPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = written(ModelHost.load(tiny_model_dir, tiny_units), mixed, tmp_path / "checkpoint")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(recover, "GROWTH_RATE", 3.0)
    result = recover_checkpoint(folder, spec_of(tiny_model_dir, tiny_units, mixed, steps=2), lambda _: None)
    assert not result.kept
    assert result.kl_after == result.kl_before
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == digest


def test_evaluation_text_is_refused(
    tiny_model_dir: Path, tiny_units: Sequence[Unit], mixed: PrecisionPlan, tmp_path: Path
) -> None:
    texts = sentences(40, 2)
    held_out = (fingerprint("  " + texts[3].upper()),)
    with pytest.raises(UsageError, match="text that evaluates the model") as caught:
        recover_checkpoint(
            tmp_path, spec_of(tiny_model_dir, tiny_units, mixed, held_out=held_out), lambda _: None
        )
    assert caught.value.got is not None
    assert caught.value.got.startswith("1 of 40 texts")


def test_too_little_text_is_told(
    tiny_model_dir: Path, tiny_units: Sequence[Unit], mixed: PrecisionPlan, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="too little text"):
        recover_checkpoint(
            tmp_path,
            spec_of(tiny_model_dir, tiny_units, mixed, texts=("the quick brown fox",)),
            lambda _: None,
        )


def test_formats_that_cannot_be_trained_are_told_at_once(
    tiny_model_dir: Path, tiny_units: Sequence[Unit], mixed: PrecisionPlan, tmp_path: Path
) -> None:
    plan = mixed.model_copy(update={"formats": {**mixed.formats, tiny_units[0].name: "NVFP4"}})
    with pytest.raises(UsageError, match="cannot be read back") as caught:
        recover_checkpoint(tmp_path, spec_of(tiny_model_dir, tiny_units, plan), lambda _: None)
    assert caught.value.got == "NVFP4"


def test_too_little_memory_is_told_with_the_sum(
    tiny_model_dir: Path,
    tiny_units: Sequence[Unit],
    mixed: PrecisionPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recover, "RESERVE_BYTES", 2**60)
    with pytest.raises(EnvironmentProblem, match="not enough memory") as caught:
        recover_checkpoint(tmp_path, spec_of(tiny_model_dir, tiny_units, mixed), lambda _: None)
    assert "weights" in (caught.value.allowed or "")
