"""Which of the engine's model runners serves, and what was measured of the second."""

from __future__ import annotations

import pytest

from profiles.footprint import ServingSpec, estimate
from profiles.footprint.facts import facts_of
from profiles.footprint.runner import forgets_graphs, is_second
from profiles.models import catalogue_model
from tests.footprint.build import GIB, gpu
from tests.footprint.test_estimate import gib


def test_the_second_runner_measured_on_an_h100() -> None:
    """Our own boot of vLLM 0.26 (docs/gpu.md): dummy weights of Llama-3.1-8B, 16,384 batched tokens."""
    model = catalogue_model("meta-llama/Llama-3.1-8B-Instruct")
    spec = ServingSpec(
        gpu_memory_utilization=0.9, max_model_len=8192, max_num_batched_tokens=16384, max_num_seqs=1024,
        engine_version="0.26.0",
    )  # fmt: skip
    found = estimate(model, gpu(79.18), spec)
    assert gib(found.activation) == pytest.approx(1.77, abs=0.02)
    assert gib(found.weights) == pytest.approx(15.0, abs=0.02)
    assert found.cuda_graph.low <= 0.98 * GIB <= found.cuda_graph.high
    assert gib(found.kv_bytes) == pytest.approx(54.26, rel=0.02)
    assert found.kv_bytes.low <= 54.26 * GIB <= found.kv_bytes.high  # graphs were on top of the budget
    assert "on top" in (found.cuda_graph.formula or "")


@pytest.mark.parametrize(
    ("version", "change", "second", "forgets"),
    [
        ((0, 21), {}, False, False),
        ((0, 23), {}, True, True),
        ((0, 23), {"stored_method": "fp8"}, False, False),
        ((0, 24), {"architecture": "GemmaForCausalLM"}, False, False),
        ((0, 25), {"architecture": "GemmaForCausalLM"}, True, True),
        ((0, 28), {"experts": 8}, False, False),
        ((0, 28), {"experts": 8, "architecture": "Qwen2MoeForCausalLM"}, True, True),
        ((0, 26), {"experts": 8, "architecture": "KimiK3ForConditionalGeneration"}, False, False),
        ((0, 27), {"experts": 8, "architecture": "KimiK3ForConditionalGeneration"}, True, True),
        ((0, 29), {"experts": 8}, True, False),
    ],
)
def test_which_runner_serves(
    version: tuple[int, int], change: dict[str, object], second: bool, forgets: bool
) -> None:
    facts = facts_of(catalogue_model("meta-llama/Llama-3.1-8B-Instruct"))._replace(**change)  # type: ignore[arg-type]
    assert is_second(facts, version) is second
    assert forgets_graphs(facts, version) is forgets
