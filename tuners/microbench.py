"""About five seconds of measuring what this CPU really does: memory bandwidth and matmul rates.

Runs in a child process, so that torch and its threads are gone afterwards. The result is cached per CPU,
cores, instruction sets and torch version; `apply` puts it where the catalogue's figures were.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from pydantic import BaseModel, ValidationError

from profiles.errors import UsageError
from profiles.hardware import probe_cpu
from profiles.hardware.cpu import OPS_PER_CLOCK
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.provenance import Contract, Figure
from tuners.child import child_main, run_child
from tuners.events import Emit, Event, Ticker

DEFAULT_SECONDS = 5.0
ALLOWED_SECONDS = (0.2, 300.0)
CACHE_MULTIPLE = 4
"""STREAM's rule: each array at least four times the last-level cache (McCalpin, STREAM run rules)."""
ARRAY_BYTES = (64 << 20, 1 << 30)
ARRAY_SHARE_OF_RAM = 1 / 12
"""Three arrays then take a quarter of what is free."""
BUSY_SHARE = 0.5
"""A load average above half of the cores is other people's work."""
MATMUL_SIDES = (256, 512, 1024, 2048)
VERSION = 1
MEASURED_HERE = "measured here with"
"""In the note of a profile with measured rates: a newer measurement replaces it."""


class MicroBenchSpec(Contract):
    """What the child needs to know."""

    seconds: float
    cpu: str
    cores: int
    isa: tuple[str, ...]
    array_bytes: int


class MicroBenchmark(Contract):
    """Measured rates of one CPU. `bandwidth` is the best of copy, triad and read, as STREAM reports it.

    `ops` has every type that could be timed; types in `emulated` run without instructions of their own.
    """

    version: int = VERSION
    cpu: str
    cores: int
    isa: tuple[str, ...]
    library: str  # "torch 2.13.0" or "numpy 2.3.1"
    taken_at: float
    seconds: float
    bandwidth: Figure
    copy_rate: Figure
    triad_rate: Figure
    read_rate: Figure
    ops: dict[str, Figure]
    emulated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def measure(
    *,
    seconds: float = DEFAULT_SECONDS,
    emit: Emit | None = None,
    log_path: Path | None = None,
    refresh: bool = False,
    cancelled: Callable[[], bool] | None = None,
) -> MicroBenchmark:
    """This machine's rates: from the cache, or measured now in a child process.

    Raises:
        UsageError: seconds outside of what makes sense.
        AdvisorError: the child failed.
    """
    low, high = ALLOWED_SECONDS
    if not low <= seconds <= high:
        raise UsageError("not a time to measure for", got=f"{seconds} s", allowed=f"{low} to {high} s")
    device = probe_cpu().device
    found = None if refresh else cached(device)
    if found is not None:
        return found
    result = run_child(
        "tuners.microbench",
        _spec(device, seconds),
        emit=emit or silent,
        log_path=log_path or folder() / "last.log",
        stage="microbench",
        cancelled=cancelled,
    )
    bench = MicroBenchmark.model_validate(result)
    keep(bench, cache_path(device))
    return bench


