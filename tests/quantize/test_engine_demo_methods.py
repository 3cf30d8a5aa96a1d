"""Every method on two blocks of the demo model: held-out KL against plain rounding, and one load in vLLM.

The whole model by each method: benchmarks/results/methods.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.quantize.demo_methods import INT4, INT8, METHODS, MIXED
from tuners.evaluate import paired_difference

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def answers(*arguments: str | Path) -> list[dict[str, Any]]:
    """What a child of `demo_methods` printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.quantize.demo_methods", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(x.removeprefix("FOUND ")) for x in done.stdout.splitlines() if x.startswith("FOUND ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo-methods")


@pytest.fixture(scope="module")
def found(demo_model: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """KL of every held-out sequence by each method; all are made in one child, with one load of the model."""
    return {line["case"]: line for line in answers("make", demo_model, folder)}


@pytest.mark.parametrize(("fmt", "method"), [(f, m) for f in (INT4, INT8) for m in METHODS[f] if m != "rtn"])
def test_every_method_beats_rounding_to_nearest(
    found: dict[str, dict[str, Any]], fmt: str, method: str
) -> None:
    by_method, rounded = found[f"{fmt} {method}"], found[f"{fmt} rtn"]
    assert by_method["methods"] == {fmt: method}
    mean, _, high = paired_difference(by_method["kl"], rounded["kl"])
    assert mean < 0
    if method != "gptq-no-order":  # so little text hardly tells it: -0.0025, at most -0.0005
        assert high < 0


def test_vllm_serves_a_checkpoint_of_all_methods_as_torch_computes_it(
    found: dict[str, dict[str, Any]], folder: Path
) -> None:
    methods = {m for line in found["mixed"]["methods"].values() for m in line.split(" + ")}
    assert methods == {method for _, method in MIXED}
    (apart,) = answers("serve", folder)
    assert apart["checkpoint"] < 0.6 * apart["original"]
