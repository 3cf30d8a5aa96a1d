"""Why the engine would refuse to start: "fits" is not "starts"."""

from __future__ import annotations

import re
from collections.abc import Mapping

from profiles.footprint.core import Prediction, usable
from profiles.footprint.facts import ModelFacts
from profiles.footprint.laws import GIB
from profiles.footprint.schema import ServingSpec
from profiles.footprint.serving import CONTEXT_BYTES, DeviceView
from profiles.footprint.version import Version
from profiles.footprint.weights import VOCAB_PADDING
from profiles.formats import get_format
from profiles.formats.kernels import kernel_support
from profiles.formats.kv_cache import kv_problem
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.models.schema import KvKind

GRAPH_MARGIN = 1 / 0.7
"""Captured graphs reach 1 / 0.70 of the engine's own estimate (0.19/H100)."""


def gib(nbytes: float) -> str:
    """Bytes in GiB as the engine prints them."""
    return f"{nbytes / GIB:,.2f} GiB"


def shape_refusals(facts: ModelFacts, hardware: HardwareProfile, spec: ServingSpec) -> list[str]:
    """Checks on parallel sizes and context that need no memory arithmetic."""
    tp, pp, dcp = (
        spec.tensor_parallel_size,
        spec.pipeline_parallel_size,
        spec.decode_context_parallel_size,
    )
    found = []
    if facts.heads % tp:
        found.append(f"tensor parallel size {tp} does not divide {facts.heads} attention heads")
    if facts.kv_heads > tp and facts.kv_heads % tp:
        found.append(f"tensor parallel size {tp} does not divide {facts.kv_heads} KV heads")
    if facts.kv_heads and facts.kv_heads < tp and tp % facts.kv_heads:
        found.append(f"tensor parallel size {tp} is not a multiple of {facts.kv_heads} KV heads")
    padded = -(-facts.vocab // VOCAB_PADDING) * VOCAB_PADDING
    if padded % tp:
        found.append(
            f"tensor parallel size {tp} does not divide the vocabulary ({padded:,} rows with padding)"
        )
    if facts.experts and not spec.enable_expert_parallel:
        ranks = tp * spec.data_parallel_size
        if facts.expert_width % ranks:
            found.append(f"{ranks} ranks do not divide the experts' width of {facts.expert_width}")
    if pp > facts.layers:
        found.append(f"pipeline parallel size {pp} exceeds {facts.layers} layers")
    if dcp > 1:
        if tp % dcp:
            found.append(f"decode context parallel size {dcp} does not divide tensor parallel size {tp}")
        mla = any(layer.kind is KvKind.MLA for layer in facts.kv_layers)
        if not mla and facts.kv_heads and tp // max(1, dcp) > facts.kv_heads:
            found.append(
                f"decode context parallelism needs replicated KV heads: TP {tp}, {facts.kv_heads} heads"
            )
        if any(layer.kind in (KvKind.SLIDING, KvKind.CHUNKED) for layer in facts.kv_layers):
            found.append("decode context parallelism does not support sliding windows")
    needed, there = tp * pp * spec.data_parallel_size, len(hardware.devices)
    if needed > there and hardware.device.kind is not DeviceKind.CPU:
        found.append(
            f"{needed} devices are needed (TP {tp} x PP {pp} x DP {spec.data_parallel_size}), {there} given"
        )
    if spec.max_model_len and facts.max_positions and spec.max_model_len > facts.max_positions:
        found.append(
            f"max_model_len {spec.max_model_len:,} exceeds the model's {facts.max_positions:,} positions"
        )
    return found


def platform_refusals(
    facts: ModelFacts, device: Device, spec: ServingSpec, formats: Mapping[str, str] | None
) -> tuple[list[str], list[str]]:
    """Refusals and notes about what the device runs: the platform, dtypes, the plan's and stored formats."""
    refusals: list[str] = []
    notes: list[str] = []
    if device.kind in (DeviceKind.METAL,):
        refusals.append(f"vLLM has no engine for {device.kind.value} devices: use llama.cpp with a GGUF file")
    elif device.kind not in (DeviceKind.CUDA, DeviceKind.CPU):
        notes.append(f"laws and kernel tables were made on CUDA: on {device.kind.value} read the intervals")
    if device.kind is DeviceKind.CUDA and device.sm is not None:
        if device.sm < 70:
            refusals.append(f"vLLM needs compute capability 7.0, {device.name} has {device.sm / 10}")
        if spec.dtype == "bfloat16" and device.sm < 80:
            refusals.append(
                f"bfloat16 needs compute capability 8.0, {device.name} has {device.sm / 10}: use float16"
            )
    cache = kv_problem(spec.kv_cache_dtype, device)
    if cache is not None:
        (refusals if device.kind is DeviceKind.CPU else notes).append(cache)
    covered = device.kind in (DeviceKind.CUDA, DeviceKind.CPU)
    for name in sorted(set((formats or {}).values())):
        support = kernel_support(get_format(name), device)
        if not support.runs and covered:
            refusals.append(f"{name}: {support.reason}")
        elif support.slow or (support.runs and not support.native and name != "BF16"):
            notes.append(f"{name}: {support.reason}")
    if not formats and (stored := stored_format(facts)) and covered:
        support = kernel_support(get_format(stored), device)
        if not support.runs:
            refusals.append(f"the checkpoint's {facts.stored_label} ({stored}): {support.reason}")
        elif not support.native:
            notes.append(f"the checkpoint's {facts.stored_label}: {support.reason}")
    if facts.stored_method == "bitsandbytes" and device.kind is DeviceKind.CPU:
        refusals.append("bitsandbytes checkpoints need a GPU")
    if facts.stored_method == "gguf" and device.kind is DeviceKind.CPU:
        refusals.append("vLLM's CPU build serves no GGUF: use llama.cpp")
    return refusals, notes


def stored_format(facts: ModelFacts) -> str | None:
    """The menu's format nearest to a checkpoint's own quantization; None when there is none."""
    label, method = facts.stored_label.upper(), facts.stored_method
    if not method or method == "gguf":
        return None
    if method == "mxfp4":
        return None  # experts alone: Triton and Marlin kernels run them from 8.0 on
    if "NVFP4" in label:
        return "NVFP4"
    if "MXFP4" in label:
        return "MXFP4"
    if label.startswith("FP8 BLOCK"):
        return "FP8_BLOCK"
    if "FP8" in label:
        return "FP8_DYNAMIC"
    if re.search(r"W8A8", label):
        return "W8A8"
    if re.search(r"W4A16", label):
        return "W4A16_G128"
    if re.search(r"W8A16", label):
        return "W8A16"
    return None


def memory_refusals(
    facts: ModelFacts, view: DeviceView, spec: ServingSpec, p: Prediction, version: Version
) -> list[str]:
    """Start-up checks on memory, at the pessimistic end of the intervals."""
    assert spec.max_model_len is not None
    assert spec.max_num_seqs is not None
    found = []
    rank = p.ranks[p.tight]
    if view.cpu:
        found += _cpu_refusals(view, spec, p)
    elif spec.kv_cache_memory_bytes is not None:
        total = rank.weights + rank.activation.value + rank.non_torch.value + rank.graph.value
        if total + spec.kv_cache_memory_bytes > view.total - CONTEXT_BYTES:
            found.append(
                f"weights and overheads of {gib(total)} and the KV cache asked for "
                f"({gib(spec.kv_cache_memory_bytes)}) exceed {gib(view.total - CONTEXT_BYTES)}"
            )
    elif view.free < p.budget:
        seen = "free" if view.free_known else "left beside the driver's own context"
        found.append(
            f"{gib(view.free)} {seen} is less than the budget of {gib(p.budget)} "
            f"({spec.gpu_memory_utilization} x {gib(view.total)}): lower --gpu-memory-utilization"
        )
    if rank.weights > (view.total if not view.cpu else view.free) and not any("exceed" in f for f in found):
        found.append(f"the weights of {gib(rank.weights)} exceed the device's {gib(view.total)}")
    if not p.cache.groups:
        return found
    need = p.cache.request_blocks(spec.max_model_len)
    if rank.available.value <= 0:
        found.append(f"no memory is left for the KV cache: {gib(rank.available.value)}")
    elif usable(p.blocks_low, version) < need:
        room = rank.available.low if p.blocks != p.blocks_low else rank.available.value
        found.append(
            f"one request of {spec.max_model_len:,} tokens needs "
            f"{gib(need * p.cache.block_bytes[p.tight])} of KV cache, "
            f"{gib(max(0.0, room))} may be all there is"
        )
    if any(g.spec.kind is KvKind.MAMBA for g in p.cache.groups) and not spec.enforce_eager and not view.cpu:
        share = sum(1 for g in p.cache.groups if g.spec.kind is KvKind.MAMBA) * p.cache.mamba_pages
        if 0 < p.blocks < spec.max_num_seqs:
            found.append(
                f"max_num_seqs {spec.max_num_seqs} exceeds the {p.blocks:,} cache blocks "
                f"({share} per request hold mamba state): lower --max-num-seqs"
            )
    on_top = p.graphs_forgotten or not p.graphs_inside
    graph_outside = rank.graph.high if on_top else rank.graph.value * (GRAPH_MARGIN - 1)
    if graph_outside and spec.kv_cache_memory_bytes is None and p.budget + graph_outside > view.total:
        found.append(
            f"CUDA-graph capture may need {gib(graph_outside)} above the budget, "
            f"{gib(max(0.0, view.total - p.budget))} is there: use --enforce-eager or a lower utilization"
        )
    return found


def _cpu_refusals(view: DeviceView, spec: ServingSpec, p: Prediction) -> list[str]:
    """The checks of vLLM 0.32 `cpu_worker.py`."""
    rank = p.ranks[p.tight]
    resident = rank.weights + rank.non_torch.value
    if spec.kv_cache_memory_bytes is not None:
        need = resident + rank.activation.value + spec.kv_cache_memory_bytes
        if need > view.free:
            return [
                f"weights, process, activations and the KV cache asked for need {gib(need)}, "
                f"{gib(view.free)} is free"
            ]
        return []
    if p.budget > view.free:
        return [
            f"{gib(view.free)} of host memory is free, less than {spec.gpu_memory_utilization} x "
            f"{gib(view.total)} = {gib(p.budget)}: set VLLM_CPU_KVCACHE_SPACE "
            "(--kv-cache-memory-bytes) or a lower --gpu-memory-utilization"
        ]
    return []
