"""A written checkpoint is held against its plan, tensor by tensor and byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from profiles.errors import RunFailed, UsageError
from tests.quantize.files import quantized_tensors, write_quantized, write_source, write_zeros
from tests.quantize.models import llama_units, plan_of
from tuners.quantize.layout import StoredTensor
from tuners.quantize.source import copy_companions, read_source
from tuners.quantize.verify import verify_checkpoint

UNITS = llama_units(2)
PLAN = plan_of(UNITS, "W4A16_G32", "W8A8", "FP8_DYNAMIC", "BF16", "NVFP4", "MXFP4", "W8A16", "W4A16_G64")
INT4 = UNITS[0].linears[0].name


def verify_with(tmp_path: Path, changes: dict[str, StoredTensor | None]) -> int:
    """Bytes of the units, after replacing (or dropping) tensors of a right checkpoint."""
    source = read_source(str(write_source(tmp_path / "source", UNITS)), UNITS)
    tensors = {k: v for k, v in {**quantized_tensors(UNITS, PLAN), **changes}.items() if v is not None}
    folder = write_quantized(tmp_path / "out", UNITS, PLAN, tensors)
    return verify_checkpoint(folder, UNITS, PLAN, source).unit_bytes


def test_a_checkpoint_as_planned_weighs_its_price(tmp_path: Path) -> None:
    assert verify_with(tmp_path, {}) == PLAN.bytes_of(UNITS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{INT4}.weight_scale": None}, "weight_scale was not written"),
        ({f"{INT4}.weight_scale": ("F32", (128, 4))}, "should be BF16"),
        ({f"{INT4}.weight_scale": ("BF16", (128, 2))}, r"should be BF16 \[128, 4\]"),
        ({f"{INT4}.weight": ("BF16", (128, 128))}, "not in the plan's format"),
        ({f"{INT4}.weight_zero_point": ("I32", (16, 4))}, "not in the plan's format"),
        ({"model.norm.weight": ("F32", (128,))}, "should be BF16"),
        ({"model.embed_tokens.weight": None}, "was not written"),
    ],
)
def test_a_checkpoint_not_as_planned_is_refused(
    tmp_path: Path, changes: dict[str, StoredTensor | None], words: str
) -> None:
    with pytest.raises(RunFailed, match=words):
        verify_with(tmp_path, changes)


def test_a_configuration_that_the_engine_reads_otherwise_is_refused(tmp_path: Path) -> None:
    source = read_source(str(write_source(tmp_path / "source", UNITS)), UNITS)
    folder = write_quantized(tmp_path / "out", UNITS, PLAN, quantized_tensors(UNITS, PLAN))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["ignore"].append(INT4)
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(UsageError, match="would not load"):
        verify_checkpoint(folder, UNITS, PLAN, source)


def test_a_float32_source_is_written_in_16_bits_and_a_mixed_one_keeps_its_types(tmp_path: Path) -> None:
    wide = read_source(str(write_source(tmp_path / "wide", UNITS, "F32")), UNITS)
    half = read_source(str(write_source(tmp_path / "half", UNITS, "F16")), UNITS)

    assert (wide.dtype, wide.target_dtype("F32")) == ("BF16", "BF16")
    assert (half.dtype, half.target_dtype("F32"), half.target_dtype("F16")) == ("F16", "F32", "F16")


def test_a_source_that_is_not_the_plans_model_is_refused(tmp_path: Path) -> None:
    write_source(tmp_path / "source", llama_units(1))
    with pytest.raises(UsageError, match=r"model\.layers\.1\..* does not match the checkpoint"):
        read_source(str(tmp_path / "source"), UNITS)
    with pytest.raises(UsageError, match="not a local checkpoint"):
        read_source(str(tmp_path), UNITS)
    quantized = write_quantized(tmp_path / "q", UNITS, PLAN, quantized_tensors(UNITS, PLAN))
    with pytest.raises(UsageError, match="does not match the checkpoint") as caught:
        read_source(str(quantized), UNITS)
    assert "not quantized yet" in (caught.value.next_step or "")


def test_companions_are_copied_byte_for_byte_and_weights_are_not(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    target.mkdir()
    names = (
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "LICENSE.md",
        "tokenizer.model",
    )
    for name in names:
        (source / name).write_bytes(name.encode())
    for name in ("config.json", "model.safetensors.index.json", "pytorch_model.bin", "README.md"):
        (source / name).write_text("{}")
    write_zeros(source / "model.safetensors", {"x": ("F32", (1,))})

    assert sorted(copy_companions(source, target)) == sorted(names)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == {n: n.encode() for n in names}