def keep(bench: BaseModel, path: Path) -> None:
    """Write a result whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(bench.model_dump_json(indent=1), encoding="utf-8")
    temporary.replace(path)


def cached(device: Device) -> MicroBenchmark | None:
    """An earlier result for exactly this CPU, cores, instruction sets and torch version."""
    try:
        return MicroBenchmark.model_validate_json(cache_path(device).read_bytes())
    except (OSError, ValidationError):
        return None  # missing, or written by another version: measure again


def cache_path(device: Device) -> Path:
    """Where the result for this device is kept."""
    key = "\n".join([str(VERSION), device.name, str(device.cores), *device.isa, torch_version() or "numpy"])
    return folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def apply(profile: HardwareProfile, bench: MicroBenchmark, *, emulated: bool = False) -> HardwareProfile:
    """The profile with measured figures in place of the catalogue's.

    Types without instructions of their own stay out of `peak_ops`, which lists native ones; with
    `emulated` they are put in too, as what the machine does all the same.

    Raises:
        UsageError: the profile is of another machine than the benchmark.
    """
    device = profile.device
    if device.kind is not DeviceKind.CPU or (device.name, device.cores) != (bench.cpu, bench.cores):
        raise UsageError(
            "the micro-benchmark is of another device",
            got=f"{device.name}, {device.cores} cores",
            allowed=f"{bench.cpu}, {bench.cores} cores",
            next_step="measure on the machine that the profile describes",
        )
    measured = {t: f for t, f in bench.ops.items() if emulated or t not in bench.emulated}
    peaks = {**device.peak_ops, **measured}
    new = device.model_copy(update={"bandwidth_bytes_s": bench.bandwidth, "peak_ops": peaks})
    when = time.strftime("%Y-%m-%d", time.localtime(bench.taken_at))
    note = f"bandwidth and {', '.join(measured) or 'no'} rates {MEASURED_HERE} {bench.library} on {when}"
    replaced = ("the micro-benchmark replaces it", MEASURED_HERE, *bench.notes)
    kept = tuple(n for n in profile.notes if not any(text in n for text in replaced))
    return profile.model_copy(
        update={
            "devices": (new, *profile.devices[1:]),
            "origin": "probe" if set(peaks) <= set(measured) else profile.origin,
            "notes": (*kept, note, *bench.notes),
        }
    )


def silent(event: Event) -> None:
    """For callers that show no progress."""
    del event


def folder() -> Path:
    """Where results are kept."""
    return user_cache_path("advisor") / "microbench"


def torch_version() -> str | None:
    """Version of the installed torch, which is not imported for it."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _spec(device: Device, seconds: float) -> MicroBenchSpec:
    free = device.free_bytes.value if device.free_bytes else device.total_bytes.value
    wanted = max(ARRAY_BYTES[0], min(ARRAY_BYTES[1], CACHE_MULTIPLE * last_level_cache_bytes()))
    return MicroBenchSpec(
        seconds=seconds,
        cpu=device.name,
        cores=device.cores or 1,
        isa=device.isa,
        array_bytes=max(1 << 20, int(min(wanted, free * ARRAY_SHARE_OF_RAM))),
    )


def last_level_cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """The largest cache that the first CPU sees; 64 MiB where the system does not tell."""
    sizes = []
    for path in root.glob("index*/size"):
        text = path.read_text().strip()
        scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        digits = text.rstrip("KMG")
        if digits.isdigit():
            sizes.append(int(digits) * scale)
    return max(sizes, default=64 << 20)


def run(spec: MicroBenchSpec, emit: Emit) -> MicroBenchmark:
    """The child: seven timings share the time; each is the median of what fits into its part."""
    library, memory, matmuls = _torch_kit(spec) if torch_version() else _numpy_kit(spec)
    notes = _busy(spec.cores)
    parts = len(memory) + len(matmuls)
    ticker = Ticker(emit, "microbench", parts)
    part_s = spec.seconds / parts
    done = 0
    rates: dict[str, Figure] = {}
    for name, (job, bytes_moved) in memory.items():
        rates[name] = rate(job, bytes_moved, part_s, "B/s", f"{name} of {spec.array_bytes >> 20} MiB arrays")
        ticker(done := done + 1, name)
    ops: dict[str, Figure] = {}
    for kind, make in matmuls.items():
        figure = matmul_rate(make, part_s, f"{kind} matmul, {library}, {spec.cores} threads")
        ticker(done := done + 1, f"{kind} matmul")
        if figure is None:
            notes.append(f"{library} has no {kind} matmul for this CPU")
        else:
            ops[kind] = figure
    best = max(rates.values(), key=lambda f: f.value)
    native = {kind for kind, flag, _, _ in OPS_PER_CLOCK if flag in spec.isa} | {"fp32"}
    return MicroBenchmark(
        cpu=spec.cpu,
        cores=spec.cores,
        isa=spec.isa,
        library=library,
        taken_at=time.time(),
        seconds=spec.seconds,
        bandwidth=best,
        copy_rate=rates["copy"],
        triad_rate=rates["triad"],
        read_rate=rates["read"],
        ops=ops,
        emulated=tuple(k for k in ops if k not in native),
        notes=tuple(notes),
    )


