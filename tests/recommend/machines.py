"""Machines for the tests, as a probe would describe them."""

from __future__ import annotations

from advisor.recommend import ModelFacts
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.provenance import Figure

GIB = 2**30


def machine(
    name: str,
    gib: float,
    capability: tuple[int, int] | None = None,
    *,
    count: int = 1,
    kind: DeviceKind = DeviceKind.CUDA,
    isa: tuple[str, ...] = (),
) -> HardwareProfile:
    device = Device(
        kind=kind,
        name=name,
        total_bytes=Figure.exact(gib * GIB, "bytes", "test"),
        compute_capability=capability,
        isa=isa,
    )
    return HardwareProfile(devices=(device,) * count, origin="catalogue")


H100 = machine("NVIDIA H100 80GB HBM3", 79.2, (9, 0))
B200 = machine("NVIDIA B200", 178, (10, 0))
A100 = machine("NVIDIA A100-SXM4-80GB", 79.25, (8, 0))
L40S = machine("NVIDIA L40S", 44.4, (8, 9))
RTX_4090 = machine("NVIDIA GeForce RTX 4090", 23.6, (8, 9))
RTX_3090 = machine("NVIDIA GeForce RTX 3090", 23.5, (8, 6))
RTX_3060 = machine("NVIDIA GeForce RTX 3060", 12.0, (8, 6))
RTX_5090 = machine("NVIDIA GeForce RTX 5090", 31.4, (12, 0))
TWO_A100 = machine("NVIDIA A100-SXM4-80GB", 79.25, (8, 0), count=2)
FOUR_A40 = machine("NVIDIA A40", 44.5, (8, 6), count=4)
CPU = machine("a server CPU", 64, kind=DeviceKind.CPU, isa=("avx2",))
APPLE = machine("Apple M3 Max", 64, kind=DeviceKind.METAL)

SMALL = ModelFacts(name="0.5B", parameters=500_000_000, quantizable=360_000_000)
EIGHT_B = ModelFacts(name="8B", parameters=8_030_000_000, quantizable=6_980_000_000)
FOURTEEN_B = ModelFacts(name="14B", parameters=14_770_000_000, quantizable=13_210_000_000)
SEVENTY_B = ModelFacts(name="70B", parameters=68_980_000_000, quantizable=68_450_000_000)
