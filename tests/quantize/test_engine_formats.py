"""Formats that vLLM's CPU build serves beside the common three: written, loaded, and as imitated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.engine

FORMATS = {
    "W8A8_ASYM": "CPUInt8ScaledMMLinearKernel",
    "W8A8_STATIC": "CPUInt8ScaledMMLinearKernel",
    "W8A8_STATIC_ASYM": "CPUInt8ScaledMMLinearKernel",
    "FP8_BLOCK": "CPUFp8BlockScaledMMKernel",
    "W4A8_G64": "CPUWNA16LinearKernel",
    "W4A16_G64+fp8_e4m3": "CPUWNA16LinearKernel",
}
NEEDS = {
    "W8A8_ASYM": "vnni", "W8A8_STATIC_ASYM": "vnni", "FP8_BLOCK": "amx_tile", "W4A8_G64": "amx_tile",
    "W4A16_G64+fp8_e4m3": "avx512f",
}  # fmt: skip
"""What the engine asks of the CPU (profiles/formats/kernels.py, kv_cache.py)."""

IMITATED = 0.3
"""Largest KL between imitation and engine, as a share of what the format itself costs. The engine computes in
bfloat16, the imitation in float32: values that fall on the other side of a rounding step are the rest
(measured 0.06 to 0.22; with another kind of rounding imitated it is 0.6 and more)."""


def runs(name: str) -> bool:
    """Whether this CPU has what the format needs."""
    return NEEDS.get(name, "") in Path("/proc/cpuinfo").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What vLLM made of each format, in one child process."""
    names = [n for n in FORMATS if runs(n)]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.quantize.served_formats",
            str(tmp_path_factory.mktemp("formats")),
            *names,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [x.removeprefix("FOUND ") for x in run.stdout.splitlines() if x.startswith("FOUND ")]
    assert len(lines) == len(names), run.stderr[-3000:]
    return {found["format"]: found for found in map(json.loads, lines)}


@pytest.mark.parametrize("name", FORMATS)
def test_vllm_serves_the_format_as_the_search_imitates_it(
    served: dict[str, dict[str, Any]], name: str
) -> None:
    if name not in served:
        pytest.skip(f"this CPU has no {NEEDS[name]}: the format is not in its menu")
    found = served[name]

    assert {k for k in found["kernels"] if not k.startswith("Unquantized")} == {FORMATS[name]}
    assert found["kl_of_the_format"] > 0.02
    assert found["kl_to_the_imitation"] < IMITATED * found["kl_of_the_format"]
    assert found["same_best"] > 0.6  # measured 0.68 to 0.95 of random, flat logits
    assert found["tokens"][0] == found["imitated_token"]
