"""About five seconds of measuring what this GPU really does: memory bandwidth and matmul rates.

The counterpart of `tuners/microbench.py`, in a child process as well; the result is kept per device name,
compute capability, driver and torch version. The tests run the same code with tensors on the CPU; docs/gpu.md
tells what it measured on a GPU.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from profiles.errors import EnvironmentProblem
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.provenance import Contract, Figure
from tuners.child import child_main, run_child
from tuners.events import Emit, Ticker
from tuners.microbench import (
    DEFAULT_SECONDS,
    MEASURED_HERE,
    folder,
    keep,
    matmul_rate,
    rate,
    silent,
    torch_version,
)

VERSION = 2
QUEUED = 8
"""Jobs between two waits: the wait itself takes 20 us, 4 % of a copy of 1 GiB."""
WARM_UP_S = 0.5
"""Of multiplying before anything is timed: the library starts, the clocks rise."""
SIDES = (1024, 2048, 4096, 8192)
"""Squares of the matmuls; the largest that fits the time three times over is the one that counts."""
ARRAY_BYTES = 1 << 30
"""Far beyond the last-level cache of any GPU (256 MiB at most); at most an eighth of what is free."""


class CudaBenchSpec(Contract):
    """What the child needs to know; `place` is a torch device."""

    place: str
    name: str
    sm: int
    driver: str
    seconds: float
    array_bytes: int
    sides: tuple[int, ...] = SIDES


class CudaBenchmark(Contract):
    """Measured rates of one GPU; `ops` has every type that its library could multiply."""

    version: int = VERSION
    name: str
    sm: int
    driver: str
    library: str
    taken_at: float
    bandwidth: Figure
    ops: dict[str, Figure]
    notes: tuple[str, ...] = ()


def measure(
    profile: HardwareProfile, *, seconds: float = DEFAULT_SECONDS, emit: Emit | None = None
) -> CudaBenchmark:
    """Rates of the first device, measured now in a child process and kept.

    Raises:
        EnvironmentProblem: torch is not installed, or it sees no GPU.
        AdvisorError: the child failed.
    """
    if torch_version() is None:
        raise EnvironmentProblem(
            "measuring a GPU needs torch", next_step="ADVISOR_FLAVOUR=gpu ./scripts/demo installs it"
        )
    device = profile.device
    free = (device.free_bytes or device.total_bytes).value
    spec = CudaBenchSpec(
        place="cuda:0",
        name=device.name,
        sm=device.sm or 0,
        driver=profile.driver or "",
        seconds=seconds,
        array_bytes=int(max(1 << 20, min(ARRAY_BYTES, free / 8))),
    )
    answer = run_child(
        "tuners.microbench_cuda",
        spec,
        emit=emit or silent,
        log_path=folder() / "last.log",
        stage="microbench",
    )
    bench = CudaBenchmark.model_validate(answer)
    keep(bench, cache_path(device, profile.driver))
    return bench


def cached(profile: HardwareProfile) -> CudaBenchmark | None:
    """An earlier result for exactly this device, driver and torch version."""
    try:
        return CudaBenchmark.model_validate_json(cache_path(profile.device, profile.driver).read_bytes())
    except (OSError, ValidationError):
        return None


def cache_path(device: Device, driver: str | None) -> Path:
    """Where the result for this device is kept."""
    key = "\n".join([f"cuda {VERSION}", device.name, str(device.sm), driver or "", torch_version() or ""])
    return folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def apply(profile: HardwareProfile, bench: CudaBenchmark) -> HardwareProfile:
    """The profile with measured figures on every device of that name; others keep the catalogue's."""

    def measured(device: Device) -> Device:
        if device.kind is not DeviceKind.CUDA or (device.name, device.sm) != (bench.name, bench.sm):
            return device
        peaks = {**device.peak_ops, **bench.ops}
        return device.model_copy(update={"bandwidth_bytes_s": bench.bandwidth, "peak_ops": peaks})

    when = time.strftime("%Y-%m-%d", time.localtime(bench.taken_at))
    note = f"bandwidth and {', '.join(bench.ops) or 'no'} rates {MEASURED_HERE} {bench.library} on {when}"
    kept = tuple(n for n in profile.notes if MEASURED_HERE not in n and n not in bench.notes)
    return profile.model_copy(
        update={
            "devices": tuple(measured(d) for d in profile.devices),
            "notes": (*kept, note, *bench.notes),
        }
    )


