"""The catalogue: totals against the published ones, lookups, and that every row expands."""

from __future__ import annotations

import pytest

from profiles.errors import UsageError
from profiles.models import catalogue_index, catalogue_model, find_model, read_model
from profiles.models.catalogue.build import parameters
from profiles.models.config import Config

PUBLISHED: dict[str, int] = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.1-405B-Instruct": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": 108_641_793_536,
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": 401_583_781_376,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "01-ai/Yi-1.5-34B-Chat": 34_388_917_248,
    "Qwen/Qwen1.5-7B-Chat": 7_721_324_544,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": 480_154_875_392,
    "Qwen/Qwen1.5-MoE-A2.7B-Chat": 14_315_784_192,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 79_674_391_296,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2-VL-72B-Instruct": 73_405_560_320,
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "llava-hf/llava-v1.6-mistral-7b-hf": 7_566_747_648,
    "google/gemma-2b-it": 2_506_172_416,
    "google/gemma-7b-it": 8_537_680_896,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-2-27b-it": 27_227_128_320,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-27b-it": 27_432_406_640,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": 24_011_361_280,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 46_702_792_704,
    "mistralai/Mixtral-8x22B-Instruct-v0.1": 140_630_071_296,
    "deepseek-ai/DeepSeek-V2-Lite-Chat": 15_706_484_224,
    "deepseek-ai/DeepSeek-V2-Chat": 235_741_434_880,
    "deepseek-ai/DeepSeek-V3": 671_026_419_200,
    "moonshotai/Kimi-K2-Instruct": 1_026_408_232_448,
    "zai-org/GLM-4-9B-0414": 9_400_279_040,
    "zai-org/GLM-4.5": 352_797_829_120,
    "zai-org/GLM-4.5-Air": 106_852_245_504,
    "microsoft/phi-2": 2_779_683_840,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-3.5-MoE-instruct": 41_873_153_344,
    "microsoft/phi-4": 14_659_507_200,
    "ibm-granite/granite-3.1-8b-instruct": 8_170_848_256,
    "ibm-granite/granite-3.1-3b-a800m-instruct": 3_298_896_384,
    "ibm-granite/granite-4.0-h-tiny": 6_939_037_248,
    "openai/gpt-oss-20b": 20_914_757_184,
    "openai/gpt-oss-120b": 116_829_156_672,
    "tiiuae/falcon-40b-instruct": 41_835_970_560,
    "tiiuae/Falcon-H1-7B-Instruct": 7_585_654_016,
    "allenai/OLMo-2-1124-7B-Instruct": 7_298_617_344,
    "allenai/OLMoE-1B-7B-0924-Instruct": 6_919_161_856,
    "bigcode/starcoder2-7b": 7_400_416_256,
    "internlm/internlm2_5-7b-chat": 7_737_708_544,
    "CohereLabs/c4ai-command-r-v01": 34_980_831_232,
    "CohereLabs/c4ai-command-r7b-12-2024": 8_028_033_024,
    "ai21labs/Jamba-v0.1": 51_570_323_328,
    "ai21labs/AI21-Jamba-Large-1.5": 398_557_175_808,
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": 8_888_227_328,
    "MiniMaxAI/MiniMax-M2": 228_703_644_928,
    "baidu/ERNIE-4.5-300B-A47B-PT": 299_470_757_888,
    "ByteDance-Seed/Seed-OSS-36B-Instruct": 36_151_104_512,
    "BAAI/bge-m3": 567_754_752,
    "BAAI/bge-base-en-v1.5": 109_482_240,
    "answerdotai/ModernBERT-base": 149_014_272,
    "intfloat/e5-mistral-7b-instruct": 7_110_660_096,
}
"""Parameters as the model pages state them (safetensors totals; MTP layers left out)."""


def logical_parameters(model_id: str) -> int:
    """Weights before packing: MXFP4 blocks hold two each, scales are no parameters."""
    return parameters(catalogue_model(model_id))


@pytest.mark.parametrize(("model_id", "published"), PUBLISHED.items())
def test_totals_agree_with_the_published_ones(model_id: str, published: int) -> None:
    assert logical_parameters(model_id) == pytest.approx(published, rel=0.01)


def test_enough_models() -> None:
    index = catalogue_index()
    assert len(index) >= 150
    assert len({entry.id.lower() for entry in index}) == len(index)
    assert min(e.params for e in index) < 2e8
    assert max(e.params for e in index) > 1e12
    assert all(entry.license and entry.tags and entry.source for entry in index)


@pytest.mark.parametrize("entry", catalogue_index(), ids=lambda e: e.id)
def test_every_row_expands(entry) -> None:  # type: ignore[no-untyped-def]
    profile = catalogue_model(entry.id)
    assert profile.source == "catalogue"
    assert profile.assumptions[0].startswith("catalogue entry")
    assert logical_parameters(entry.id) == entry.params
    assert len(profile.kv_layers) >= profile.num_layers
    assert {i.block for i in profile.linears if i.role not in ("embed", "lm_head", "other")} == set(
        range(profile.num_layers)
    )
    weights = sum(i.numel for i in profile.linears)
    assert 0.98 * entry.params < weights <= entry.params  # what is left is norms, biases, convolutions
    if profile.moe is not None:
        assert profile.moe.experts_per_token < profile.moe.num_experts
    if profile.tie_word_embeddings:
        assert "lm_head" not in {i.role for i in profile.linears}


def test_lookup() -> None:
    assert find_model("llama-3.1-8b-instruct").id == "meta-llama/Llama-3.1-8B-Instruct"
    assert find_model("qwen/qwen3-8b").id == "Qwen/Qwen3-8B"
    with pytest.raises(UsageError) as caught:
        find_model("Qwen3-8")
    assert caught.value.allowed is not None
    assert "Qwen3-8B" in caught.value.allowed
    with pytest.raises(UsageError, match="not in the catalogue"):
        catalogue_model("nobody/nothing")


def test_offline_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    profile = read_model("Qwen/Qwen3-8B", offline=True)
    assert profile.source == "catalogue"
    assert "no network" in profile.assumptions[0]
    profile = read_model("Qwen/Qwen3-8B", offline=True, revision="abc")
    assert "revision abc" in profile.assumptions[0]


def test_fp8_rows_store_one_byte_per_weight() -> None:
    profile = catalogue_model("deepseek-ai/DeepSeek-V3")
    stored = sum(t.nbytes for t in profile.tensors)
    assert profile.quantization is not None
    assert profile.quantization.label == "FP8 block 128x128"
    assert 671e9 < stored < 685e9  # FP8 experts, 16-bit embeddings and head, float32 scales


def test_a_row_with_an_unknown_type_is_refused() -> None:
    from profiles.models.synthesise import synthesise

    config = Config({"model_type": "lama", "architectures": ["LlamaForCausalLM"]}, "here")
    with pytest.raises(UsageError, match="cannot be derived") as caught:
        synthesise(config)
    assert caught.value.allowed is not None
    assert "llama" in caught.value.allowed
