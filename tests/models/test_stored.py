"""Checkpoints that are quantized already: method, label, and logical shapes from packed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from profiles.models import LinearInfo, ModelProfile, read_model
from tests.models.files import LLAMA, llama_tensors, write_model

Q = "model.layers.0.self_attn.q_proj"


def q_proj(profile: ModelProfile) -> LinearInfo:
    return next(i for i in profile.linears if i.name == Q)


def packed(*parts: tuple[str, str, list[int]]) -> dict[str, tuple[str, list[int]]]:
    table = llama_tensors()
    del table[Q + ".weight"]
    return table | {f"{Q}.{suffix}": (dtype, shape) for suffix, dtype, shape in parts}


def group(**weights: Any) -> dict[str, Any]:
    return {"targets": ["Linear"], "weights": weights}


CASES: list[tuple[dict[str, Any], dict[str, tuple[str, list[int]]], str, float | None]] = [
    (
        {"quant_method": "awq", "bits": 4, "group_size": 32},
        packed(("qweight", "I32", [64, 8]), ("qzeros", "I32", [2, 8]), ("scales", "F16", [2, 64])),
        "W4A16 g32",
        4,
    ),
    (
        {"quant_method": "gptq", "bits": 8, "group_size": -1},
        packed(("qweight", "I32", [16, 64]), ("scales", "F16", [1, 64])),
        "W8A16 per channel",
        8,
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": group(num_bits=4, type="int", group_size=32)},
        },
        packed(("weight_packed", "I32", [64, 8]), ("weight_scale", "BF16", [64, 2])),
        "W4A16 g32",
        4,
    ),
    (
        {
            "config_groups": {
                "a": {
                    "targets": ["re:.*q_proj"],
                    "weights": {"num_bits": 8, "type": "int", "group_size": 32},
                },
                "b": group(num_bits=4, type="int", group_size=32),
            },
        },
        packed(("weight_packed", "I32", [64, 16]), ("weight_scale", "BF16", [64, 2])),
        "mixed: W8A16 g32, W4A16 g32",
        None,
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"g": group(num_bits=4, type="float", group_size=16)},
        },
        packed(("weight_packed", "U8", [64, 32]), ("weight_scale", "F8_E4M3", [64, 4])),
        "NVFP4A16",
        4,
    ),
    (
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        packed(("weight", "F8_E4M3", [64, 64]), ("weight_scale_inv", "F32", [1, 1])),
        "FP8 block 128x128",
        8,
    ),
    (
        {"quant_method": "fp8", "activation_scheme": "static"},
        packed(("weight", "F8_E4M3", [64, 64]), ("weight_scale", "F32", [1])),
        "FP8 static",
        8,
    ),
]


@pytest.mark.parametrize(("raw", "tensors", "label", "bits"), CASES, ids=[c[2] for c in CASES])
def test_packed_weights_have_their_logical_shape(
    tmp_path: Path,
    raw: dict[str, Any],
    tensors: dict[str, tuple[str, list[int]]],
    label: str,
    bits: float | None,
) -> None:
    folder = write_model(tmp_path / "m", LLAMA | {"quantization_config": raw}, tensors)
    profile = read_model(str(folder))
    assert profile.quantization is not None
    assert (profile.quantization.label, profile.quantization.weight_bits) == (label, bits)
    item = q_proj(profile)
    assert (item.out_features, item.in_features) == (64, 64)
    assert item.fused.endswith("qkv_proj")


def test_modelopt_file_beside_the_config(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path / "m",
        LLAMA,
        packed(("weight", "U8", [64, 32]), ("weight_scale", "F8_E4M3", [64, 4])),
    )
    quant = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16}}
    (folder / "hf_quant_config.json").write_text(json.dumps(quant))
    profile = read_model(str(folder))
    assert profile.quantization is not None
    assert (profile.quantization.method, profile.quantization.kv_cache_dtype) == ("modelopt", "fp8")
    assert q_proj(profile).in_features == 64


def test_kv_cache_scheme_and_bitsandbytes(tmp_path: Path) -> None:
    raw = {
        "quant_method": "compressed-tensors",
        "config_groups": {},
        "kv_cache_scheme": {"type": "float", "num_bits": 8},
    }
    folder = write_model(tmp_path / "a", LLAMA | {"quantization_config": raw}, llama_tensors())
    quantization = read_model(str(folder)).quantization
    assert quantization is not None
    assert (quantization.label, quantization.kv_cache_dtype) == ("KV cache only", "fp8")
    raw = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    tensors = packed(("weight", "U8", [2048, 1]))
    folder = write_model(tmp_path / "b", LLAMA | {"quantization_config": raw}, tensors)
    profile = read_model(str(folder))
    assert profile.quantization is not None
    assert profile.quantization.label == "bitsandbytes NF4"
    item = q_proj(profile)
    assert (item.out_features, item.in_features) == (64, 64)
    assert any("flat bytes" in a for a in profile.assumptions)
