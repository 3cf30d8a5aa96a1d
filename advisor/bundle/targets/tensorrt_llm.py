"""The plan for TensorRT-LLM: a ModelOpt recipe that quantizes the original the same way, and serve arguments.

ModelOpt's `quant_cfg` is an ordered list, later entries win: everything is switched off first, then every
linear layer of the plan is configured by its exact name (ModelOpt docs, guides/_quant_cfg; numerics from
modelopt_recipes/configs/numerics).
"""

from __future__ import annotations

import json
from typing import Any

from advisor.bundle.context import BundleContext
from advisor.bundle.targets.container import dump
from advisor.bundle.targets.registry import Refused, Rendered
from profiles.formats import Activations, get_format
from profiles.hardware.schema import DeviceKind

INT4_GROUPS = frozenset({64, 128})
"""Group sizes of TensorRT-LLM's weight-only INT4 kernels (cpp/tensorrt_llm/kernels/weightOnlyBatchedGemv)."""

FP8_SM, FP4_SM = 89, 100
"""Compute capability from which FP8, and FP4, run (TensorRT-LLM support matrix)."""

_FP8 = {"num_bits": "e4m3"}
_OFF: dict[str, Any] = {"enable": False}

ALGORITHMS = {"W4A16": "W4A16_AWQ", "FP8_DYNAMIC": "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4": "NVFP4"}
"""Menu to TensorRT-LLM's QuantAlgo."""