def _busy(cores: int) -> list[str]:
    """A warning when other work shares the cores: the figures are then too low."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= cores * BUSY_SHARE:
        return []
    return [f"the machine was busy while it was measured (load {load:.1f} on {cores} cores): rates are low"]


def rate(job: Callable[[], Any], work: float, seconds: float, unit: str, source: str) -> Figure:
    """Work per second: the median of repeated runs, with the spread of the middle half."""
    job()  # pages touched, code compiled
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        job()
        times.append(max(time.perf_counter() - start, 1e-9))
    median = statistics.median(times)
    quarters = statistics.quantiles(times, n=4)
    spread = min(0.9, (quarters[2] - quarters[0]) / 2 / median)
    return Figure.measured(work / median, unit, f"measured on this machine: {source}", spread)


def matmul_rate(
    make: Callable[[int], Callable[[], Any] | None],
    seconds: float,
    source: str,
    sides: tuple[int, ...] | None = None,
    repeats: int = 1,
) -> Figure | None:
    """The rate at the largest square that fits the time three times over; small ones hide the peak.

    `repeats` is how many products one call of the job makes.
    """
    best: Figure | None = None
    sides = sides or MATMUL_SIDES
    for side in sides:
        job = make(side)
        if job is None:
            return None
        job()  # the first call of a size loads its kernel
        start = time.perf_counter()
        job()
        once = time.perf_counter() - start
        # the next square costs eight times as much, and three runs of it must fit
        last = side == sides[-1] or once * 8 * 3 > seconds
        if last:
            best = rate(job, 2.0 * side**3 * repeats, seconds / 2, "op/s", f"{source}, {side} squared")
            break
    return best


Kit = tuple[
    str,
    dict[str, tuple[Callable[[], Any], float]],
    dict[str, Callable[[int], Callable[[], Any] | None]],
]


def _torch_kit(spec: MicroBenchSpec) -> Kit:
    import torch

    torch.set_num_threads(spec.cores)
    torch.manual_seed(0)
    count = spec.array_bytes // 4
    a, b, c = torch.ones(count), torch.ones(count), torch.empty(count)
    side = int(count**0.5)
    matrix, vector = a[: side * side].view(side, side), torch.ones(side)
    memory = {
        "copy": (lambda: c.copy_(a), 2.0 * a.nbytes),
        "triad": (lambda: torch.add(a, b, alpha=3.0, out=c), 3.0 * a.nbytes),
        "read": (lambda: torch.mv(matrix, vector), float(matrix.nbytes)),
    }

    def dense(dtype: Any) -> Callable[[int], Callable[[], Any]]:
        def make(n: int) -> Callable[[], Any]:
            x, y = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
            return lambda: torch.mm(x, y)

        return make

    def int8(n: int) -> Callable[[], Any] | None:
        # oneDNN's INT8 linear, the library behind vLLM's CPU kernel for W8A8
        x = torch.randint(0, 255, (n, n), dtype=torch.uint8)
        w = torch.randint(-127, 127, (n, n), dtype=torch.int8)
        scales, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int32)
        try:
            packed = torch.ops.onednn.qlinear_prepack(w, [n, n])
            linear = torch.ops.onednn.qlinear_pointwise

            def job() -> Any:
                return linear(x, 0.1, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")

            job()
        except (RuntimeError, AttributeError, NotImplementedError):
            return None
        return job

    return (
        f"torch {torch.__version__}",
        memory,
        {"fp32": dense(torch.float32), "bf16": dense(torch.bfloat16), "int8": int8},
    )


def _numpy_kit(spec: MicroBenchSpec) -> Kit:
    import numpy as np

    count = spec.array_bytes // 4
    a, b, c = (np.ones(count, dtype=np.float32) for _ in range(3))
    side = int(count**0.5)
    matrix, vector = a[: side * side].reshape(side, side), np.ones(side, dtype=np.float32)

    def triad() -> None:
        np.multiply(b, np.float32(3), out=c)
        np.add(a, c, out=c)

    def fp32(n: int) -> Callable[[], Any]:
        x = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
        return lambda: x @ x

    memory: dict[str, tuple[Callable[[], Any], float]] = {
        "copy": (lambda: np.copyto(c, a), 2.0 * a.nbytes),
        "triad": (triad, 5.0 * a.nbytes),  # two passes: read and write, then two reads and a write
        "read": (lambda: matrix @ vector, float(matrix.nbytes)),
    }
    return f"numpy {np.__version__}", memory, {"fp32": fp32}


if __name__ == "__main__":
    child_main(MicroBenchSpec, run)
