"""A real llama.cpp reads the files: the same tokens, the same perplexity, and what mixed types cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.demo_model import cached_model
from advisor.pipeline.validate import evaluation_ids
from advisor.workspace import Workspace
from tests.conftest import DemoRun, advisor
from tuners.child import run_child
from tuners.gguf.measure import GgufMeasurement, GgufMeasureSpec
from tuners.gguf.write import GgufSpec
from tuners.validate.distributions import TopK

pytestmark = pytest.mark.engine
pytest.importorskip("cyllama")

WINDOWS = 3


def test_in_16_bits_llama_cpp_computes_what_the_engine_does(demo_run: DemoRun, tmp_path: Path) -> None:
    """Metadata, order of rows, tokenizer: any of them wrong and the perplexity is another one."""
    out = tmp_path / "model.gguf"
    spec = GgufSpec(model_path=str(cached_model()), out=str(out), types={})
    log = tmp_path / "log"
    run_child("tuners.gguf.job", spec, emit=lambda _: None, log_path=log, stage="gguf")
    windows = evaluation_ids(Workspace.read_only(demo_run.root))[:WINDOWS]
    tokens = sum(len(w) - 1 for w in windows)
    asked = GgufMeasureSpec(path=str(out), windows=windows)
    answer = run_child("tuners.gguf.measure", asked, emit=lambda _: None, log_path=log, stage="gguf")
    found = GgufMeasurement.model_validate(answer)

    reference = TopK.load(demo_run.root / "validation" / "reference.npz")
    first = reference.only([i < tokens for i in range(len(reference.target_logprobs))])
    assert found.tokens == tokens
    assert found.perplexity == pytest.approx(first.perplexity, rel=0.02)  # the engine computes in bfloat16


def test_the_plan_as_a_mixed_file_is_read_and_measured(demo_run: DemoRun, tmp_path: Path) -> None:
    out = tmp_path / "mixed.gguf"
    found, _ = advisor("gguf", "--run", str(demo_run.root), "--out", str(out), "--measure", "--json")

    assert {"q4_0", "q4_k", "q6_k", "q8_0"} <= found["tensors"].keys()
    assert found["bytes"] == out.stat().st_size
    ran = found["measured"]
    assert ran["checked"] == 8
    assert ran["differently_cut"] == 0
    assert ran["tokens"] >= 1000
    # llama.cpp's rounding, not the plan's: worse than the original, and no worse than a 4-bit model is
    assert 1.0 < ran["ratio"] < 1.3
