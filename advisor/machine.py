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
    from profiles.hardware.schema import DeviceKind
    from tuners.microbench import apply, cached

    found = probe()
    bench = cached(found.device) if found.device.kind is DeviceKind.CPU else None
    return found if bench is None else apply(found, bench)
