"""What this process may use of the host: RAM within its control group, cores within its affinity."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from profiles.provenance import Contract, Figure

UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2^63."""


class HostMemory(Contract):
    """Total and available RAM for this process; `limited_by` names the control group that caps it."""

    total_bytes: int
    available_bytes: int
    limited_by: str | None = None

    def total(self) -> Figure:
        """The total with where it comes from."""
        return Figure.exact(self.total_bytes, "B", self.limited_by or "MemTotal of the operating system")

    def available(self) -> Figure:
        """What is free now, page cache that can be dropped included."""
        return Figure.exact(self.available_bytes, "B", self.limited_by or "MemAvailable, at this moment")


def host_memory(root: Path = Path("/")) -> HostMemory:
    """RAM of the host, or of the tightest control group above this process (v1 and v2)."""
    memory = psutil.virtual_memory()
    total, available, limited_by = int(memory.total), int(memory.available), None
    for folder in _groups(root, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if limit is None or limit >= UNLIMITED_BYTES or limit > total:
            continue
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        # file cache of the group is given back under pressure, as MemAvailable assumes for the host
        used -= min(used, _stat(folder / "memory.stat", "inactive_file"))
        total = limit
        available = max(0, min(available, limit - used))
        limited_by = f"memory limit of the control group {folder}"
    return HostMemory(total_bytes=total, available_bytes=min(available, total), limited_by=limited_by)


def allowed_cpus() -> frozenset[int]:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpu_quota(root: Path = Path("/")) -> int | None:
    """Whole CPUs that a control group's time quota allows, rounded up; None without a quota."""
    allowed: list[int] = []
    for folder in _groups(root, "cpu"):
        quota = period = None
        with contextlib.suppress(OSError, ValueError):
            quota_text, period_text = (folder / "cpu.max").read_text().split()
            quota = None if quota_text == "max" else int(quota_text)
            period = int(period_text)
        if quota is None:
            quota = _number(folder / "cpu.cfs_quota_us")
            period = period or _number(folder / "cpu.cfs_period_us")
        if quota and quota > 0 and period:
            allowed.append(max(1, math.ceil(quota / period)))
    return min(allowed, default=None)


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group and its parents, outermost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = [p for p in path.split("/") if p and p != ".."]
        folders = [base.joinpath(*parts[:n]) for n in range(len(parts) + 1)]
        found.extend(f for f in folders if f.is_dir())
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _stat(path: Path, key: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in (key, f"total_{key}"):
                return int(value)
    return 0
