"""Keeping an attempt and putting one back, killed at any moment: never half of one and half of another."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path


def test_attempts_survive_a_kill_before_every_file_operation(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.agent.killed_child", str(tmp_path / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)

    for name in ("restore", "keep"):
        *killed, last = found[name]
        assert len(killed) > 10
        assert {code for code, _, _ in killed} == {-signal.SIGKILL}
        assert last[0] == 0
        assert not any(wrong for _, wrong, _ in found[name]), name
        assert all(whole for _, _, whole in found[name]), name
