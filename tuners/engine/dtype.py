"""The arithmetic type to serve 16-bit weights in, with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from profiles.hardware.schema import Device, DeviceKind

Dtype = Literal["bfloat16", "float16", "float32"]

BF16_SM = 80
"""First compute capability with bfloat16 arithmetic (Ampere, CUDA programming guide)."""

CPU_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
"""CPU flags that mean bfloat16 arithmetic; without them it is emulated, about five times slower than
float32 (measured with vLLM 0.32 on an AVX2 CPU: 88 s against 16.6 s for 2,040 prompt tokens)."""

DTYPE_BITS: dict[str, int] = {"bfloat16": 16, "float16": 16, "float32": 32}


def recommended_dtype(device: Device) -> tuple[Dtype, str]:
    """The dtype for `device` and why."""
    if device.kind is DeviceKind.CPU:
        return cpu_dtype(device.isa)
    if device.sm is not None and device.sm < BF16_SM:
        return "float16", f"compute capability {device.sm / 10} has no bfloat16 arithmetic (needs 8.0)"
    if device.sm is not None:
        return "bfloat16", f"compute capability {device.sm / 10} has bfloat16 arithmetic"
    return "bfloat16", f"{device.kind.value} devices that vLLM serves on have bfloat16 arithmetic"


def cpu_dtype(flags: Iterable[str]) -> tuple[Dtype, str]:
    """The dtype for a CPU with these flags and why."""
    found = [f for f in CPU_BF16_FLAGS if f in set(flags)]
    if found:
        return "bfloat16", f"the CPU has bfloat16 arithmetic ({', '.join(found)})"
    return "float32", "the CPU has neither AVX512-BF16 nor AMX: bfloat16 would be emulated, and slower"
