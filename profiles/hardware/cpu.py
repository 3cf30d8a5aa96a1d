"""The CPU as a target of its own: cores and RAM exact, speed from the catalogue or as a wide range."""

from __future__ import annotations

from pathlib import Path

from profiles.hardware.catalogue import CatalogueEntry, match_driver
from profiles.hardware.cpuinfo import CpuInfo, read_cpuinfo
from profiles.hardware.host import allowed_cpus, cpu_quota, host_memory
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.provenance import Figure

CLOCK_GHZ = (1.5, 2.5, 4.5)
"""Sustained clock of an unknown server or desktop core under vector load: low, middle, high."""
BANDWIDTH_PER_CORE_GBPS = (2.0, 8.0, 25.0)
"""Memory bandwidth per core: from a full 192-core socket to the one-core limit of a desktop chip
(STREAM results of Xeon, EPYC and Ryzen parts)."""
BANDWIDTH_OF_A_HOST_GBPS = (8.0, 614.0)
"""No host has less than half a DDR4 channel or more than 12 channels of DDR5-6400."""

OPS_PER_CLOCK: tuple[tuple[str, str, float, float], ...] = (
    ("fp32", "avx512f", 32, 64),
    ("fp32", "avx2", 16, 32),
    ("fp32", "neon", 16, 32),
    ("bf16", "amx_bf16", 512, 1024),
    ("bf16", "avx512_bf16", 64, 128),
    ("bf16", "bf16", 64, 128),
    ("fp16", "amx_fp16", 512, 1024),
    ("fp16", "avx512_fp16", 64, 128),
    ("int8", "amx_int8", 1024, 2048),
    ("int8", "avx512_vnni", 128, 256),
    ("int8", "avx_vnni", 64, 128),
    ("int8", "i8mm", 128, 256),
    ("fp8", "amx_fp8", 1024, 2048),
)
"""Dense operations per core and clock by instruction set, one or two vector units: type, flag, low, high
(vendors' optimization manuals). The first flag present counts; a type without one is not native."""


def probe_cpu(root: Path = Path("/")) -> HardwareProfile:
    """This machine's CPU: exact cores, flags and RAM; speeds `estimated` until a micro-benchmark runs."""
    allowed = allowed_cpus()
    return profile_of(read_cpuinfo(allowed, root / "proc/cpuinfo"), root)


def profile_of(info: CpuInfo, root: Path = Path("/")) -> HardwareProfile:
    """The profile for a CPU's own description, with the host's RAM and limits."""
    memory = host_memory(root)
    notes = [f"{info.threads} logical CPUs allowed on {info.cores} cores, {info.sockets} socket(s)"]
    cores = info.cores
    quota = cpu_quota(root)
    if quota is not None and quota < cores:
        cores = quota
        notes.append(f"a control group's time quota allows {quota} CPUs: planned with {quota} cores")
    if memory.limited_by:
        notes.append(f"RAM is capped by the {memory.limited_by}")
    if not info.isa:
        notes.append("no vector instruction set that kernels use was found (AVX2, AVX-512, AMX, NEON)")
    entry = match_driver(info.name, None, DeviceKind.CPU)
    if entry is None:
        bandwidth, peaks = unknown_bandwidth(cores), unknown_peaks(cores, info.isa)
        notes.append(
            f"{info.name!r} ({info.family_model or 'model not told'}) is not in the catalogue "
            "(hypervisors hide the model): its speed is a wide "
            "estimate from cores and instruction sets; the micro-benchmark replaces it"
        )
    else:
        bandwidth = known_bandwidth(entry, cores, info.sockets)
        peaks = known_peaks(entry, cores, info.isa)
    device = Device(
        kind=DeviceKind.CPU,
        name=info.name,
        index=0,
        total_bytes=memory.total(),
        free_bytes=memory.available(),
        bandwidth_bytes_s=bandwidth,
        peak_ops=peaks,
        isa=info.isa,
        cores=cores,
        unified_memory=True,
        catalogue_key=None if entry is None else entry.key,
    )
    return HardwareProfile(
        devices=(device,),
        host_ram_bytes=memory.total(),
        origin="probe" if entry is None else "mixed",
        notes=tuple(notes),
    )


def known_bandwidth(entry: CatalogueEntry, cores: int, sockets: int) -> Figure:
    """The socket's bandwidth; on a slice of it, between its share and all of it (neighbours decide)."""
    full = entry.bandwidth_gbps * 1e9 * sockets
    share = min(1.0, cores / ((entry.cores or cores) * sockets))
    low = full * share * 0.6
    value = full if share == 1 else full * share**0.5
    return Figure.estimated(
        value * (0.8 if share == 1 else 1),
        low,
        full,
        "B/s",
        f"catalogue: {entry.source}",
        f"{sockets} socket(s) x {entry.bandwidth_gbps:g} GB/s, "
        f"{cores} of {(entry.cores or cores) * sockets} cores",
    )


def known_peaks(entry: CatalogueEntry, cores: int, isa: tuple[str, ...]) -> dict[str, Figure]:
    """The catalogue's peaks scaled to the allowed cores, types whose flag is missing left out."""
    native = {kind for kind, flag, _, _ in OPS_PER_CLOCK if flag in isa}
    scale = cores / (entry.cores or cores)
    return {
        kind: Figure.estimated(
            figure.value * scale,
            figure.low * scale,
            figure.high * scale,
            figure.unit,
            f"catalogue: {figure.source}",
            f"{figure.formula}; x {cores}/{entry.cores} cores",
        )
        for kind, figure in entry.peaks().items()
        if kind in native
    }


def unknown_bandwidth(cores: int) -> Figure:
    """A range for a CPU that nobody knows."""
    floor, ceiling = BANDWIDTH_OF_A_HOST_GBPS
    low, value, high = (min(max(cores * g, floor), ceiling) * 1e9 for g in BANDWIDTH_PER_CORE_GBPS)
    return Figure.estimated(
        value,
        low,
        high,
        "B/s",
        "unknown CPU: 2-25 GB/s per core, within what hosts have (profiles/hardware/cpu.py)",
        f"{cores} cores x {BANDWIDTH_PER_CORE_GBPS[1]:g} GB/s",
    )


def unknown_peaks(cores: int, isa: tuple[str, ...]) -> dict[str, Figure]:
    """Ranges from cores, clocks that CPUs have, and operations per clock of the flags."""
    peaks: dict[str, Figure] = {}
    for kind, flag, low_ops, high_ops in OPS_PER_CLOCK:
        if kind in peaks or flag not in isa:
            continue
        low_ghz, ghz, high_ghz = CLOCK_GHZ
        # kernels reach about half of the peak on CPUs, memory and power permitting
        peaks[kind] = Figure.estimated(
            cores * ghz * high_ops * 1e9,
            cores * low_ghz * low_ops * 1e9 * 0.5,
            cores * high_ghz * high_ops * 1e9,
            "op/s",
            f"unknown CPU: {flag}, {low_ghz}-{high_ghz} GHz (profiles/hardware/cpu.py)",
            f"{cores} cores x {ghz} GHz x {high_ops:g} operations per clock",
        )
    return peaks
