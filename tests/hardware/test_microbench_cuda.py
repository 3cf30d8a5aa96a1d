"""The GPU's micro-benchmark, its code run with tensors on the CPU, and where its figures go."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.errors import EnvironmentProblem
from profiles.hardware import planned
from profiles.hardware.schema import HardwareProfile
from profiles.provenance import Provenance
from tuners import microbench_cuda
from tuners.events import Event, Progress
from tuners.microbench_cuda import CudaBenchmark, CudaBenchSpec, apply, cache_path, cached, run


def spec(place: str, sm: int) -> CudaBenchSpec:
    return CudaBenchSpec(
        place=place, name="G", sm=sm, driver="1", seconds=0.2, array_bytes=1 << 20, sides=(64, 128)
    )


@pytest.fixture(scope="module")
def bench() -> CudaBenchmark:
    events: list[Event] = []
    found = run(spec("cpu", 90), events.append)
    assert any(isinstance(e, Progress) and e.done == e.total for e in events)
    return found


def test_every_rate_is_measured_or_named_as_missing(bench: CudaBenchmark) -> None:
    assert bench.bandwidth.value > 0
    assert bench.bandwidth.provenance is Provenance.MEASURED
    assert {"fp16", "bf16"} <= set(bench.ops)
    missing = {kind for kind in ("int8", "fp8") if any(kind in note for note in bench.notes)}
    assert set(bench.ops) | missing == {"fp16", "bf16", "int8", "fp8"}
    assert "fp8" not in run(spec("cpu", 80), lambda _: None).ops


def test_measured_figures_replace_the_catalogues_on_that_device_alone(bench: CudaBenchmark) -> None:
    hardware = planned("h100", 2)
    mine = bench.model_copy(update={"name": hardware.device.name, "sm": hardware.device.sm})
    changed = apply(hardware, mine)

    assert all(d.bandwidth_bytes_s == bench.bandwidth for d in changed.devices)
    assert all(d.peak_ops["bf16"] == bench.ops["bf16"] for d in changed.devices)
    assert changed.device.peak_ops["fp32"] == hardware.device.peak_ops["fp32"]
    assert "measured here" in changed.notes[-1] or "measured here" in " ".join(changed.notes)
    other = apply(hardware, bench)
    assert other.devices == hardware.devices


def test_the_result_is_kept_per_device_and_driver(
    bench: CudaBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microbench_cuda, "folder", lambda: tmp_path)
    hardware: HardwareProfile = planned("h100", 1)
    assert cached(hardware) is None
    microbench_cuda.keep(bench, cache_path(hardware.device, hardware.driver))
    assert cached(hardware) == bench
    assert cached(hardware.model_copy(update={"driver": "other"})) is None


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match="sees no GPU"):
        run(spec("cuda:0", 90), lambda _: None)