def run(spec: CudaBenchSpec, emit: Emit) -> CudaBenchmark:
    """The child: two timings of memory, one matmul per type; each is the median of what fits its part."""
    import torch

    if spec.place.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentProblem(
            "torch sees no GPU",
            got=f"torch {torch.__version__}, CUDA {torch.version.cuda}",
            next_step="install the GPU flavour: ADVISOR_FLAVOUR=gpu ./scripts/demo",
        )
    memory, matmuls = _memory(spec), _matmuls(spec)
    _warm_up(spec, matmuls["bf16"])
    part_s = spec.seconds / (len(memory) + len(matmuls))
    ticker, done = Ticker(emit, "microbench", len(memory) + len(matmuls)), 0
    rates = []
    for name, (job, moved) in memory.items():
        per_job = moved * _queued(spec)
        rates.append(rate(job, per_job, part_s, "B/s", f"{name} of {spec.array_bytes >> 20} MiB"))
        ticker(done := done + 1, name)
    ops, notes = {}, []
    for kind, make in matmuls.items():
        source = f"{kind} matmul, torch {torch.__version__}"
        found = matmul_rate(make, part_s, source, spec.sides, repeats=_queued(spec))
        ticker(done := done + 1, f"{kind} matmul")
        if found is None:
            notes.append(f"torch {torch.__version__} has no {kind} matmul for this device")
        else:
            ops[kind] = found
    return CudaBenchmark(
        name=spec.name,
        sm=spec.sm,
        driver=spec.driver,
        library=f"torch {torch.__version__}",
        taken_at=time.time(),
        bandwidth=max(rates, key=lambda f: f.value),
        ops=ops,
        notes=tuple(notes),
    )


def _queued(spec: CudaBenchSpec) -> int:
    return QUEUED if spec.place.startswith("cuda") else 1


def _warm_up(spec: CudaBenchSpec, make: Callable[[int], Callable[[], Any] | None]) -> None:
    """Every size once, then the middle one for a while."""
    if not spec.place.startswith("cuda"):
        return
    for side in (*spec.sides, spec.sides[len(spec.sides) // 2]):
        if (job := make(side)) is not None:
            job()
            end = time.perf_counter() + WARM_UP_S / (len(spec.sides) + 1)
            while time.perf_counter() < end:
                job()


def _finished(spec: CudaBenchSpec, job: Callable[[], Any]) -> Callable[[], Any]:
    """The job `QUEUED` times, waited for once: kernels are only queued by the call."""
    import torch

    if not spec.place.startswith("cuda"):
        return job

    def waited() -> None:
        for _ in range(QUEUED):
            job()
        torch.cuda.synchronize(spec.place)

    return waited


def _memory(spec: CudaBenchSpec) -> dict[str, tuple[Callable[[], Any], float]]:
    """Copy (bytes read and written) and matrix times vector (bytes read), which is what decoding does."""
    import torch

    side = int((spec.array_bytes // 2) ** 0.5)
    matrix = torch.ones(side, side, dtype=torch.bfloat16, device=spec.place)
    target, vector = torch.empty_like(matrix), torch.ones(side, dtype=torch.bfloat16, device=spec.place)
    return {
        "copy": (_finished(spec, lambda: target.copy_(matrix)), 2.0 * matrix.nbytes),
        "read": (_finished(spec, lambda: torch.mv(matrix, vector)), float(matrix.nbytes)),
    }


def _matmuls(spec: CudaBenchSpec) -> dict[str, Callable[[int], Callable[[], Any] | None]]:
    import torch

    def dense(dtype: Any) -> Callable[[int], Callable[[], Any]]:
        def make(n: int) -> Callable[[], Any]:
            x = torch.randn(n, n, device=spec.place).to(dtype)
            y = torch.randn(n, n, device=spec.place).to(dtype)
            return _finished(spec, lambda: torch.mm(x, y))

        return make

    def int8(n: int) -> Callable[[], Any] | None:
        x = torch.randint(-127, 127, (n, n), dtype=torch.int8, device=spec.place)
        y = torch.randint(-127, 127, (n, n), dtype=torch.int8, device=spec.place).t()
        return _tried(_finished(spec, lambda: torch._int_mm(x, y)))

    def fp8(n: int) -> Callable[[], Any] | None:
        x = torch.randn(n, n, device=spec.place).to(torch.float8_e4m3fn)
        y = torch.randn(n, n, device=spec.place).to(torch.float8_e4m3fn).t()
        one = torch.ones((), device=spec.place)
        return _tried(
            _finished(
                spec,
                lambda: torch._scaled_mm(x, y, scale_a=one, scale_b=one, out_dtype=torch.bfloat16),
            )
        )

    kinds: dict[str, Callable[[int], Callable[[], Any] | None]] = {
        "fp16": dense(torch.float16),
        "bf16": dense(torch.bfloat16),
        "int8": int8,
    }
    return {**kinds, "fp8": fp8} if spec.sm >= 89 else kinds


def _tried(job: Callable[[], Any]) -> Callable[[], Any] | None:
    try:
        job()
    except (RuntimeError, NotImplementedError, ValueError):
        return None
    return job


if __name__ == "__main__":
    child_main(CudaBenchSpec, run)
