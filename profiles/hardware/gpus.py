"""From the driver's answers to devices: exact memory, catalogue speeds by exact name and size only."""

from __future__ import annotations

from collections.abc import Mapping

from profiles.hardware.catalogue import CatalogueEntry, match_driver
from profiles.hardware.host import HostMemory, host_memory
from profiles.hardware.nvml import (
    Handle,
    Nvml,
    NvmlProblem,
    ask,
    memory_of,
    open_nvml,
    visible_handles,
)
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.provenance import Figure

NVML_V1_SHARE = (0.95, 0.985, 1.0)
"""CUDA's total over the total of drivers that do not tell what they reserve (23.6 of 24.0 GiB, RTX 4090;
79.19 of 79.65, H100)."""
NVLINKS = 18
"""Links that any GPU has (Hopper and Blackwell)."""


def probe_gpus(
    api: Nvml | None = None,
    environ: Mapping[str, str] | None = None,
    host: HostMemory | None = None,
) -> HardwareProfile:
    """The NVIDIA devices a program would see; `devices` is empty, with the reason in `notes`, without."""
    host = host or host_memory()
    try:
        nvml = open_nvml(api)
        visible = visible_handles(nvml, environ)
    except NvmlProblem as problem:
        return HardwareProfile(devices=(), host_ram_bytes=host.total(), origin="probe", notes=(str(problem),))
    notes = list(visible.notes)
    devices = _without_integrated([_device(nvml, h, host, notes) for h in visible.chosen], notes)
    if len({(d.name, round(d.total_bytes.value / 2**30)) for d in devices}) > 1:
        notes.append("the devices differ: one deployment uses equal devices")
    cuda = ask(nvml.nvmlSystemGetCudaDriverVersion_v2)
    return HardwareProfile(
        devices=tuple(devices),
        host_ram_bytes=host.total(),
        interconnect=_interconnect(nvml, visible.chosen, devices),
        driver=ask(nvml.nvmlSystemGetDriverVersion),
        runtime=None if cuda is None else f"CUDA {cuda // 1000}.{cuda % 1000 // 10}",
        origin="mixed" if any(d.catalogue_key for d in devices) else "probe",
        notes=tuple(notes),
    )


def _device(api: Nvml, handle: Handle, host: HostMemory, notes: list[str]) -> Device:
    memory = memory_of(api, handle.handle)
    whole = handle.name if handle.parent is None else handle.name.rsplit(" MIG ", 1)[0]
    whole_memory = memory if handle.parent is None else memory_of(api, handle.parent)
    entry = match_driver(whole, None if whole_memory is None else whole_memory.total, DeviceKind.CUDA)
    if entry is None:
        notes.append(
            f"{whole!r} with this memory is not in the catalogue: its bandwidth and peak rates are unknown"
        )
    unified = memory is None
    if memory is None:
        total, free = host.total(), host.available()
        notes.append(
            f"{handle.name}: the driver does not support the memory query (unified memory): "
            "total and free are those of the host's RAM"
        )
    else:
        free = Figure.exact(memory.free, "B", "NVML free, at this moment")
        if memory.exact:
            total = Figure.exact(memory.total, "B", "NVML total - reserved: what CUDA can use")
        else:
            low, value, high = (memory.total * share for share in NVML_V1_SHARE)
            total = Figure.estimated(
                value, low, high, "B", "NVML total; this driver does not tell what it reserves of it"
            )
    limit = ask(api.nvmlDeviceGetEnforcedPowerLimit, handle.parent or handle.handle)
    capability = ask(api.nvmlDeviceGetCudaComputeCapability, handle.handle)
    if capability is None and handle.parent is not None:
        capability = ask(api.nvmlDeviceGetCudaComputeCapability, handle.parent)
    bandwidth, peaks = _speeds(api, handle, entry, notes)
    return Device(
        kind=DeviceKind.CUDA,
        name=handle.name,
        index=handle.index,
        total_bytes=total,
        free_bytes=free,
        bandwidth_bytes_s=bandwidth,
        peak_ops=peaks,
        compute_capability=None if capability is None else (int(capability[0]), int(capability[1])),
        power_w=None if limit is None else Figure.exact(limit / 1000, "W", "NVML enforced power limit"),
        unified_memory=unified,
        mig_profile=handle.mig_profile,
        catalogue_key=None if entry is None else entry.key,
    )


def _speeds(
    api: Nvml, handle: Handle, entry: CatalogueEntry | None, notes: list[str]
) -> tuple[Figure | None, dict[str, Figure]]:
    """The catalogue's speeds; a MIG instance has its share of SMs and of memory slices."""
    if entry is None:
        return None, {}
    if handle.parent is None:
        return entry.bandwidth(), entry.peaks()
    traits = ask(api.nvmlDeviceGetAttributes_v2, handle.handle)
    if traits is None or not entry.units:
        notes.append(f"{handle.name}: the driver does not tell the instance's share: its speed is unknown")
        return None, {}
    share = min(1.0, traits.multiprocessorCount / entry.units)
    # slices own their memory controllers: an instance's bandwidth follows its memory (NVIDIA MIG guide)
    memory_share = min(1.0, traits.memorySizeMB / 1024 / entry.memory_gib)
    return (
        _scaled(entry.bandwidth(), memory_share, "memory"),
        {kind: _scaled(figure, share, "SMs") for kind, figure in entry.peaks().items()},
    )


def _scaled(figure: Figure, share: float, of: str) -> Figure:
    return Figure.estimated(
        figure.value * share,
        figure.low * share,
        figure.high * share,
        figure.unit,
        figure.source,
        f"whole GPU {figure.value:.4g} x {share:.3f}, the instance's share of {of}",
    )


def _without_integrated(devices: list[Device], notes: list[str]) -> list[Device]:
    """An integrated GPU beside ones with memory of their own is not a second GPU."""
    own = [d for d in devices if not d.unified_memory]
    if own and len(own) < len(devices):
        names = ", ".join(d.name for d in devices if d.unified_memory)
        notes.append(f"left out, integrated beside GPUs with their own memory: {names}")
        return own
    return devices


def _interconnect(api: Nvml, handles: list[Handle], devices: list[Device]) -> str | None:
    """NVLink when links are up, else the PCI Express generation and width."""
    if not devices:
        return None
    first = next(h for h in handles if h.index == devices[0].index)
    gpu = first.parent or first.handle
    links = sum(ask(api.nvmlDeviceGetNvLinkState, gpu, n) == 1 for n in range(NVLINKS))
    if links and first.parent is None:
        entry = match_driver(first.name, devices[0].total_bytes.value, DeviceKind.CUDA)
        rate = entry.interconnect if entry is not None else None
        return f"{rate} ({links} links up)" if rate and "NVLink" in rate else f"NVLink, {links} links up"
    generation = ask(api.nvmlDeviceGetMaxPcieLinkGeneration, gpu)
    width = ask(api.nvmlDeviceGetMaxPcieLinkWidth, gpu)
    return f"PCIe {generation}.0 x{width}" if generation and width else None
