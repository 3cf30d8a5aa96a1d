"""What the devices do at this moment, for a screen that asks every second."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from profiles.hardware.cpuinfo import read_cpuinfo
from profiles.hardware.host import allowed_cpus, host_memory
from profiles.hardware.nvml import Handle, Nvml, NvmlProblem, ask, memory_of, open_nvml, visible_handles
from profiles.hardware.schema import DeviceKind
from profiles.provenance import Contract

TEMPERATURE_GPU = 0
"""NVML_TEMPERATURE_GPU, the sensor on the die."""


class ProcessLive(Contract):
    """A process on a device; None where the driver does not tell."""

    pid: int
    name: str | None
    used_bytes: int | None


class DeviceLive(Contract):
    """One device now. None means that the driver does not answer, never zero."""

    kind: DeviceKind
    name: str
    index: int | None = None
    used_bytes: int | None = None
    total_bytes: int | None = None
    utilization_percent: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    processes: tuple[ProcessLive, ...] = ()


def live_gpus(api: Nvml | None = None, environ: Mapping[str, str] | None = None) -> list[DeviceLive]:
    """The visible NVIDIA devices now; none when the driver does not answer."""
    try:
        nvml = open_nvml(api)
        handles = visible_handles(nvml, environ).chosen
    except NvmlProblem:
        return []
    return [_gpu(nvml, handle) for handle in handles]


def _gpu(api: Nvml, device: Handle) -> DeviceLive:
    handle, whole = device.handle, device.parent or device.handle
    memory = memory_of(api, handle)
    rates = ask(api.nvmlDeviceGetUtilizationRates, handle)
    power = ask(api.nvmlDeviceGetPowerUsage, whole)
    limit = ask(api.nvmlDeviceGetEnforcedPowerLimit, whole)
    temperature = ask(api.nvmlDeviceGetTemperature, whole, TEMPERATURE_GPU)
    if memory is None:  # unified memory: the host's figures are the device's
        host = host_memory()
        used, total = host.total_bytes - host.available_bytes, host.total_bytes
    else:
        used, total = memory.used, memory.total
    return DeviceLive(
        kind=DeviceKind.CUDA,
        name=device.name,
        index=device.index,
        used_bytes=used,
        total_bytes=total,
        utilization_percent=None if rates is None else float(rates.gpu),
        temperature_c=None if temperature is None else float(temperature),
        power_w=None if power is None else power / 1000,
        power_limit_w=None if limit is None else limit / 1000,
        processes=tuple(
            ProcessLive(
                pid=int(p.pid),
                name=_process_name(int(p.pid)),
                used_bytes=None if p.usedGpuMemory is None else int(p.usedGpuMemory),
            )
            for p in ask(api.nvmlDeviceGetComputeRunningProcesses, handle) or []
        ),
    )


def _process_name(pid: int) -> str | None:
    with contextlib.suppress(psutil.Error):
        return str(psutil.Process(pid).name())
    return None


class CpuWatch:
    """The CPU's load since the previous look; the first look has no load to tell."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._name: str | None = None
        self._looked = False

    def look(self) -> DeviceLive:
        """RAM, load and temperature now."""
        if self._name is None:
            self._name = read_cpuinfo(allowed_cpus(), self._root / "proc/cpuinfo").name
        memory = host_memory(self._root)
        load = float(psutil.cpu_percent(interval=None))
        first, self._looked = not self._looked, True
        return DeviceLive(
            kind=DeviceKind.CPU,
            name=self._name,
            index=0,
            used_bytes=memory.total_bytes - memory.available_bytes,
            total_bytes=memory.total_bytes,
            utilization_percent=None if first else load,
            temperature_c=_cpu_temperature(),
        )


def _cpu_temperature() -> float | None:
    sensors = getattr(psutil, "sensors_temperatures", None)
    if sensors is None:
        return None
    with contextlib.suppress(OSError, RuntimeError):
        found = sensors()
        for chip in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            if found.get(chip):
                return float(found[chip][0].current)
    return None
