"""What a machine is, as far as choosing a precision is concerned."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from profiles.provenance import Contract, Figure


class DeviceKind(StrEnum):
    """The runtime that a device belongs to."""

    CUDA = "cuda"
    ROCM = "rocm"
    CPU = "cpu"
    METAL = "metal"
    XPU = "xpu"
    HPU = "hpu"


class Device(Contract):
    """One accelerator, or the CPU seen as one.

    `peak_ops` maps a compute type (`fp32 tf32 fp16 bf16 fp8 int8 int4 fp4`) to dense operations per
    second (a multiply-add is two). A type that is absent does not run natively there.
    """

    kind: DeviceKind
    name: str
    index: int | None = None
    total_bytes: Figure
    free_bytes: Figure | None = None
    bandwidth_bytes_s: Figure | None = None
    peak_ops: dict[str, Figure] = {}
    compute_capability: tuple[int, int] | None = None
    power_w: Figure | None = None
    isa: tuple[str, ...] = ()  # CPU flags that decide kernels: avx2 avx512f avx512_vnni amx_tile ...
    cores: int | None = None
    unified_memory: bool = False
    mig_profile: str | None = None
    catalogue_key: str | None = None

    @property
    def sm(self) -> int | None:
        """Compute capability as vLLM writes it: (8, 9) is 89."""
        if self.compute_capability is None:
            return None
        return self.compute_capability[0] * 10 + self.compute_capability[1]


class HardwareProfile(Contract):
    """The devices that one deployment may use, and where the facts come from.

    `origin` is `probe` (this machine answered), `catalogue` (planned, not seen) or `mixed`.
    """

    devices: tuple[Device, ...]
    host_ram_bytes: Figure | None = None
    interconnect: str | None = None  # "NVLink 900 GB/s", "PCIe 4.0 x16", None when unknown
    driver: str | None = None
    runtime: str | None = None  # CUDA / ROCm version the driver supports
    origin: Literal["probe", "catalogue", "mixed"]
    notes: tuple[str, ...] = ()  # what was not answered and why, shown to the user

    @property
    def device(self) -> Device:
        """The first device: deployments here are homogeneous."""
        return self.devices[0]
