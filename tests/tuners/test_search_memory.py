"""The memory bound of a search: known before, held while it runs, and it decides how the model is held."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from profiles.errors import EnvironmentProblem, UsageError
from profiles.models import read_model
from tests.tuners.test_search import search, spec
from tuners.budget import parse_memory
from tuners.events import Event
from tuners.plan import Unit
from tuners.search.memory import RUNTIME_BYTES, require, search_memory, torch_build
from tuners.search.schema import MemoryMode, SearchMemory, SearchSettings

GIB = 2**30

HOLD = """
import json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from profiles.hardware import probe_cpu
from profiles.models import read_model
from tuners.child import own_peak_rss_bytes
from tuners.model.host import ModelHost
from tuners.units import build_units

torch.set_num_threads(1)
folder, streamed = sys.argv[1], sys.argv[2] == "streamed"
units = build_units(read_model(folder), probe_cpu().device, formats=("W8A8",))
LlamaForCausalLM(LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, vocab_size=64))(
    torch.arange(64)[None])  # whatever a first forward pass takes once
before = own_peak_rss_bytes()
host = ModelHost.load(folder, units, streamed=streamed)
for _ in host.sweep(torch.arange(128).view(4, 32), 2):
    pass
print(json.dumps({"grown": own_peak_rss_bytes() - before}))
"""


@pytest.fixture(scope="module")
def wide_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten blocks of 17 MB each in float32, random, of which a stream holds one at a time."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("wide-llama")
    config = LlamaConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=10, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=1024, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path, max_shard_size="40MB")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(path)
    return path


def grown(folder: Path, how: str) -> int:
    """Growth of the peak of resident memory while the model is loaded and run once."""
    out = subprocess.run(
        [sys.executable, "-c", HOLD, str(folder), how], capture_output=True, text=True, check=True
    )
    return int(json.loads(out.stdout.splitlines()[-1])["grown"])


def test_a_stream_stays_far_below_the_size_of_the_model(wide_model_dir: Path) -> None:
    weights = 4 * sum(t.numel for t in read_model(str(wide_model_dir)).tensors)
    assert weights > 160e6
    assert grown(wide_model_dir, "resident") > 0.9 * weights
    assert grown(wide_model_dir, "streamed") < 0.35 * weights


def test_a_model_that_does_not_fit_is_streamed_within_its_bound_and_finds_the_same_plan(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    results = {}
    events: list[Event] = []
    for name, memory in (("resident", {"memory": "resident"}), ("streamed", {"memory_bytes": 1})):
        job = spec(tiny_model_dir, tiny_units, tmp_path / name, trials=4)
        needs = search_memory(read_model(str(tiny_model_dir)).tensors, tiny_units, job.settings, GIB)
        if "memory_bytes" in memory:
            memory = {"memory_bytes": (needs.resident_bytes + needs.streamed_bytes) // 2}
        settings = job.settings.model_copy(update={"sensitivity": "fast", **memory})
        results[name] = search(job.model_copy(update={"settings": settings}), events)
    resident, streamed = results["resident"], results["streamed"]

    assert streamed.memory is not None
    assert (streamed.memory.mode, streamed.sensitivity_mode) == ("streamed", "fast")
    assert streamed.memory.bound_bytes < streamed.memory.limit_bytes < streamed.memory.resident_bytes
    assert streamed.peak_rss_bytes <= streamed.memory.bound_bytes
    assert resident.memory is not None
    assert resident.peak_rss_bytes <= resident.memory.bound_bytes
    assert streamed.best.plan.key == resident.best.plan.key
    assert streamed.best.quality.sequence_kl == pytest.approx(resident.best.quality.sequence_kl, abs=1e-5)
    assert any("streamed block by block" in getattr(e, "text", "") for e in events)


def test_the_bound_grows_with_the_largest_block_and_not_with_their_number(
    wide_model_dir: Path, cpu_units: tuple[Unit, ...]
) -> None:
    tensors = list(read_model(str(wide_model_dir)).tensors)
    settings = SearchSettings()
    whole = search_memory(tensors, cpu_units, settings, GIB)
    half = search_memory(
        [t for t in tensors if not any(f"layers.{b}." in t.name for b in range(5, 10))],
        [u for u in cpu_units if (u.block or 0) < 5], settings, GIB,
    )  # fmt: skip
    assert whole.streamed_bytes == half.streamed_bytes
    assert whole.resident_bytes > half.resident_bytes
    assert whole.bound_bytes == max(s.total_bytes for s in whole.stages)


def test_too_little_memory_is_refused_with_the_part_that_needs_most(
    wide_model_dir: Path, cpu_units: tuple[Unit, ...]
) -> None:
    tensors = read_model(str(wide_model_dir)).tensors
    found = search_memory(tensors, cpu_units, SearchSettings(), 200 * 2**20)
    assert found.mode == "streamed"
    with pytest.raises(EnvironmentProblem, match="one block at a time"):
        require(found)
    require(search_memory(tensors, cpu_units, SearchSettings(memory="streamed"), 200 * 2**20))


def test_a_gpu_computes_in_float32_while_the_whole_model_fits_so(
    wide_model_dir: Path, cpu_units: tuple[Unit, ...]
) -> None:
    tensors = read_model(str(wide_model_dir)).tensors

    def at(available_bytes: int, memory: MemoryMode | Literal["auto"] = "auto") -> SearchMemory:
        return search_memory(tensors, cpu_units, SearchSettings(memory=memory), available_bytes, on_gpu=True)

    wide = at(80 * GIB)
    assert (wide.mode, wide.compute) == ("resident", "float32")
    assert wide.resident_bytes == search_memory(tensors, cpu_units, SearchSettings(), 80 * GIB).resident_bytes
    narrow = at(int(wide.resident_bytes / 0.9) - GIB // 32)
    assert (narrow.mode, narrow.compute) == ("resident", "bfloat16")
    assert narrow.resident_bytes < wide.resident_bytes
    assert at(80 * GIB, "streamed").compute == "bfloat16"


@pytest.fixture(scope="module")
def cpu_units(wide_model_dir: Path) -> tuple[Unit, ...]:
    from profiles.hardware import probe_cpu
    from tuners.units import build_units

    return tuple(build_units(read_model(str(wide_model_dir)), probe_cpu().device))


def test_memory_is_a_word_or_a_size() -> None:
    assert parse_memory("Streamed") == ("streamed", None)
    assert parse_memory("1.5GiB") == ("auto", 3 * 2**29)
    for wrong in ("5bits", "40%", "much", "-1GiB"):
        with pytest.raises(UsageError, match="memory limit"):
            parse_memory(wrong)


@pytest.mark.parametrize(
    ("needs", "build"),
    [
        (["filelock", "sympy>=1.13.3"], "CPU"),
        (["filelock", 'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"'], "GPU"),
        (None, "CPU"),
    ],
)
def test_the_bound_knows_which_build_of_torch_is_installed(
    needs: list[str] | None, build: str, tiny_model_dir: Path, tiny_units: list[Unit],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tensors = read_model(str(tiny_model_dir)).tensors
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: needs)
    assert torch_build() == build
    needed = search_memory(tensors, tiny_units, SearchSettings(), 8 * GIB)
    assert {s.parts["runtime"] for s in needed.stages} == {RUNTIME_BYTES[build]}
