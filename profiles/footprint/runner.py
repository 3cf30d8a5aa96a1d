"""Which of vLLM's two GPU model runners serves a model; they profile memory differently.

Read from the source of vLLM 0.20 to 0.32 (`config/vllm.py`, `_is_default_v2_model_runner_model`;
`v1/worker/gpu/model_runner.py`) and measured on an H100 with 0.26 (docs/gpu.md). `VLLM_USE_V2_MODEL_RUNNER`
and a few rare options (ngram drafts, custom logits processors) choose the first one all the same.
"""

from __future__ import annotations

from profiles.footprint.facts import ModelFacts
from profiles.footprint.version import Version
from profiles.models.schema import KvKind

FIRST_DEFAULTS: dict[Version, frozenset[str]] = {
    (0, 22): frozenset({"Qwen3ForCausalLM"}),
    (0, 23): frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"}),
    (0, 24): frozenset(
        {
            "DeepseekV2ForCausalLM", "GraniteMoeForCausalLM", "LlamaForCausalLM", "MistralForCausalLM",
            "Qwen2MoeForCausalLM", "Qwen3ForCausalLM",
        }
    ),
}  # fmt: skip
"""Architectures that the second runner served by default; checkpoints that are quantized from 0.24 on."""

DENSE = (0, 25)
"""From here on it serves every model without experts or state-space layers, and these with experts."""
LATER_DEFAULTS: dict[str, Version] = {
    "DeepseekV2ForCausalLM": (0, 25), "GraniteMoeForCausalLM": (0, 25), "Qwen2MoeForCausalLM": (0, 25),
    "InklingForCausalLM": (0, 26), "InklingForConditionalGeneration": (0, 26),
    "LongcatFlashNgramForCausalLM": (0, 26), "KimiK3ForConditionalGeneration": (0, 27),
    "DeepseekV4ForCausalLM": (0, 28),
}  # fmt: skip

EVERY = (0, 29)
"""From here on it serves every model, and measures its CUDA graphs before it sizes the cache. Earlier its
estimate of them was 0: they come on top of the budget."""


def is_second(facts: ModelFacts, version: Version) -> bool:
    """Whether the second runner serves the model by default."""
    if version >= EVERY:
        return True
    if version >= DENSE:
        stateful = any(layer.kind is KvKind.MAMBA for layer in facts.kv_layers)
        named = version >= LATER_DEFAULTS.get(facts.architecture, EVERY)
        return named or (not facts.experts and not stateful)
    if facts.stored_method and version < (0, 24):
        return False
    return facts.architecture in FIRST_DEFAULTS.get(version, frozenset())


def forgets_graphs(facts: ModelFacts, version: Version) -> bool:
    """Whether the runner that serves by default sizes the cache as if CUDA graphs took nothing."""
    return version < EVERY and is_second(facts, version)
