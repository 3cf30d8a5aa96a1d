"""The machine that an answer is about: this one, or devices of the catalogue. Light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiles.hardware.schema import HardwareProfile


def read_hardware(gpu: str | None, count: int) -> HardwareProfile:
    """This machine, with its measured rates once `advisor hardware --bench` took them, or `count` devices
    of the catalogue."""
    from profiles.hardware import planned, probe

    if gpu is not None:
        return planned(gpu, count)
    return with_measured_rates(probe())


def with_measured_rates(found: HardwareProfile) -> HardwareProfile:
    """This machine's profile with the rates that `advisor hardware --bench` took here, if it did."""
    from profiles.hardware.schema import DeviceKind
    from tuners import microbench, microbench_cuda

    if found.device.kind is DeviceKind.CPU:
        of_cpu = microbench.cached(found.device)
        return found if of_cpu is None else microbench.apply(found, of_cpu)
    of_gpu = microbench_cuda.cached(found) if found.device.kind is DeviceKind.CUDA else None
    return found if of_gpu is None else microbench_cuda.apply(found, of_gpu)
