"""Fusions, roles and cache layout of every family of shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import UsageError
from profiles.models import KvKind, ModelProfile, catalogue_model, read_model
from profiles.models.architectures import architecture_table, find_architecture
from profiles.models.config import Config
from profiles.models.kv import kv_layers
from profiles.models.synthesise import synthesise
from tests.models.files import LLAMA, as_table, llama_tensors, write_model


def fused(profile: ModelProfile, block: int) -> dict[str, set[str]]:
    """Engine modules of one block: role -> paths inside the block."""
    found: dict[str, set[str]] = {}
    for item in profile.linears:
        if item.block == block and item.role != "other":
            found.setdefault(item.role, set()).add(item.fused.split(f".{block}.", 1)[1])
    return found


DENSE = {
    "qkv": {"self_attn.qkv_proj"},
    "o": {"self_attn.o_proj"},
    "gate_up": {"mlp.gate_up_proj"},
    "down": {"mlp.down_proj"},
}


@pytest.mark.parametrize(
    "model",
    [
        "meta-llama/Llama-3.1-8B",
        "Qwen/Qwen2.5-7B",
        "Qwen/Qwen3-8B",
        "google/gemma-2-9b-it",
        "google/gemma-3-4b-it",
        "mistralai/Mistral-7B-v0.1",
        "microsoft/phi-4",
        "ibm-granite/granite-3.1-8b-instruct",
        "HuggingFaceTB/SmolLM3-3B",
    ],
)
def test_dense_blocks_have_four_units(model: str) -> None:
    assert fused(catalogue_model(model), 3) == DENSE


def test_phi3_is_stored_fused_already() -> None:
    names = {i.name for i in catalogue_model("microsoft/phi-4").linears if i.block == 0}
    assert {"model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.gate_up_proj"} <= names


def test_mixtral_experts_are_one_unit() -> None:
    profile = catalogue_model("mistralai/Mixtral-8x7B-Instruct-v0.1")
    units = fused(profile, 0)
    assert units["expert_gate_up"] == units["expert_down"] == {"block_sparse_moe.experts"}
    assert units["router"] == {"block_sparse_moe.gate"}
    assert {i.copies for i in profile.linears if i.role.startswith("expert")} == {8}
    assert profile.moe is not None
    assert (profile.moe.num_experts, profile.moe.experts_per_token, profile.moe.moe_intermediate_size) == (
        8,
        2,
        14336,
    )


def test_deepseek_fuses_the_latent_projections() -> None:
    profile = catalogue_model("deepseek-ai/DeepSeek-V3")
    assert fused(profile, 0)["qkv"] == {
        "self_attn.fused_qkv_a_proj",
        "self_attn.q_b_proj",
        "self_attn.kv_b_proj",
    }
    assert "expert_down" not in fused(profile, 2)
    assert fused(profile, 3)["shared_gate_up"] == {"mlp.shared_experts.gate_up_proj"}
    assert {k.kind for k in profile.kv_layers} == {KvKind.MLA}
    assert {k.kv_lora_rank + k.qk_rope_head_dim for k in profile.kv_layers} == {576}
    assert profile.moe is not None
    assert profile.moe.moe_layers == 58
    lite = catalogue_model("deepseek-ai/DeepSeek-V2-Lite-Chat")  # no q_lora_rank
    assert "self_attn.q_proj" in fused(lite, 0)["qkv"]


def test_gpt_oss_blocks_are_read_as_matrices() -> None:
    profile = catalogue_model("openai/gpt-oss-20b")
    gate_up = next(i for i in profile.linears if i.role == "expert_gate_up")
    assert (gate_up.out_features, gate_up.in_features, gate_up.copies) == (5760, 2880, 32)
    assert profile.quantization is not None
    assert profile.quantization.method == "mxfp4"
    kinds = [k.kind for k in profile.kv_layers]
    assert kinds[:2] == [KvKind.SLIDING, KvKind.FULL]
    assert {k.window for k in profile.kv_layers} == {128, None}


def test_llama4_turns_stacked_experts_round() -> None:
    profile = catalogue_model("meta-llama/Llama-4-Scout-17B-16E-Instruct")
    down = next(i for i in profile.linears if i.role == "expert_down")
    assert (down.out_features, down.in_features, down.copies) == (5120, 8192, 16)
    kinds = [k.kind for k in profile.kv_layers[:4]]
    assert kinds == [KvKind.CHUNKED] * 3 + [KvKind.FULL]
    assert profile.is_multimodal


def test_window_patterns() -> None:
    def sliding(model: str) -> list[int]:
        layers = catalogue_model(model).kv_layers
        return [i for i, k in enumerate(layers) if k.kind is KvKind.SLIDING]

    assert sliding("google/gemma-2-9b-it") == list(range(0, 42, 2))
    assert [i for i in range(62) if i not in sliding("google/gemma-3-27b-it")] == list(range(5, 62, 6))
    assert len(sliding("mistralai/Mistral-7B-v0.1")) == 32
    assert sliding("mistralai/Mistral-7B-Instruct-v0.3") == []
    assert sliding("Qwen/Qwen2.5-7B") == []
    command = catalogue_model("CohereLabs/c4ai-command-r7b-12-2024").kv_layers
    assert [k.window for k in command[:4]] == [4097, 4097, 4097, None]


def test_qwen_window_needs_the_switch() -> None:
    base = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "sliding_window": 8}
    on = _kv(base | {"use_sliding_window": True, "max_window_layers": 1})
    assert [k.kind for k in on] == [KvKind.FULL, KvKind.SLIDING]
    off = _kv(base | {"use_sliding_window": False, "max_window_layers": 1})
    assert [k.kind for k in off] == [KvKind.FULL] * 2


def test_hybrids_keep_state_instead_of_cache() -> None:
    nemotron = catalogue_model("nvidia/NVIDIA-Nemotron-Nano-9B-v2").kv_layers
    counts = {kind: sum(k.kind is kind for k in nemotron) for kind in KvKind}
    assert (counts[KvKind.MAMBA], counts[KvKind.FULL], counts[KvKind.NONE]) == (27, 4, 25)
    state = next(k for k in nemotron if k.kind is KvKind.MAMBA)
    # conv: (128*80 + 2*8*128) * 3 in bf16; ssm: 128*80*128 in float32
    expected = (128 * 80 + 2 * 8 * 128) * 3 * 2 + 128 * 80 * 128 * 4
    assert state.state_elements * state.state_bytes_per_element == expected

    granite = catalogue_model("ibm-granite/granite-4.0-h-tiny").kv_layers
    assert [i for i, k in enumerate(granite) if k.kind is KvKind.FULL] == [5, 15, 25, 35]

    qwen = catalogue_model("Qwen/Qwen3-Next-80B-A3B-Instruct").kv_layers
    assert [i for i, k in enumerate(qwen) if k.kind is KvKind.FULL] == list(range(3, 48, 4))
    conv, recurrent = (16 * 128 * 2 + 32 * 128) * 3, 32 * 128 * 128
    assert qwen[0].state_elements * qwen[0].state_bytes_per_element == 2 * (conv + recurrent)

    jamba = catalogue_model("ai21labs/Jamba-v0.1").kv_layers
    assert [i for i, k in enumerate(jamba) if k.kind is KvKind.FULL] == [4, 12, 20, 28]
    assert jamba[0].state_elements == 8192 * 3 + 8192 * 16

    falcon = catalogue_model("tiiuae/Falcon-H1-0.5B-Instruct")  # attention and mamba in every layer
    assert len(falcon.kv_layers) == 2 * falcon.num_layers

    lfm = catalogue_model("LiquidAI/LFM2-1.2B").kv_layers
    assert lfm[0].state_elements == 2048 * 2


def test_encoders_keep_nothing() -> None:
    profile = catalogue_model("BAAI/bge-m3")
    assert {k.kind for k in profile.kv_layers} == {KvKind.NONE}
    assert fused(profile, 0)["qkv"] == {"attention.self.qkv_proj"}


def test_vision_towers_are_not_planned() -> None:
    profile = catalogue_model("google/gemma-3-4b-it")
    tower = [i for i in profile.linears if "vision" in i.name]
    assert tower
    assert {i.role for i in tower} == {"other"}
    assert all(i.fused == i.name for i in tower)


@pytest.mark.parametrize("tied", [True, False])
def test_synthesis_equals_a_real_header(tmp_path: Path, tied: bool) -> None:
    config = LLAMA | {"tie_word_embeddings": tied}
    real = read_model(str(write_model(tmp_path / "m", config, llama_tensors(config))))
    made = synthesise(Config(config, "here"))
    assert {(t.name, t.shape, t.dtype) for t in real.tensors} == {(t.name, t.shape, t.dtype) for t in made}


MOE: dict[str, Any] = LLAMA | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "head_dim": 16,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "attention_bias": False,
}


def test_stacked_and_separate_experts_are_the_same_model(tmp_path: Path) -> None:
    separate = synthesise(Config(MOE, "here"), stack_experts=False)
    stacked = synthesise(Config(MOE, "here"))
    assert sum(t.numel for t in separate) == sum(t.numel for t in stacked)
    assert "model.layers.0.mlp.experts.5.down_proj.weight" in {t.name for t in separate}
    profile = read_model(str(write_model(tmp_path / "m", MOE, as_table(separate))))
    experts = {i.name: i for i in profile.linears if i.role.startswith("expert")}
    assert {i.copies for i in experts.values()} == {6}
    assert {i.fused for i in experts.values()} == {"model.layers.0.mlp.experts"}
    assert profile.moe is not None
    assert profile.moe.moe_layers == 1
    assert sum(i.numel for i in profile.linears) == sum(t.numel for t in stacked if len(t.shape) > 1)


def test_the_table_restates_the_engine() -> None:
    assert find_architecture("LlamaForCausalLM").fusions["qkv_proj"] == ("q_proj", "k_proj", "v_proj")
    assert find_architecture("Phi3ForCausalLM").fusions == {}
    assert not find_architecture("Nonsense").known
    assert len(architecture_table()) > 300


def test_shared_caches_of_gemma3n_are_counted_once() -> None:
    config = LLAMA | {
        "architectures": ["Gemma3nForCausalLM"],
        "model_type": "gemma3n_text",
        "num_hidden_layers": 10,
        "num_kv_shared_layers": 4,
        "sliding_window": 16,
        "head_dim": 16,
    }
    kinds = [k.kind for k in _kv(config)]
    assert kinds[:5] == [KvKind.SLIDING] * 4 + [KvKind.FULL]
    assert kinds[6:] == [KvKind.NONE] * 4
    with pytest.raises(UsageError, match="num_kv_shared_layers"):
        _kv(config | {"num_kv_shared_layers": 10})


def _kv(config: dict[str, Any]) -> list[Any]:
    parsed = Config(config, "here")
    return list(kv_layers(parsed, find_architecture(parsed.architecture)))


@given(
    heads=st.integers(1, 16),
    groups=st.sampled_from([1, 2, 4]),
    width=st.sampled_from([8, 16, 64]),
    layers=st.integers(1, 4),
    inner=st.integers(1, 300),
    vocab=st.integers(1, 1000),
    tied=st.booleans(),
)
def test_llama_arithmetic(
    heads: int, groups: int, width: int, layers: int, inner: int, vocab: int, tied: bool
) -> None:
    kv, q = heads * width, heads * groups * width
    hidden = q
    config = LLAMA | {
        "hidden_size": hidden,
        "num_attention_heads": heads * groups,
        "num_key_value_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }
    total = sum(t.numel for t in synthesise(Config(config, "here")))
    block = 2 * hidden * q + 2 * hidden * kv + 3 * hidden * inner + 2 * hidden
    assert total == (1 if tied else 2) * vocab * hidden + layers * block + hidden
