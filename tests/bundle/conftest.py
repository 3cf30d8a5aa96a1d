"""A checkpoint directory and a bundle written from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.bundle import write_bundle
from profiles.footprint.schema import ServingSpec
from profiles.hardware.schema import Device
from tests.validate.examples import (
    cpu_device,
    hardware,
    measurement,
    model,
    plan,
    predictions,
    units,
)
from tuners.validate.report import compare, planned_kernel

Writer = Callable[..., list[Path]]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What a quantizer leaves behind, in names."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    (folder / "recipe.yaml").write_text("quant_stage: {}\n")
    return folder


@pytest.fixture
def write(tmp_path: Path, checkpoint: Path) -> Writer:
    """Write the example's bundle; keywords replace arguments, `floor` and `device` the report's."""

    def _write(
        out: Path | None = None, *, floor: float = 1.05, device: Device | None = None, **changes: Any
    ) -> list[Path]:
        target = device or cpu_device()
        kernels = {u.name: planned_kernel(u, plan().formats[u.name], target) for u in units()}
        report = compare(
            measurement(quantized=False, dtype="bfloat16" if device else "float32"),
            measurement(kernels=kernels, dtype="bfloat16" if device else "float32"),
            plan=plan(),
            units=units(),
            device=target,
            predicted=predictions(),
            floor=floor,
        )
        arguments: dict[str, Any] = {
            "checkpoint": checkpoint, "model": model(), "hardware": hardware(target), "plan": plan(),
            "units": units(), "report": report, "task_name": "generic",
            "serving": ServingSpec(max_num_seqs=8, kv_cache_memory_bytes=2**29),
        }  # fmt: skip
        return write_bundle(out or tmp_path / "bundle", **(arguments | changes))

    return _write
