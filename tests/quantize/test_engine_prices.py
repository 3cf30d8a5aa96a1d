"""The price of a plan against checkpoints really written: five mixed plans of a tiny model, to the byte."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from profiles.footprint import ServingSpec, estimate
from profiles.models import read_model
from tests.footprint.build import gpu
from tests.quantize.models import llama_units, plan_of
from tests.quantize.test_engine_tiny import MAKE, WORDS, spec_of

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

UNITS = llama_units(2)
PLANS = tuple(
    plan_of(UNITS, *formats)
    for formats in (
        ("W8A8", "BF16", "W4A16_G32", "FP8_DYNAMIC"),
        ("W4A16_G128", "W8A8"),
        ("FP8_DYNAMIC", "W8A16", "BF16"),
        ("NVFP4", "W4A16_G64", "W8A8", "BF16", "FP8_DYNAMIC"),
        ("BF16", "BF16", "W4A16_G32", "W4A16_G128", "W8A16", "MXFP4"),
    )
)
ALL_IN_ONE_CHILD = """
import json, sys
from tuners.quantize import QuantizeSpec
from tuners.quantize.job import run
for text in json.load(open(sys.argv[1])):
    run(QuantizeSpec.model_validate_json(text), lambda event: None)
"""


def tensor_bytes(folder: Path) -> int:
    """Bytes of all safetensors files without their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = struct.unpack("<Q", file.read(8))[0]
        total += path.stat().st_size - 8 - header
    return total


def test_price_is_the_sum_over_tensors_is_the_size_of_the_checkpoint(tmp_path: Path) -> None:
    model = tmp_path / "model"
    subprocess.run([sys.executable, "-c", MAKE, str(model), " ".join(WORDS)], check=True, capture_output=True)
    specs = [
        spec_of(model, tmp_path / f"plan{i}", plan=plan, method="rtn", num_samples=1).model_dump_json()
        for i, plan in enumerate(PLANS)
    ]
    (tmp_path / "specs.json").write_text(json.dumps(specs))
    subprocess.run(
        [sys.executable, "-c", ALL_IN_ONE_CHILD, str(tmp_path / "specs.json")],
        check=True,
        capture_output=True,
    )
    profile = read_model(str(model))
    fixed = sum(t.nbytes for t in profile.tensors) - sum(u.bytes_as("BF16") for u in UNITS)
    for i, plan in enumerate(PLANS):
        written = tensor_bytes(tmp_path / f"plan{i}")
        priced = estimate(profile, gpu(), ServingSpec(), plan.by_linear(UNITS), plan.label).checkpoint.value
        again = read_model(str(tmp_path / f"plan{i}"))

        assert priced == plan.bytes_of(UNITS) + fixed  # the search's price and the footprint's
        assert abs(written - priced) <= 64, plan.counts()  # alignment of the file
        assert sum(t.nbytes for t in again.tensors) == written
