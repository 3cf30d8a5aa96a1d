"""The micro-benchmark: what `apply` replaces, what the cache keeps, and one short real run."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.errors import UsageError
from profiles.hardware import planned, probe_cpu
from profiles.hardware.cpu import profile_of
from profiles.hardware.cpuinfo import parse_cpuinfo
from profiles.provenance import Figure, Provenance
from tests.hardware.replay import RECORDED
from tuners import microbench
from tuners.events import Event, Progress
from tuners.microbench import MicroBenchmark, MicroBenchSpec, apply, cache_path, cached, measure, run


def bench(cpu: str, cores: int, emulated: tuple[str, ...] = ()) -> MicroBenchmark:
    def rate(value: float, unit: str) -> Figure:
        return Figure.measured(value, unit, "test", 0.1)

    return MicroBenchmark(
        cpu=cpu,
        cores=cores,
        isa=("avx2",),
        library="torch 0",
        taken_at=0.0,
        seconds=5.0,
        bandwidth=rate(21e9, "B/s"),
        copy_rate=rate(20e9, "B/s"),
        triad_rate=rate(21e9, "B/s"),
        read_rate=rate(19e9, "B/s"),
        ops={"fp32": rate(1.5e11, "op/s"), "int8": rate(3e11, "op/s")},
        emulated=emulated,
    )


def test_measured_figures_replace_the_estimates() -> None:
    profile = profile_of(parse_cpuinfo((RECORDED / "cpuinfo_epyc_9654.txt").read_text()))
    result = apply(profile, bench(profile.device.name, 4))
    device = result.device
    assert device.bandwidth_bytes_s is not None
    assert device.bandwidth_bytes_s.provenance is Provenance.MEASURED
    assert device.peak_ops["int8"].value == 3e11
    assert device.peak_ops["bf16"].provenance is Provenance.ESTIMATED  # not measured: kept
    assert result.origin == "mixed"
    assert any("measured here" in n for n in result.notes)
    assert profile.device.peak_ops["int8"].provenance is Provenance.ESTIMATED  # the input is untouched


def test_emulated_types_are_not_called_native_unless_asked_for() -> None:
    profile = profile_of(parse_cpuinfo((RECORDED / "cpuinfo_epyc_milan_vm.txt").read_text()))
    result = apply(profile, bench("AMD EPYC", 2, emulated=("int8",)))
    assert set(result.device.peak_ops) == {"fp32"}
    assert result.origin == "probe"
    assert not any("micro-benchmark replaces it" in n for n in result.notes)
    with_all = apply(profile, bench("AMD EPYC", 2, emulated=("int8",)), emulated=True)
    assert set(with_all.device.peak_ops) == {"fp32", "int8"}


def test_another_machines_benchmark_is_refused() -> None:
    with pytest.raises(UsageError):
        apply(planned("epyc-9654"), bench("AMD EPYC", 2))
    with pytest.raises(UsageError):
        apply(planned("h100"), bench("NVIDIA H100 80GB HBM3", 2))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), 1e9])
def test_absurd_times_are_refused(seconds: float) -> None:
    with pytest.raises(UsageError):
        measure(seconds=seconds)


def test_the_cache_answers_without_measuring_and_survives_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microbench, "user_cache_path", lambda app: tmp_path / app)
    device = probe_cpu().device
    saved = bench(device.name, device.cores or 1)
    calls: list[str] = []

    def child(module: str, spec: MicroBenchSpec, **options: object) -> dict[str, object]:
        calls.append(module)
        assert spec.array_bytes >= 1 << 20
        return saved.model_dump(mode="json")

    monkeypatch.setattr(microbench, "run_child", child)
    assert cached(device) is None
    assert measure() == saved
    assert measure() == saved
    assert calls == ["tuners.microbench"]
    cache_path(device).write_text("{broken")
    assert measure() == saved
    assert len(calls) == 2
    assert measure(refresh=True) == saved
    assert len(calls) == 3


def test_the_cache_key_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    device = probe_cpu().device
    first = cache_path(device)
    assert cache_path(device.model_copy(update={"cores": 999})) != first
    assert cache_path(device.model_copy(update={"name": "other"})) != first
    monkeypatch.setattr(microbench, "torch_version", lambda: "99.0")
    assert cache_path(device) != first


@pytest.mark.parametrize("torch_version", [None, "installed"])
def test_a_short_real_run_measures_this_machine(
    torch_version: str | None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if torch_version:
        torch = pytest.importorskip("torch")
        threads = torch.get_num_threads()
        request.addfinalizer(lambda: torch.set_num_threads(threads))
    monkeypatch.setattr(microbench, "torch_version", lambda: torch_version)
    monkeypatch.setattr(microbench, "MATMUL_SIDES", (64, 128))
    events: list[Event] = []
    spec = MicroBenchSpec(seconds=0.2, cpu="this", cores=1, isa=("avx2",), array_bytes=1 << 20)
    result = run(spec, events.append)
    assert result.bandwidth.value == max(
        f.value for f in (result.copy_rate, result.triad_rate, result.read_rate)
    )
    assert result.bandwidth.provenance is Provenance.MEASURED
    assert result.ops["fp32"].value > 0
    assert "bf16" not in result.ops or "bf16" in result.emulated
    assert any(isinstance(e, Progress) and e.done == e.total for e in events)


def test_cache_sizes_are_read_from_the_system(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "2048K", "32M", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}/size").write_text(size + "\n")
    assert microbench.last_level_cache_bytes(tmp_path) == 32 << 20
    assert microbench.last_level_cache_bytes(tmp_path / "none") == 64 << 20
