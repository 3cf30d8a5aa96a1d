"""How a checkpoint is already quantized, from `quantization_config` or `hf_quant_config.json`."""

from __future__ import annotations

from typing import Any

from profiles.errors import UsageError
from profiles.models.config import Config
from profiles.models.schema import StoredQuantization


def stored_quantization(config: Config, modelopt: dict[str, Any] | None = None) -> StoredQuantization | None:
    """The checkpoint's own quantization; None when it is stored in 16 or 32 bits."""
    raw = config.raw.get("quantization_config") or config.text.get("quantization_config")
    raw = raw or config.raw.get("compression_config")
    if raw is None and modelopt is not None:
        return _modelopt(modelopt, config.where)
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise config.bad("quantization_config", raw, "an object")
    method = str(raw.get("quant_method") or "").lower()
    if not method and "config_groups" in raw:
        method = "compressed-tensors"
    if not method and (raw.get("load_in_4bit") or raw.get("load_in_8bit")):
        method = "bitsandbytes"
    if not method:
        raise UsageError(
            "quantization_config does not say its method",
            where=config.where,
            got=", ".join(map(str, raw))[:200],
            allowed="quant_method",
        )
    if method.startswith("modelopt"):
        return _modelopt(raw, config.where)
    if method == "compressed-tensors":
        return _compressed(raw, config)
    return _plain(method, raw, config)


def _plain(method: str, raw: dict[str, Any], config: Config) -> StoredQuantization:
    bits, group = _count(raw, "bits", config), _count(raw, "group_size", config)
    label = method
    if method in ("awq", "gptq", "auto-round", "auto_round"):
        bits = bits or _count(raw, "w_bit", config) or 4
        group = group or _count(raw, "q_group_size", config)
        label = f"W{bits}A16 " + (f"g{group}" if group else "per channel")
    elif method in ("fp8", "fbgemm_fp8"):
        bits, block = 8, raw.get("weight_block_size")
        label = "FP8 dynamic" if raw.get("activation_scheme", "dynamic") == "dynamic" else "FP8 static"
        if isinstance(block, list) and len(block) == 2:
            label = f"FP8 block {block[0]}x{block[1]}"
    elif method == "bitsandbytes":
        bits = 4 if raw.get("load_in_4bit") else 8
        kind = raw.get("bnb_4bit_quant_type", "fp4") if bits == 4 else "int8"
        label = f"bitsandbytes {str(kind).upper()}"
    elif method == "mxfp4":
        bits, group, label = 4, 32, "MXFP4 experts"
    return StoredQuantization(
        method=method, label=label, weight_bits=bits, group_size=group, kv_cache_dtype=None, raw=raw
    )


def _count(raw: dict[str, Any], name: str, config: Config) -> int | None:
    found = raw.get(name)
    if found is None or found == -1:
        return None
    if type(found) is not int or not 0 < found < 1 << 20:
        raise config.bad(f"quantization_config.{name}", found, "an integer from 1, or -1")
    return found


def _compressed(raw: dict[str, Any], config: Config) -> StoredQuantization:
    groups = raw.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(g, dict) for g in groups.values()):
        raise config.bad("quantization_config.config_groups", groups, "an object of groups")
    labels: list[str] = []
    bits: set[int] = set()
    sizes: set[int] = set()
    for group in groups.values():
        weights = group.get("weights")
        if not isinstance(weights, dict):
            continue
        label, width, size = _group_label(weights, group.get("input_activations"), config)
        if label not in labels:
            labels.append(label)
        bits.add(width)
        if size:
            sizes.add(size)
    kv = raw.get("kv_cache_scheme")
    kv_dtype = None
    if isinstance(kv, dict):
        kv_dtype = "fp8" if kv.get("type") == "float" else f"int{kv.get('num_bits', 8)}"
    return StoredQuantization(
        method="compressed-tensors",
        label=("mixed: " if len(labels) > 1 else "") + (", ".join(labels) or "KV cache only"),
        weight_bits=bits.pop() if len(bits) == 1 else None,
        group_size=sizes.pop() if len(sizes) == 1 and len(labels) == 1 else None,
        kv_cache_dtype=kv_dtype,
        raw=raw,
    )


def _group_label(weights: dict[str, Any], inputs: Any, config: Config) -> tuple[str, int, int | None]:
    width = _count(weights, "num_bits", config) or 8
    size = _count(weights, "group_size", config)
    activation = inputs.get("num_bits") if isinstance(inputs, dict) else None
    block = weights.get("block_structure")
    if weights.get("type") == "float":
        if width == 4:
            name = "NVFP4" if size == 16 else "MXFP4"
            label = name if activation else name + "A16"
        else:
            label = f"FP8 block {'x'.join(map(str, block))}" if isinstance(block, list) else "FP8"
            if activation:
                label += " dynamic" if isinstance(inputs, dict) and inputs.get("dynamic") else " static"
    else:
        label = f"W{width}A{activation or 16}" + (f" g{size}" if size else "")
    return label, width, size


def _modelopt(raw: dict[str, Any], where: str) -> StoredQuantization:
    inner = raw.get("quantization", raw)
    if not isinstance(inner, dict):
        raise UsageError("hf_quant_config.json has no quantization object", where=where)
    algorithm = str(inner.get("quant_algo") or "")
    sizes = {"NVFP4": (4.0, 16), "W4A16_AWQ": (4.0, 128), "FP8": (8.0, None), "MXFP8": (8.0, 32)}
    bits, group = next((v for k, v in sizes.items() if k in algorithm), (None, None))
    stated = inner.get("group_size")
    kv = inner.get("kv_cache_quant_algo") or inner.get("kv_cache_scheme")
    if isinstance(kv, dict):
        kv = "fp8"
    return StoredQuantization(
        method="modelopt",
        label=f"ModelOpt {algorithm or 'unnamed'}",
        weight_bits=bits,
        group_size=stated if type(stated) is int and stated > 0 else group,
        kv_cache_dtype=str(kv).lower() if kv else None,
        raw=raw,
    )