def quantizers(format_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weight and input quantizer of a format, as ModelOpt writes them.

    Raises:
        Refused: TensorRT-LLM's PyTorch backend, which trtllm-serve runs, has no kernel for it.
    """
    fmt = get_format(format_name)
    if fmt.family == "int4" and fmt.symmetric and fmt.activations is Activations.A16:
        if fmt.group_size not in INT4_GROUPS:
            raise Refused(
                f"{format_name}: TensorRT-LLM's INT4 kernels take groups of 64 or 128; search again with "
                "--formats W4A16_G128 FP8_DYNAMIC"
            )
        weight = {"cfg": {"num_bits": 4, "block_sizes": {-1: fmt.group_size, "type": "static"}}}
        return weight, _OFF
    if fmt.activations is Activations.FP8_TOKEN:
        token = {"cfg": {**_FP8, "type": "dynamic", "block_sizes": {-1: None}}}
        return {"cfg": {**_FP8, "axis": 0}}, token
    if fmt.activations is Activations.NVFP4:
        block = {"num_bits": "e2m1", "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": "e4m3"}}
        return {"cfg": block}, {"cfg": block}
    raise Refused(
        f"{format_name} ({fmt.summary}): trtllm-serve's PyTorch backend has no such kernel; search again "
        "with --formats W4A16_G128 FP8_DYNAMIC"
    )


def recipe(context: BundleContext) -> dict[str, Any]:
    """A ModelOpt recipe (recipe_type ptq) for hf_ptq.py."""
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for unit in context.units:
        chosen = context.plan.formats[unit.name]
        if get_format(chosen).family == "16-bit":
            continue
        weight, given = quantizers(chosen)
        for linear in unit.linears:
            entries.append({"quantizer_name": f"{linear.name}.weight_quantizer", **weight})
            entries.append({"quantizer_name": f"{linear.name}.input_quantizer", **given})
    return {
        "metadata": {
            "recipe_type": "ptq",
            "description": f"{context.base_name}, the plan {context.plan.key}: "
            f"{context.bits_per_weight:.3f} bits per weight",
        },
        "quantize": {"algorithm": "max", "quant_cfg": entries},
    }


def check(context: BundleContext) -> None:
    """Refuse what the device or the backend cannot run.

    Raises:
        Refused: with the reason.
    """
    device = context.hardware.device
    if device.kind is not DeviceKind.CUDA:
        raise Refused(f"TensorRT-LLM runs on NVIDIA GPUs, this plan is for {device.name}")
    families = {get_format(f).family for f in context.plan.formats.values()}
    for family, least in (("fp8", FP8_SM), ("fp4", FP4_SM)):
        if family in families and (device.sm is None or device.sm < least):
            raise Refused(
                f"{family.upper()} units need compute capability {least / 10}, {device.name} has "
                f"{(device.sm or 0) / 10}"
            )
    if any(m.copies > 1 for u in context.units for m in u.linears):
        raise Refused("the plan names experts one by one; ModelOpt quantizes them as one module")
    if context.serving.dtype == "float32":
        raise Refused("the plan was validated in float32, which TensorRT-LLM does not serve")


def options(context: BundleContext) -> dict[str, Any]:
    """The YAML of `trtllm-serve --config`: LLM API arguments."""
    serving = context.serving
    cache: dict[str, Any] = {"enable_block_reuse": True}
    if serving.gpu_memory_utilization is not None:
        # a share of what is free after the weights, not of the whole device as in vLLM
        cache["free_gpu_memory_fraction"] = serving.gpu_memory_utilization
    wanted = context.plan.kv_cache_dtype if context.plan.kv_cache_dtype != "auto" else serving.kv_cache_dtype
    if wanted.startswith("fp8"):
        cache["dtype"] = "fp8"
    elif wanted not in {"auto", "bfloat16", "float16"}:
        raise Refused(f"a KV cache in {wanted} is not offered by TensorRT-LLM")
    out: dict[str, Any] = {
        "tensor_parallel_size": serving.tensor_parallel_size,
        "pipeline_parallel_size": serving.pipeline_parallel_size,
        "max_seq_len": context.report.quantized.max_model_len,
        "kv_cache_config": cache,
    }
    if serving.max_num_seqs is not None:
        out["max_batch_size"] = serving.max_num_seqs
    if serving.max_num_batched_tokens is not None:
        out["max_num_tokens"] = serving.max_num_batched_tokens
    return out


def layers(context: BundleContext) -> dict[str, Any]:
    """What hf_quant_config.json of the result must say, to compare with: the plan in TensorRT-LLM's words."""
    listed: dict[str, dict[str, Any]] = {}
    for unit in context.units:
        fmt = get_format(context.plan.formats[unit.name])
        if fmt.family == "16-bit":
            continue
        algo = ALGORITHMS["W4A16" if fmt.family == "int4" else fmt.name]
        entry = {"quant_algo": algo} | ({"group_size": fmt.group_size} if fmt.group_size else {})
        listed |= {linear.name: entry for linear in unit.linears}
    return {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": listed}}


def render(context: BundleContext) -> Rendered:
    """Recipe, serve options, expected layers and a script."""
    check(context)
    made, served = recipe(context), options(context)
    script = f"""#!/usr/bin/env bash
# {context.base_name} for TensorRT-LLM. Needs nvidia-modelopt (its examples/hf_ptq) and tensorrt-llm.
#   ./quantize_and_serve.sh ORIGINAL_MODEL_DIR     (not this bundle's model/: that is already quantized)
# Another quantizer than the one that was validated: measure it before it serves.
set -euo pipefail
model="${{1:?the original model, in 16 bits}}"
python hf_ptq.py --pyt_ckpt_path "$model" --recipe modelopt_recipe.yaml --export_path ./model
exec trtllm-serve ./model --backend pytorch --host 127.0.0.1 --port 8000 \\
  --extra_llm_api_options trtllm.yaml
"""
    files = {
        "tensorrt-llm/modelopt_recipe.yaml": dump(made),
        "tensorrt-llm/trtllm.yaml": dump(served),
        "tensorrt-llm/expected_layers.json": json.dumps(layers(context), indent=1) + "\n",
        "tensorrt-llm/quantize_and_serve.sh": script,
    }
    notes = (
        "quality was validated in vLLM for another quantizer: measure the result before it serves",
        "not run here: neither ModelOpt nor TensorRT-LLM was executed on this plan",
    )
    return Rendered(files, notes)
