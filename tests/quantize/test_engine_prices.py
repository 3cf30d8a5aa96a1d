"""The price of a plan against checkpoints really written, to the byte.

Five mixed plans of a tiny model with every way of storing weights, and five of the demo model.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from advisor.demo_model import cached_model
from profiles.footprint import ServingSpec, estimate
from profiles.models import read_model
from tests.footprint.build import gpu
from tests.quantize.models import llama_units, plan_of
from tests.quantize.test_engine_tiny import MAKE, WORDS
from tests.validate.examples import cpu_device
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize import QuantizeSpec
from tuners.units import build_units

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

MODEL = cached_model()
"""Taken at import, before other tests point the cache elsewhere."""

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


def written(model: Path, folder: Path, units: Sequence[Unit], plans: Sequence[PrecisionPlan]) -> None:
    """Write each plan's checkpoint into `folder`/0, 1 ..., rounded to nearest, without input scales."""
    np.savez(folder / "no-scales.npz")
    specs = [
        QuantizeSpec(
            model_path=str(model),
            units=tuple(units),
            plan=plan,
            out_dir=str(folder / str(i)),
            calibration_texts=("a text",),
            methods={"*": "rtn"},
            input_scales=str(folder / "no-scales.npz"),
        ).model_dump_json()
        for i, plan in enumerate(plans)
    ]
    (folder / "specs.json").write_text(json.dumps(specs))
    done = subprocess.run(
        [sys.executable, "-c", ALL_IN_ONE_CHILD, str(folder / "specs.json")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def check_prices(model: Path, folder: Path, units: Sequence[Unit], plans: Sequence[PrecisionPlan]) -> None:
    """The search's price, the footprint's, and the file's tensors are one number."""
    profile = read_model(str(model))
    fixed = sum(t.nbytes for t in profile.tensors) - sum(u.bytes_as("BF16") for u in units)
    for i, plan in enumerate(plans):
        size = tensor_bytes(folder / str(i))
        priced = estimate(profile, gpu(), ServingSpec(), plan.by_linear(units), plan.label).checkpoint.value

        assert priced == plan.bytes_of(units) + fixed
        assert abs(size - priced) <= 64, plan.counts()  # alignment of the file
        assert sum(t.nbytes for t in read_model(str(folder / str(i))).tensors) == size


def test_price_of_every_way_of_storing_weights(tmp_path: Path) -> None:
    model = tmp_path / "model"
    subprocess.run([sys.executable, "-c", MAKE, str(model), " ".join(WORDS)], check=True, capture_output=True)
    written(model, tmp_path, UNITS, PLANS)
    check_prices(model, tmp_path, UNITS, PLANS)


@pytest.mark.usefixtures("demo_run")
def test_price_of_mixed_plans_of_the_demo_model(tmp_path: Path) -> None:
    units = build_units(read_model(str(MODEL)), cpu_device(isa=("avx2", "avx512f")), formats=("all",))
    rng = random.Random(0)
    plans = [PrecisionPlan(formats={u.name: rng.choice(u.options) for u in units}) for _ in range(5)]
    assert all(len(p.counts()) >= 5 for p in plans)
    written(MODEL, tmp_path, units, plans)
    check_prices(MODEL, tmp_path, units, plans)
