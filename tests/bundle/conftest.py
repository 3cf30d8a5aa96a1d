"""A checkpoint directory and a bundle written from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.bundle import write_bundle
from profiles.footprint.schema import ServingSpec
from tests.validate.examples import (
    cpu_device,
    hardware,
    measurement,
    model,
    plan,
    predictions,
    units,
)
from tuners.validate.report import compare

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
    """Write the example's bundle; keywords replace arguments, `floor` the report's."""

    def _write(out: Path | None = None, *, floor: float = 1.05, **changes: Any) -> list[Path]:
        report = compare(
            measurement(quantized=False),
            measurement(),
            plan=plan(),
            units=units(),
            device=cpu_device(),
            predicted=predictions(),
            floor=floor,
        )
        arguments: dict[str, Any] = {
            "checkpoint": checkpoint, "model": model(), "hardware": hardware(), "plan": plan(),
            "units": units(), "report": report, "task_name": "generic",
            "serving": ServingSpec(max_num_seqs=8, kv_cache_memory_bytes=2**29),
        }  # fmt: skip
        return write_bundle(out or tmp_path / "bundle", **(arguments | changes))

    return _write
