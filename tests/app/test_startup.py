"""The command line must start light: no torch, no engine, no solver, no screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "vllm", "llmcompressor", "optuna", "scipy", "textual", "pandas", "plotly")

PROBE = """
import sys
from advisor.__main__ import run
code = run({tokens!r})
heavy = sorted(set({heavy!r}) & {{m.partition('.')[0] for m in sys.modules}})
print("HEAVY", code, heavy, file=sys.stderr)
"""


def loaded(tokens: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(tokens=tokens, heavy=HEAVY)],
        capture_output=True,
        text=True,
        check=True,
    )
    return next(line for line in done.stderr.splitlines() if line.startswith("HEAVY"))


def test_help_imports_nothing_heavy() -> None:
    assert loaded(["--help"]) == "HEAVY 0 []"


@pytest.mark.parametrize(
    "command",
    [
        "hardware",
        "inspect",
        "fit",
        "tune",
        "quantize",
        "validate",
        "export",
        "demo",
        "auto",
        "report",
        "gguf",
        "mcp",
    ],
)
def test_help_of_commands_imports_nothing_heavy(command: str) -> None:
    assert loaded([command, "--help"]) == "HEAVY 0 []"


def test_answers_without_a_model_run_import_nothing_heavy(tiny: Path) -> None:
    assert loaded(["inspect", str(tiny), "--json"]) == "HEAVY 0 []"
    assert loaded(["fit", str(tiny), "--gpu", "rtx-4090", "--json"]) == "HEAVY 0 []"
    assert loaded(["hardware", "--gpu", "rtx-4090", "--formats"]) == "HEAVY 0 []"


def test_the_console_script_and_the_module_are_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "advisor", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.strip()[0].isdigit()
