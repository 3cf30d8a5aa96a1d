"""Plays NVML answers through the same protocol that `pynvml` has; errors are pynvml's own.

`h200_machine.json` is what one machine answered (`record.py`). The other files in recorded/ are written by
hand in the shape of the driver's answers, with totals and reserves that public nvidia-smi outputs show.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

RECORDED = Path(__file__).with_name("recorded")
NOT_SUPPORTED, NOT_FOUND = 3, 6


class Replay:
    """One recorded machine. A handle is the dictionary of that device's answers."""

    nvmlMemory_v2 = pynvml.nvmlMemory_v2  # noqa: N815

    def __init__(self, name: str) -> None:
        self.record = json.loads((RECORDED / f"{name}.json").read_text())

    def nvmlInit(self) -> None:  # noqa: N802
        if "init_error" in self.record:
            raise pynvml.NVMLError(self.record["init_error"])

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if "count_error" in self.record:
            raise pynvml.NVMLError(self.record["count_error"])
        return len(self.record["devices"])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        device = self.record["devices"][index]
        if "handle_error" in device:
            raise pynvml.NVMLError(device["handle_error"])
        return device

    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any:  # noqa: N802
        return _answer(handle, "nvmlDeviceGetMemoryInfo" + ("_v2" if version else ""))

    def nvmlDeviceGetNvLinkState(self, handle: Any, link: int) -> int:  # noqa: N802
        return int(_answer(handle, "nvmlDeviceGetNvLinkState")[link])

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:  # noqa: N802
        parts = handle.get("mig", [])
        if index >= len(parts) or parts[index] is None:
            raise pynvml.NVMLError(NOT_FOUND)
        return parts[index]

    def __getattr__(self, function: str) -> Any:
        if function.startswith("nvmlSystem"):
            return lambda: _answer(self.record.get("system", {}), function)
        return lambda handle, *rest: _answer(handle, function)


def _answer(source: dict[str, Any], function: str) -> Any:
    answer = source.get(function, {"error": NOT_SUPPORTED})
    if isinstance(answer, dict):
        if "error" in answer:
            raise pynvml.NVMLError(answer["error"])
        return SimpleNamespace(**answer)
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        return [SimpleNamespace(**item) for item in answer]
    return answer
