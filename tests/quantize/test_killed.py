"""A checkpoint killed at any moment of writing is never taken for a good one; a second run finishes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.quantize.models import plan_of
from tests.quantize.test_engine_tiny import UNITS, spec_of, tiny  # noqa: F401  the fixture

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

PLAN = plan_of(UNITS, "W8A8", "BF16", "FP8_DYNAMIC", "W8A16")


def test_killed_before_every_file_operation(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    spec = spec_of(tiny, tmp_path / "run" / "out", plan=PLAN, overwrite=True, compute="float32",
                   num_samples=1)  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "tests.quantize.killed_child", str(tmp_path / "spec.json"),
         str(tmp_path / "answer.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads((tmp_path / "answer.json").read_text())

    assert answer["operations"] > 20
    by_operation = [f for f in answer["found"] if f[0].startswith("operation")]
    assert len(by_operation) == answer["operations"]
    assert all(code == -signal.SIGKILL for _, code, _, _ in by_operation)
    wrong = [f for f in answer["found"] if f[2] not in ("absent", "whole") or not f[3]]
    assert wrong == []
    # whole only once it has its name: what still happens then is tidying up
    states = [state for _, _, state, _ in by_operation]
    assert states == sorted(states)
    assert states.count("absent") > 0.9 * len(states)

    # an older checkpoint stays whole until the new one takes its name
    replaced = answer["replaced"]
    assert len(replaced) > 4
    assert {state for _, state, _ in replaced} <= {"older", "absent", "whole"}
    assert replaced[0][1] == "older"
    assert replaced[-1][1] == "whole"
    assert all(resumed for _, _, resumed in replaced)
