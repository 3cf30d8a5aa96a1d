"""NVIDIA devices as the driver describes them, through `pynvml` behind a small protocol.

Tests replay recorded answers through the same protocol. Nothing here guesses: a query that the driver
does not support becomes None and a note.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

from profiles.hardware.visible import VARIABLE, visible_devices

LOST = (15, 16)
"""NVML_ERROR_GPU_IS_LOST and NVML_ERROR_RESET_REQUIRED."""
WORDS = {
    9: "the NVIDIA driver is installed but not loaded: `sudo modprobe nvidia`, or reboot",
    12: "no NVIDIA driver (libnvidia-ml.so.1 was not found)",
    18: "the NVIDIA kernel module and library are of different versions: reboot, or reload the module",
    4: "no permission to ask the NVIDIA driver: check the device nodes /dev/nvidia*",
}
"""NVML error codes to what the user can do (nvml.h, nvmlReturn_t)."""


class Nvml(Protocol):
    """The part of the `pynvml` module that is used; errors are `pynvml.NVMLError` with a `value`."""

    nvmlMemory_v2: int  # noqa: N815 - pynvml's own names

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlSystemGetDriverVersion(self) -> Any: ...  # noqa: N802
    def nvmlSystemGetCudaDriverVersion_v2(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any: ...  # noqa: N802
    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> tuple[int, int]: ...  # noqa: N802
    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]: ...  # noqa: N802
    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetNvLinkState(self, handle: Any, link: int) -> int: ...  # noqa: N802
    def nvmlDeviceGetMigMode(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetAttributes_v2(self, handle: Any) -> Any: ...  # noqa: N802


class NvmlProblem(Exception):
    """The driver does not answer at all; the text says why and what to do."""


@dataclass(frozen=True)
class Handle:
    """One device or MIG instance that a CUDA program would see."""

    index: int
    handle: Any
    name: str
    parent: Any = None  # the whole GPU, for a MIG instance

    @property
    def mig_profile(self) -> str | None:
        """The `1g.10gb` of a MIG instance's name."""
        found = re.search(r"\bMIG (\S+)$", self.name)
        return found.group(1) if self.parent is not None and found else None


@dataclass(frozen=True)
class Visible:
    """Devices in the order that CUDA gives them, and what limited them."""

    chosen: list[Handle]
    notes: list[str]


@dataclass(frozen=True)
class Memory:
    """Bytes that CUDA can use: `exact` when the driver told what it reserves for itself."""

    total: int
    used: int
    free: int
    exact: bool


@cache
def _module() -> Nvml:
    import pynvml

    pynvml.nvmlInit()
    atexit.register(pynvml.nvmlShutdown)
    return cast(Nvml, pynvml)


def open_nvml(api: Nvml | None = None) -> Nvml:
    """The driver's library, initialised once.

    Raises:
        NvmlProblem: there is no driver, or it does not work.
    """
    try:
        if api is None:
            return _module()
        api.nvmlInit()
    except nvml_error() as exc:
        raise NvmlProblem(describe(exc)) from exc
    return api


@cache
def nvml_error() -> type[Exception]:
    """`pynvml.NVMLError`, imported on first use: the import takes 0.1 s."""
    import pynvml

    return cast(type[Exception], pynvml.NVMLError)


def describe(exc: Exception) -> str:
    """An NVML error in words that a user can act on."""
    code = getattr(exc, "value", None)
    return WORDS.get(code or 0, f"the NVIDIA driver answered: {exc} (NVML error {code})")


