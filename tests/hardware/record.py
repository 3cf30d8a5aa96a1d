"""Writes what this machine's NVIDIA driver answers, in the format that `replay.py` plays.

    python tests/hardware/record.py > tests/hardware/recorded/NAME.json

Serial numbers in UUIDs are replaced; every other answer is as the driver gave it, its errors as NVML's
numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pynvml

SYSTEM = ("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion_v2")
DEVICE = (
    "nvmlDeviceGetName",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetMaxPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMemoryInfo",
)
FIELDS = {
    "nvmlDeviceGetMemoryInfo": ("total", "used", "free"),
    "nvmlDeviceGetMemoryInfo_v2": ("total", "reserved", "used", "free"),
    "nvmlDeviceGetUtilizationRates": ("gpu", "memory"),
    "nvmlDeviceGetComputeRunningProcesses": ("pid", "usedGpuMemory"),
}
TEMPERATURE_GPU = 0
NVLINKS = 18


def answer(
    function: Callable[..., Any], *arguments: Any, fields: tuple[str, ...] = (), **options: Any
) -> Any:
    """A driver's answer as JSON, or its error."""
    try:
        found = function(*arguments, **options)
    except pynvml.NVMLError as exc:
        return {"error": exc.value}
    if isinstance(found, bytes):
        return found.decode()
    if isinstance(found, list) and fields:
        return [{f: getattr(item, f) for f in fields} for item in found]
    return {f: getattr(found, f) for f in fields} if fields else found


def device(index: int) -> dict[str, Any]:
    """All answers about one device."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    found = {name: answer(getattr(pynvml, name), handle, fields=FIELDS.get(name, ())) for name in DEVICE}
    second = "nvmlDeviceGetMemoryInfo_v2"
    found[second] = answer(
        pynvml.nvmlDeviceGetMemoryInfo, handle, version=pynvml.nvmlMemory_v2, fields=FIELDS[second]
    )
    found["nvmlDeviceGetTemperature"] = answer(pynvml.nvmlDeviceGetTemperature, handle, TEMPERATURE_GPU)
    links = [answer(pynvml.nvmlDeviceGetNvLinkState, handle, link) for link in range(NVLINKS)]
    found["nvmlDeviceGetNvLinkState"] = links[0] if all(isinstance(x, dict) for x in links) else links
    found["nvmlDeviceGetUUID"] = f"GPU-00000000-0000-0000-0000-{index:012d}"
    return found


def main() -> None:
    """The whole machine, on stdout."""
    pynvml.nvmlInit()
    system = {name: answer(getattr(pynvml, name)) for name in SYSTEM}
    devices = [device(i) for i in range(pynvml.nvmlDeviceGetCount())]
    json.dump({"system": system, "devices": devices}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
