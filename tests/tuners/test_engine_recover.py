"""A recovered checkpoint in vLLM: served as torch computes it, and nearer to the original than before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tuners.conftest import sentences
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize import QuantizeSpec
from tuners.validate.report import KL_TOLERANCE

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

APART = 0.3
"""Largest KL between torch and engine on one checkpoint, as a share of its KL to the original: as in
tests/quantize/test_engine_formats.py (bfloat16 against float32)."""


@pytest.fixture(scope="module")
def found(
    tiny_model_dir: Path, tiny_units: Sequence[Unit], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float]:
    """KL on sentences that nothing was trained or calibrated on, before and after recovery."""
    folder = tmp_path_factory.mktemp("recovered")
    formats = {u.name: ("W4A16_G32", "W4A16_G32", "W8A8")[i % 3] for i, u in enumerate(tiny_units)}
    spec = QuantizeSpec(
        model_path=str(tiny_model_dir),
        units=tuple(tiny_units),
        plan=PrecisionPlan(formats=formats),
        out_dir=str(folder / "out"),
        calibration_texts=tuple(sentences(40, 2)),
        methods={"*": "rtn"},
        compute="float32",
        recover_steps=40,
    )
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "texts.json").write_text(json.dumps(sentences(16, 3)))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.tuners.served_recovery",
            str(folder / "spec.json"),
            str(folder / "texts.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [x.removeprefix("FOUND ") for x in done.stdout.splitlines() if x.startswith("FOUND ")]
    assert len(lines) == 1, done.stderr[-3000:]
    return dict(json.loads(lines[0]))


def test_recovery_lowers_kl_in_the_engine_on_text_that_it_did_not_train_on(found: dict[str, float]) -> None:
    assert found["after"] < 0.9 * found["before"]
    assert found["engine"] < found["before"]


def test_vllm_serves_the_recovered_checkpoint_as_torch_computes_it(found: dict[str, float]) -> None:
    assert abs(found["engine"] - found["after"]) <= KL_TOLERANCE * found["after"]
    assert found["apart"] < APART * found["after"]
