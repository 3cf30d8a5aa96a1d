"""Serving arguments with the engine's own defaults filled in, and the device as the laws see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from profiles.errors import UsageError
from profiles.footprint.facts import ModelFacts
from profiles.footprint.laws import GIB
from profiles.footprint.schema import ServingSpec
from profiles.footprint.version import NEW_UTILIZATION, Version
from profiles.hardware.schema import Device, DeviceKind

CONTEXT_BYTES = 0.55 * GIB
"""Taken by the driver and the process's own context before the engine looks at free memory (H100, A100)."""

UNKNOWN_CONTEXT = 4096
"""max_model_len when a config names none."""


class DeviceView(NamedTuple):
    """Numbers of a device that memory depends on."""

    kind: DeviceKind
    name: str
    total: float
    total_low: float
    free: float
    free_known: bool
    sm: int | None
    unified: bool

    @property
    def cpu(self) -> bool:
        """The CPU engine: no CUDA graphs, no allocator pages."""
        return self.kind is DeviceKind.CPU


def view_of(device: Device) -> DeviceView:
    """The device's memory; where free memory is not known, the total less a process context."""
    total = device.total_bytes.value
    known = device.free_bytes is not None
    cpu = device.kind is DeviceKind.CPU
    free = device.free_bytes.value if device.free_bytes else total - (0 if cpu else CONTEXT_BYTES)
    return DeviceView(
        device.kind,
        device.name,
        total,
        device.total_bytes.low,
        max(0.0, free),
        known,
        device.sm,
        device.unified_memory,
    )


def batch_defaults(view: DeviceView, world_size: int) -> tuple[int, int]:
    """max_num_batched_tokens and max_num_seqs of the API server (vLLM 0.32 `get_batch_defaults`)."""
    if view.cpu:
        return 2048 * world_size, 128 * world_size
    name = view.name.lower()
    if view.total >= 160 * GIB:
        return 16384, 1024
    if view.total >= 70 * GIB and "a100" not in name and "gb10" not in name:
        return 8192, 1024
    return 2048, 256


def filled(spec: ServingSpec, facts: ModelFacts, view: DeviceView, version: Version) -> ServingSpec:
    """The arguments with every default that the engine would choose."""
    world = spec.tensor_parallel_size * spec.pipeline_parallel_size
    tokens, sequences = batch_defaults(view, world)
    context = spec.max_model_len or facts.max_positions or UNKNOWN_CONTEXT
    if spec.max_num_seqs is not None:
        sequences = spec.max_num_seqs
    if spec.max_num_batched_tokens is not None:
        tokens = spec.max_num_batched_tokens
    else:
        tokens = min(sequences * context, tokens)
    if spec.max_num_seqs is None:
        sequences = min(sequences, tokens)
    return spec.model_copy(
        update={
            "max_model_len": context,
            "max_num_batched_tokens": tokens,
            "max_num_seqs": sequences,
            "gpu_memory_utilization": spec.gpu_memory_utilization
            or (0.92 if version >= NEW_UTILIZATION else 0.9),
            "block_size": spec.block_size or (128 if view.cpu else 16),
        }
    )


CPU_SPACE = "VLLM_CPU_KVCACHE_SPACE"


def with_cpu_space(spec: ServingSpec, environment: Mapping[str, str]) -> ServingSpec:
    """The CPU engine's cache in GiB from its environment variable, which beats nothing but the default.

    Raises:
        UsageError: the variable is not a whole number of GiB.
    """
    text = environment.get(CPU_SPACE, "").strip()
    if not text or spec.kv_cache_memory_bytes is not None:
        return spec
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise UsageError(f"{CPU_SPACE} is not a whole number of GiB", got=text[:40], allowed="such as 4")
    return spec.model_copy(update={"kv_cache_memory_bytes": int(text) * GIB}) if int(text) else spec


def served_bytes(spec: ServingSpec, facts: ModelFacts) -> int:
    """Bytes per element of unquantized weights: float32 only when asked for (auto turns it into 16 bits)."""
    del facts
    return 4 if spec.dtype == "float32" else 2


def kv_dtype(spec: ServingSpec, facts: ModelFacts) -> str:
    """The cache's dtype: auto takes what the checkpoint declares (compressed-tensors `kv_cache_scheme`)."""
    if spec.kv_cache_dtype != "auto":
        return spec.kv_cache_dtype
    declared = facts.stored_kv_dtype.lower()
    if declared.startswith("fp8"):
        return "fp8"
    if declared.startswith("nvfp4"):
        return "nvfp4"
    return "auto"
