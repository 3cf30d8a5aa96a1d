"""Synthesised shapes against the real module definitions, built without memory (meta device)."""

from __future__ import annotations

from typing import Any

import pytest

from profiles.models.catalogue import catalogue_configs
from profiles.models.config import Config
from profiles.models.synthesise import synthesise

FAMILIES = {c["model_type"]: c for c in catalogue_configs().values()}

NOT_THERE = {"internlm2", "chatglm", "kimi_k2", "kimi_vl", "mimo"}
"""Remote-code families that Transformers has no class for (kimi_k2 is DeepSeek-V3's, mimo nearly Qwen2)."""

BROKEN = {
    "exaone4": "its configuration class refuses the published sliding_window_pattern",
    "kimi_k25": "its vision tower is not counted, and the profile says so",
}

SIGLIP_HEAD = {"gemma3"}
"""Transformers builds SigLIP's pooling head; the checkpoint has none."""


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NOT_THERE - set(BROKEN) - SIGLIP_HEAD))
def test_totals_equal_the_real_modules(family: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    raw = {k: v for k, v in FAMILIES[family].items() if k != "quantization_config"}
    given: dict[str, Any] = {
        k: v for k, v in raw.items() if k not in ("architectures", "model_type", "torch_dtype")
    }
    config = transformers.CONFIG_MAPPING[family](**given)
    name = raw["architectures"][0]
    auto = transformers.AutoModelForCausalLM
    if name.endswith("ForConditionalGeneration"):
        auto = transformers.AutoModelForImageTextToText
    elif name.endswith("Model"):
        auto = transformers.AutoModel
    with torch.device("meta"):
        model = auto.from_config(config)
    real = sum(p.numel() for p in model.parameters())
    stored = ("e_score_correction_bias", "expert_bias", "act_fn.beta", "act_fn.eps", "std_bias", "std_scale")
    real += sum(b.numel() for n, b in model.named_buffers() if n.endswith(stored))
    assert sum(t.numel for t in synthesise(Config(raw, "here"))) == real