def ask(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The driver's answer, or None when it has none; bytes of old bindings become text."""
    try:
        answer = function(*arguments, **options)
    except nvml_error():
        return None
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer


def memory_of(api: Nvml, handle: Any) -> Memory | None:
    """What CUDA can use of the device's memory; None where the driver does not support the query.

    NVML's total counts what the driver keeps for itself. Version 2 of the query tells that part, and
    total - reserved is CUDA's own total (H100: 81559 - 473 MiB = 79.19 GiB).
    """
    second = ask(api.nvmlDeviceGetMemoryInfo, handle, version=api.nvmlMemory_v2)
    if second is not None and second.total:
        usable = int(second.total) - int(second.reserved)
        return Memory(total=usable, used=int(second.used), free=int(second.free), exact=True)
    first = ask(api.nvmlDeviceGetMemoryInfo, handle)
    if first is None or not first.total:
        return None
    return Memory(total=int(first.total), used=int(first.used), free=int(first.free), exact=False)


def visible_handles(api: Nvml, environ: Mapping[str, str] | None = None) -> Visible:
    """Devices that a CUDA program started with this environment would see, MIG instances included.

    Raises:
        NvmlProblem: the driver does not even count its devices.
    """
    environ = os.environ if environ is None else environ
    try:
        count = api.nvmlDeviceGetCount()
    except nvml_error() as exc:
        raise NvmlProblem(describe(exc)) from exc
    notes: list[str] = []
    found: list[Handle] = []
    uuids: list[str | None] = []
    for index in range(count):
        try:
            handle = api.nvmlDeviceGetHandleByIndex(index)
            name = api.nvmlDeviceGetName(handle)
        except nvml_error() as exc:
            why = "is lost or needs a reset" if getattr(exc, "value", None) in LOST else str(exc)
            notes.append(f"NVIDIA device {index} is left out: {why}")
            continue
        found.append(Handle(index, handle, name.decode() if isinstance(name, bytes) else str(name)))
        uuids.append(ask(api.nvmlDeviceGetUUID, handle))
    text = environ.get(VARIABLE, "")
    if text.startswith("MIG-"):
        return _named_instances(api, found, text, notes)
    numbers = [h.index for h in found]
    limits = visible_devices(environ, uuids, [h.name for h in found], numbers)
    notes.extend(limits.notes)
    if limits.order is not None:
        found = [found[i] for i in limits.order]
    return _with_instances(api, found, notes)


def _with_instances(api: Nvml, found: list[Handle], notes: list[str]) -> Visible:
    """GPUs in MIG mode give their instances; CUDA gives one instance to a process."""
    whole: list[Handle] = []
    instances: list[Handle] = []
    for gpu in found:
        mode = ask(api.nvmlDeviceGetMigMode, gpu.handle)
        if not mode or mode[0] != 1:
            whole.append(gpu)
            continue
        parts = _instances(api, gpu)
        if not parts:
            notes.append(f"device {gpu.index} ({gpu.name}) is in MIG mode without instances: unusable")
        instances.extend(parts)
    if not instances:
        return Visible(whole, notes)
    if whole:
        notes.append(f"{len(instances)} MIG instance(s) beside whole GPUs are left out")
        return Visible(whole, notes)
    if len(instances) > 1:
        notes.append(
            f"{len(instances)} MIG instances; CUDA gives a process one of them, here the first "
            f"({instances[0].name}): choose another with {VARIABLE}=MIG-<uuid>"
        )
    return Visible(instances[:1], notes)


def _named_instances(api: Nvml, found: list[Handle], text: str, notes: list[str]) -> Visible:
    wanted = text.split(",")[0].strip()
    notes.append(f"{VARIABLE}={text!r} limits what this process sees")
    for gpu in found:
        for part in _instances(api, gpu):
            if str(ask(api.nvmlDeviceGetUUID, part.handle) or "").startswith(wanted):
                return Visible([part], notes)
    notes.append(f"{VARIABLE}: no MIG instance {wanted!r}")
    return Visible([], notes)


def _instances(api: Nvml, gpu: Handle) -> list[Handle]:
    parts: list[Handle] = []
    for number in range(ask(api.nvmlDeviceGetMaxMigDeviceCount, gpu.handle) or 0):
        handle = ask(api.nvmlDeviceGetMigDeviceHandleByIndex, gpu.handle, number)
        if handle is None:
            continue
        name = str(ask(api.nvmlDeviceGetName, handle) or gpu.name)
        if "MIG" not in name:
            name = f"{gpu.name} MIG {_profile_name(api, handle)}"
        parts.append(Handle(gpu.index, handle, name, gpu.handle))
    return parts


def _profile_name(api: Nvml, handle: Any) -> str:
    traits = ask(api.nvmlDeviceGetAttributes_v2, handle)
    if traits is None:
        return "instance"
    return f"{traits.gpuInstanceSliceCount}g.{round(traits.memorySizeMB / 1024)}gb"
