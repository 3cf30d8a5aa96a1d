"""From a ServingSpec to vLLM's arguments and environment: one place for validation and the bundle."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from profiles.footprint.schema import ServingSpec
from profiles.formats.kernels import W4A8_SWITCH

CPU_KV_CACHE_BYTES = 512 * 2**20
"""KV cache on the CPU when nothing is asked: vLLM's own default is a share of all host memory."""

_PASSED_THROUGH = (
    "max_model_len",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "block_size",
)
_DEFAULTS: dict[str, Any] = {
    "kv_cache_dtype": "auto",
    "dtype": "auto",
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "data_parallel_size": 1,
    "decode_context_parallel_size": 1,
    "enable_expert_parallel": False,
    "enforce_eager": False,
    "cpu_offload_gb": 0,
}


def engine_arguments(serving: ServingSpec, *, on_cpu: bool) -> dict[str, Any]:
    """vLLM's long options (with underscores) that differ from its defaults.

    On the CPU: eager, because compiling takes longer than the whole measurement and needs a C++
    compiler on the serving machine; a fixed KV cache, because the default takes most of the host.
    """
    out: dict[str, Any] = {
        name: getattr(serving, name) for name in _PASSED_THROUGH if getattr(serving, name) is not None
    }
    out |= {
        name: getattr(serving, name)
        for name, default in _DEFAULTS.items()
        if getattr(serving, name) != default
    }
    if "kv_cache_dtype" in out:
        out["kv_cache_dtype"] = engine_kv_dtype(out["kv_cache_dtype"])
    if serving.max_loras:
        out |= {"enable_lora": True, "max_loras": serving.max_loras, "max_lora_rank": serving.max_lora_rank}
    if serving.speculative_model:
        out["speculative_config"] = {
            "model": serving.speculative_model,
            "num_speculative_tokens": serving.num_speculative_tokens,
        }
    if on_cpu:
        out["enforce_eager"] = True
        out.pop("gpu_memory_utilization", None)
        out.setdefault("kv_cache_memory_bytes", CPU_KV_CACHE_BYTES)
    return out


def engine_kv_dtype(name: str) -> str:
    """vLLM's name of a KV cache dtype."""
    return "int8_per_token_head" if name == "int8" else name


def base_environment(model: str) -> dict[str, str]:
    """Environment of any engine started here: nothing is reported, and local files stay local."""
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if Path(model).is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    return env


def measuring_environment(serving: ServingSpec, model: str, *, on_cpu: bool) -> dict[str, str]:
    """Environment of a measuring process.

    One rank runs inside the process itself: two process starts less (about 20 s on two cores), and a
    crash still ends only this child. On the CPU as many threads compute as will in the server, where
    vLLM keeps one core for its scheduler (utils/ompmultiprocessing.py); waiting threads sleep instead
    of spinning (beside any other load, spinning made decoding seven times slower here); and the few
    `torch.compile`d helpers that eager mode leaves stay uncompiled. Values that are set already win.
    """
    env = base_environment(model)
    if serving.tensor_parallel_size * serving.pipeline_parallel_size * serving.data_parallel_size == 1:
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if on_cpu:
        env |= {
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) - 1)),
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
            "TORCHDYNAMO_DISABLE": "1",
            **int4_environment(Path(model)),
        }
    return env


def int4_environment(checkpoint: Path) -> dict[str, str]:
    """`profiles.formats.kernels.cpu_environment` for the formats that a checkpoint's own config names."""
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        groups = (config.get("quantization_config") or {}).get("config_groups") or {}
        int4 = [
            g
            for g in groups.values()
            if (g["weights"].get("type"), g["weights"].get("num_bits")) == ("int", 4)
        ]
        if int4:
            return {W4A8_SWITCH: str(int(any(g.get("input_activations") for g in int4)))}
    return {}
