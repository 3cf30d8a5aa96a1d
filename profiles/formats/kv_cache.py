"""Which KV cache dtypes the engine's attention takes on a device, and why not the others.

`supported_kv_cache_dtypes` of vLLM 0.32's attention backends (`v1/attention/backends/`): CPU_ATTN takes auto
and FP8; FLASH_ATTN and FLASHINFER FP8 E4M3, TRITON_ATTN E5M2 and the dynamic scales per token and head;
NVFP4 is FlashInfer's on Blackwell.
"""

from __future__ import annotations

from profiles.hardware.schema import Device, DeviceKind

E4M3 = ("fp8", "fp8_e4m3")
"""`fp8` is short for `fp8_e4m3`."""

EXACT = ("auto", "bfloat16", "float16")
"""Dtypes of 16 bits, whose rounding is that of the engine's arithmetic."""

ROUNDED = (*E4M3, "fp8_e5m2", "int8", "int8_per_token_head", "fp8_per_token_head")
"""Dtypes whose rounding the search imitates (`tuners/model/kv_cache.py`)."""

ON_CPU = ("auto", *E4M3, "fp8_e5m2")
CPU_FP8_ISA = ("avx512f", "amx_tile")
"""Without one of these vLLM's CPU attention starts with no FP8 cache: "FP8 KV cache on CPU requires x86 with
AVX-512 or AMX" (`v1/attention/backends/cpu_attn.py`)."""

LOWEST_SM = {
    "bfloat16": 80,
    "fp8": 89,
    "fp8_e4m3": 89,
    "fp8_per_token_head": 89,
    "fp8_e5m2": 80,
    "int8": 80,
    "int8_per_token_head": 80,
    "int4_per_token_head": 80,
    "nvfp4": 100,
}
"""Compute capability from which a backend that runs on the device takes the dtype; E5M2 is "the only fp8 KV
dtype usable on Ampere" (`layers/attention/attention.py`)."""


def kv_problem(dtype: str, device: Device) -> str | None:
    """Why the engine cannot keep its KV cache in that dtype on the device, or None when it can."""
    if dtype == "auto":
        return None
    if device.kind is DeviceKind.CPU:
        if dtype in ON_CPU and not set(CPU_FP8_ISA).isdisjoint(device.isa):
            return None
        if dtype in ON_CPU:
            return f"vLLM's CPU attention takes {dtype} for the KV cache with AVX-512 or AMX alone"
        return f"vLLM's CPU attention takes {', '.join(ON_CPU)} for the KV cache, not {dtype}"
    lowest, sm = LOWEST_SM.get(dtype), device.sm or 0
    if device.kind is DeviceKind.CUDA and lowest is not None and sm < lowest:
        other = "; fp8_e5m2 runs from 8.0 on" if dtype in E4M3 and sm >= 80 else ""
        return f"a KV cache in {dtype} needs compute capability {lowest / 10}, got {sm / 10}{other}"
    return None


def kv_dtypes(device: Device) -> tuple[str, ...]:
    """Every dtype that the engine takes on the device."""
    return ("auto", *(name for name in LOWEST_SM if kv_problem(name, device) is None))
