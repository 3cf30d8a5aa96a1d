"""The Hub side without network: what it answers is played back, what it refuses is explained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub as hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import SafetensorsFileMetadata, SafetensorsRepoMetadata, TensorInfo

from profiles.errors import AdvisorError, EnvironmentProblem, UsageError
from profiles.models import read_model
from tests.models.files import LLAMA, header_of, llama_tensors

MODEL = "someone/tiny-llama"


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def answer(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    names: list[str],
    config: dict[str, Any] = LLAMA,
) -> None:
    """Let the Hub's client give these files."""
    info = SimpleNamespace(
        sha="0" * 40,
        siblings=[SimpleNamespace(rfilename=n) for n in names],
        card_data=SimpleNamespace(license="mit"),
        tags=["text-generation"],
    )
    monkeypatch.setattr(hub.HfApi, "model_info", lambda *a, **k: info)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    monkeypatch.setattr(hub, "hf_hub_download", lambda *a, **k: str(file))
    header = header_of(llama_tensors())
    tensors = {
        name: TensorInfo(dtype=e["dtype"], shape=e["shape"], data_offsets=tuple(e["data_offsets"]))
        for name, e in header.items()
        if name != "__metadata__"
    }
    part = SafetensorsFileMetadata(metadata={}, tensors=tensors)
    meta = SafetensorsRepoMetadata(
        metadata={}, sharded=False, weight_map={}, files_metadata={"model.safetensors": part}
    )
    monkeypatch.setattr(hub, "get_safetensors_metadata", lambda *a, **k: meta)


def refuse(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def raises(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(hub.HfApi, "model_info", raises)


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://example.invalid"))


def test_headers_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer(monkeypatch, tmp_path, ["config.json", "model.safetensors"])
    profile = read_model(MODEL)
    assert (profile.source, profile.license, profile.revision) == ("hub", "mit", "0" * 40)
    assert len(profile.tensors) == len(llama_tensors())
    assert profile.assumptions == ()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["model.safetensors"], "no config.json"),
        (["model-q4.gguf"], "GGUF files only"),
        (["config.json", "pytorch_model.bin"], "pickle"),
        (["config.json", "README.md"], "no weights"),
    ],
)
def test_repositories_without_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str], words: str
) -> None:
    answer(monkeypatch, tmp_path, names)
    with pytest.raises(UsageError) as caught:
        read_model(MODEL)
    assert words in str(caught.value)


def test_remote_code_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = LLAMA | {"auto_map": {"AutoModel": "m.X"}, "architectures": ["XForCausalLM"]}
    answer(monkeypatch, tmp_path, ["config.json", "model.safetensors"], config)
    with pytest.raises(UsageError, match="code from its own repository"):
        read_model(MODEL)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (errors.GatedRepoError("gated", response=response(403)), UsageError, "HF_TOKEN"),
        (errors.RepositoryNotFoundError("absent", response=response(404)), UsageError, "spelling"),
        (errors.RevisionNotFoundError("absent", response=response(404)), UsageError, "revision"),
        (errors.SafetensorsParsingError("bad"), UsageError, "headers cannot be read"),
        (errors.NotASafetensorsRepoError("none"), UsageError, "no weights"),
        (httpx.ConnectError("no route"), EnvironmentProblem, "no route"),
        (httpx.ReadTimeout("slow"), EnvironmentProblem, "slow"),
        (errors.OfflineModeIsEnabled("off"), EnvironmentProblem, "does not answer"),
        (OSError("disk full"), EnvironmentProblem, "disk full"),
    ],
)
def test_refusals_are_explained(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[AdvisorError], words: str
) -> None:
    refuse(monkeypatch, error)
    with pytest.raises(kind) as caught:
        read_model(MODEL)
    assert words in str(caught.value)
    assert caught.value.next_step or caught.value.got


def test_no_network_uses_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, httpx.ConnectError("no route"))
    profile = read_model("microsoft/phi-4")
    assert profile.source == "catalogue"
    assert "no route" in profile.assumptions[0]


def test_offline_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.models.files import write_model

    root = tmp_path / "cache" / "models--someone--tiny-llama"
    write_model(root / "snapshots" / "abc123", LLAMA, llama_tensors())
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc123")
    profile = read_model(MODEL, offline=True)
    assert (profile.model_id, profile.revision) == (MODEL, "abc123")
    assert "local cache" in profile.assumptions[0]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in read_model(MODEL).assumptions[0]
