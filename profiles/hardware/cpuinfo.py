"""Reads /proc/cpuinfo: the name, the cores, and the flags that decide which kernels exist."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

from profiles.provenance import Contract

KERNEL_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "amx_fp8",
)
ARM_FLAGS = {
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "fphp": "fp16",
}
"""Linux's words in an Arm `Features` line to the names that kernels go by."""

ARM_PARTS = {
    ("0x41", "0xd03"): "Arm Cortex-A53",
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0b"): "Arm Cortex-A76",
    ("0x41", "0xd0c"): "Arm Neoverse N1",
    ("0x41", "0xd40"): "Arm Neoverse V1",
    ("0x41", "0xd42"): "Arm Cortex-A78AE",
    ("0x41", "0xd49"): "Arm Neoverse N2",
    ("0x41", "0xd4f"): "Arm Neoverse V2",
    ("0x41", "0xd83"): "Arm Neoverse V3AE",
    ("0x41", "0xd84"): "Arm Neoverse V3",
    ("0x41", "0xd85"): "Arm Cortex-X925",
    ("0xc0", "0xac3"): "Ampere-1",
}
"""MIDR implementer and part to name, from Arm's and Ampere's technical reference manuals."""


class CpuInfo(Contract):
    """What the processor says of itself. `cores` are physical ones among the allowed logical CPUs."""

    name: str
    cores: int
    threads: int
    sockets: int
    isa: tuple[str, ...]
    family_model: str = ""


def parse_cpuinfo(text: str, allowed: frozenset[int] | None = None) -> CpuInfo:
    """The facts of a /proc/cpuinfo text, for the allowed logical CPUs (all when None)."""
    blocks = [_fields(b) for b in re.split(r"\n\s*\n", text) if b.strip()]
    cpus = [b for b in blocks if b.get("processor", "").isdigit()]
    mine = [b for b in cpus if allowed is None or int(b["processor"]) in allowed] or cpus
    first = mine[0] if mine else {}
    threads = max(1, len(mine))
    with_topology = [b for b in mine if "core id" in b]
    cores = {(b.get("physical id", "0"), b["core id"]) for b in with_topology}
    family = " ".join(f"{k} {first[k]}" for k in ("cpu family", "model", "stepping") if k in first)
    return CpuInfo(
        name=_name(first, blocks),
        cores=len(cores) if cores and len(with_topology) == len(mine) else threads,
        threads=threads,
        sockets=len({b.get("physical id", "0") for b in mine}) or 1,
        isa=_isa(first),
        family_model=family,
    )


def read_cpuinfo(
    allowed: frozenset[int] | None = None, path: Path = Path("/proc/cpuinfo")
) -> CpuInfo:  # pragma: no cover - the branches below need other operating systems
    """This machine's CPU; on macOS asked of sysctl."""
    if path.exists():
        return parse_cpuinfo(path.read_text(errors="replace"), allowed)
    if platform.system() == "Darwin":
        return _from_sysctl()
    import psutil  # type: ignore[import-untyped,unused-ignore]

    threads = len(allowed) if allowed else 1
    return CpuInfo(
        name=platform.processor() or platform.machine() or "unknown CPU",
        cores=psutil.cpu_count(logical=False) or threads,
        threads=threads,
        sockets=1,
        isa=(),
    )


def _fields(block: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in block.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields[key.strip()] = value.strip()
    return fields


def _name(first: dict[str, str], blocks: list[dict[str, str]]) -> str:
    if first.get("model name"):
        return " ".join(first["model name"].split())
    part = (first.get("CPU implementer", "").lower(), first.get("CPU part", "").lower())
    if part in ARM_PARTS:
        return ARM_PARTS[part]
    hardware = next((b["Hardware"] for b in blocks if b.get("Hardware")), None)
    if hardware:
        return hardware
    return f"Arm CPU {part[0]} {part[1]}" if part[1] else "unknown CPU"


def _isa(first: dict[str, str]) -> tuple[str, ...]:
    flags = set(first.get("flags", "").split())
    found = [f for f in KERNEL_FLAGS if f in flags]
    features = set(first.get("Features", "").split())
    found += [name for word, name in ARM_FLAGS.items() if word in features]
    return tuple(found)


def _from_sysctl() -> CpuInfo:  # pragma: no cover - macOS only
    def ask(key: str) -> str:
        result = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
        return result.stdout.strip()

    arm = platform.machine() == "arm64"
    isa = ["neon"] if arm else [f for f in ("avx2", "avx512f") if ask(f"hw.optional.{f}") == "1"]
    if arm:
        isa += [
            name
            for key, name in (("I8MM", "i8mm"), ("BF16", "bf16"))
            if ask(f"hw.optional.arm.FEAT_{key}") == "1"
        ]
    return CpuInfo(
        name=ask("machdep.cpu.brand_string") or "unknown CPU",
        cores=int(ask("hw.physicalcpu") or 1),
        threads=int(ask("hw.logicalcpu") or 1),
        sockets=1,
        isa=tuple(isa),
    )
