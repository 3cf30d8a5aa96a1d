"""What this machine is, what a planned one would be, and what the devices do at this moment."""

from __future__ import annotations

from profiles.errors import UsageError
from profiles.hardware.catalogue import entries, find_entry
from profiles.hardware.catalogue.entry import CatalogueEntry
from profiles.hardware.cpu import probe_cpu
from profiles.hardware.gpus import probe_gpus
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.hardware.snapshot import CpuWatch, DeviceLive, ProcessLive, live_gpus

MAX_COUNT = 1024
"""More devices than one deployment of the engine spans: larger counts are typing errors."""

_CPU_WATCH = CpuWatch()

__all__ = [
    "CatalogueEntry",
    "Device",
    "DeviceKind",
    "DeviceLive",
    "HardwareProfile",
    "ProcessLive",
    "all_devices",
    "entries",
    "find_device",
    "find_entry",
    "live",
    "planned",
    "probe",
    "probe_cpu",
]


def probe() -> HardwareProfile:
    """This machine: its NVIDIA GPUs when the driver answers, else its CPU with the reason in `notes`."""
    gpus = probe_gpus()
    if gpus.devices:
        return gpus
    cpu = probe_cpu()
    return cpu.model_copy(
        update={"notes": (*gpus.notes, *cpu.notes), "driver": gpus.driver, "runtime": gpus.runtime}
    )


def find_device(name: str) -> Device:
    """The catalogue's device of that key, alias or driver name, case and separators aside.

    Raises:
        UsageError: no device has that name, with the nearest ones; or several sizes share it.
    """
    return find_entry(name).device()


def planned(name: str, count: int = 1) -> HardwareProfile:
    """A machine with `count` devices of the catalogue, not seen.

    Raises:
        UsageError: unknown name, or an absurd count.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UsageError("not a number of devices", got=str(count), allowed=f"1 to {MAX_COUNT}")
    entry = find_entry(name)
    notes = [f"planned from the catalogue ({entry.source}), not seen on this machine"]
    if entry.laptop:
        notes.append("laptop makers set the power limit: expect the lower end of the intervals")
    if entry.sizes:
        notes.append(f"sold with several memory sizes ({', '.join(entry.sizes)}): planned as {entry.key}")
    return HardwareProfile(
        devices=tuple(entry.device(index) for index in range(count)),
        interconnect=entry.interconnect,
        origin="catalogue",
        notes=tuple(notes),
    )


def all_devices() -> list[Device]:
    """Every device of the catalogue, in the order of its files."""
    return [entry.device() for entry in entries()]


def live() -> list[DeviceLive]:
    """The devices of this machine now, GPUs first and the CPU last; call it again for a fresh look."""
    return [*live_gpus(), _CPU_WATCH.look()]
