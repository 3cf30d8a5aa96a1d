"""Any published config with one value spoilt is read or refused, in every family, without a traceback."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import AdvisorError
from profiles.footprint import ServingSpec, estimate
from profiles.models import ModelProfile
from profiles.models.catalogue import catalogue_configs
from profiles.models.config import Config
from profiles.models.profile import build_profile, require_architecture
from profiles.models.stored import stored_quantization
from profiles.models.synthesise import synthesise
from tests.footprint.build import gpu

FAMILIES = {c["model_type"]: c for c in catalogue_configs().values()}
"""One published config of each model_type."""

OPTIONAL = [
    "head_dim",
    "layer_types",
    "rope_scaling",
    "quantization_config",
    "q_lora_rank",
    "kv_lora_rank",
    "sliding_window",
    "no_rope_layers",
    "mlp_only_layers",
    "linear_attn_config",
    "moe_layer_freq",
    "num_kv_shared_layers",
]
JUNK: list[Any] = [
    None, -1, 0, 1, 3, 1.5, float("nan"), float("inf"), 1e300, 2**40, "x", "", [], [1], [None], {}, {"a": 1},
    True, False, [["x"]],
    {"rope_type": "yarn", "factor": float("inf"), "original_max_position_embeddings": 4},
    {"rope_type": "yarn", "factor": 1e308, "original_max_position_embeddings": 4096},
    {"rope_type": "yarn", "factor": -2.0, "original_max_position_embeddings": 4096},
    {"quant_method": "awq", "bits": 4, "group_size": 3}, {"quant_method": "gptq", "bits": 8},
    {"quant_method": "fp8", "weight_block_size": [1, 1]},
    {"quant_method": "fp8", "weight_block_size": [0, "x"]},
    {"config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 16, "type": "float"}}}},
    {"config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}, "ignore": ["re:(", 7]},
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_spoilt_configs(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(sorted(FAMILIES)))
    config = copy.deepcopy(FAMILIES[family])
    target = config
    inner = [k for k, v in config.items() if isinstance(v, dict)]
    if inner and data.draw(st.booleans()):
        target = config[data.draw(st.sampled_from(inner))]
    key = data.draw(st.sampled_from([*target, *OPTIONAL]))
    target[key] = data.draw(st.sampled_from(JUNK))
    try:
        profile = _build(config)
    except AdvisorError:
        return
    assert profile.num_parameters >= 0
    assert profile.model_dump_json()
    with contextlib.suppress(AdvisorError):
        assert estimate(profile, gpu(), ServingSpec()).model_dump_json()


@pytest.mark.parametrize("block", [[0, "x"], [0, 0], [128], "128", [-1, 128], [1.5, 2], [True, True]])
def test_blocks_that_are_none(block: Any) -> None:
    config = {**FAMILIES["llama"], "quantization_config": {"quant_method": "fp8", "weight_block_size": block}}
    with contextlib.suppress(AdvisorError):
        assert _build(config).num_parameters > 0


def test_an_encoder_whose_heads_are_not_said_is_priced_or_refused() -> None:
    config = {**FAMILIES["nomic_bert"], "num_attention_heads": None}
    with contextlib.suppress(AdvisorError):
        assert estimate(_build(config), gpu(), ServingSpec()).weights.value > 0


def _build(raw: dict[str, Any]) -> ModelProfile:
    config = Config(raw, "here")
    architecture = require_architecture(config, trust_remote_code=False)
    quantization = stored_quantization(config)
    return build_profile(
        config, synthesise(config), architecture, model_id="m", source="local", quantization=quantization
    )
