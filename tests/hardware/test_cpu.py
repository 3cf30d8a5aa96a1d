"""/proc/cpuinfo texts, control groups, and what is said about a CPU's speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.hardware import snapshot
from profiles.hardware.cpu import probe_cpu, profile_of
from profiles.hardware.cpuinfo import parse_cpuinfo
from profiles.hardware.host import cpu_quota, host_memory
from profiles.hardware.schema import DeviceKind
from profiles.hardware.snapshot import CpuWatch
from profiles.provenance import Provenance
from tests.hardware.replay import RECORDED

GIB = 1024**3


def text(name: str) -> str:
    return (RECORDED / f"cpuinfo_{name}.txt").read_text()


def test_two_sockets_of_xeon_count_physical_cores() -> None:
    info = parse_cpuinfo(text("xeon_8480_two_sockets"))
    assert (info.cores, info.threads, info.sockets) == (112, 224, 2)
    assert {"avx512f", "amx_tile", "amx_int8", "amx_bf16", "avx512_vnni"} <= set(info.isa)


def test_affinity_counts_hyperthreads_of_one_core_once() -> None:
    info = parse_cpuinfo(text("xeon_8480_two_sockets"), frozenset({0, 112, 1}))
    assert (info.cores, info.threads, info.sockets) == (2, 3, 1)


def test_hybrid_desktop_cores() -> None:
    info = parse_cpuinfo(text("core_i9_13900k"))
    assert (info.cores, info.threads) == (24, 32)
    assert info.isa == ("avx2", "avx_vnni")


def test_arm_names_come_from_the_part_number() -> None:
    info = parse_cpuinfo(text("graviton3"))
    assert info.name == "Arm Neoverse V1"
    assert {"neon", "i8mm", "bf16"} <= set(info.isa)
    assert info.cores == 4
    pi = parse_cpuinfo(text("raspberry_pi_4"))
    assert (pi.name, pi.isa, pi.cores) == ("Arm Cortex-A72", ("neon",), 4)


@pytest.mark.parametrize("broken", ["", "garbage", "processor : x\n", "processor\t: 0\n", "\n\n\n"])
def test_a_strange_cpuinfo_is_an_unknown_cpu(broken: str) -> None:
    info = parse_cpuinfo(broken)
    assert info.name == "unknown CPU"
    assert info.cores >= 1
    assert info.isa == ()


def test_a_known_cpu_gets_catalogue_figures_scaled_to_its_cores() -> None:
    found = profile_of(parse_cpuinfo(text("epyc_9654")))
    device = found.device
    assert device.catalogue_key == "epyc-9654"
    assert found.origin == "mixed"
    assert device.peak_ops["fp32"].value == pytest.approx(4 * 2.9e9 * 32, rel=1e-3)
    assert device.bandwidth_bytes_s is not None
    assert device.bandwidth_bytes_s.high == 460.8e9
    assert device.bandwidth_bytes_s.value < 460.8e9 / 2
    assert "fp8" not in device.peak_ops


def test_two_sockets_have_twice_the_bandwidth() -> None:
    device = profile_of(parse_cpuinfo(text("xeon_8480_two_sockets"))).device
    assert device.bandwidth_bytes_s is not None
    assert device.bandwidth_bytes_s.high == pytest.approx(2 * 307.2e9)
    assert device.peak_ops["int8"].value > device.peak_ops["bf16"].value > device.peak_ops["fp32"].value


def test_a_hidden_cpu_gets_wide_ranges_and_the_reason() -> None:
    found = profile_of(parse_cpuinfo(text("epyc_milan_vm")))
    device = found.device
    assert device.catalogue_key is None
    assert found.origin == "probe"
    assert device.bandwidth_bytes_s is not None
    assert device.bandwidth_bytes_s.provenance is Provenance.ESTIMATED
    assert device.bandwidth_bytes_s.high >= 3 * device.bandwidth_bytes_s.low
    assert set(device.peak_ops) == {"fp32"}
    assert any("micro-benchmark" in n for n in found.notes)


def test_this_machine_answers() -> None:
    device = probe_cpu().device
    assert device.kind is DeviceKind.CPU
    assert device.total_bytes.value > 0
    assert device.free_bytes is not None
    assert 0 < device.free_bytes.value <= device.total_bytes.value


def group_v2(root: Path, limit: str, current: int, cpu: str = "max 100000") -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/a/b\n")
    outer = root / "sys/fs/cgroup/a"
    (outer / "b").mkdir(parents=True)
    (outer / "memory.max").write_text(limit)
    (outer / "memory.current").write_text(str(current))
    (outer / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 4}\n")
    (outer / "b/memory.max").write_text("max\n")
    (outer / "cpu.max").write_text(cpu)


def test_a_parents_memory_limit_counts(tmp_path: Path) -> None:
    group_v2(tmp_path, str(GIB), GIB // 2)
    memory = host_memory(tmp_path)
    assert memory.total_bytes == GIB
    assert memory.available_bytes == GIB - GIB // 2 + GIB // 4
    assert memory.limited_by is not None
    assert "sys/fs/cgroup/a" in memory.limited_by


def test_no_limit_is_the_host(tmp_path: Path) -> None:
    group_v2(tmp_path, "max", 0)
    memory = host_memory(tmp_path)
    assert memory.limited_by is None
    assert memory.total_bytes > GIB
    assert cpu_quota(tmp_path) is None


def test_version_one_groups_and_their_unlimited_number(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/x\n3:cpu,cpuacct:/x\n")
    for controller in ("memory", "cpu"):
        (tmp_path / "sys/fs/cgroup" / controller / "x").mkdir(parents=True)
    base = tmp_path / "sys/fs/cgroup/memory"
    (base / "memory.limit_in_bytes").write_text("9223372036854771712")
    (base / "x/memory.limit_in_bytes").write_text(str(GIB // 2))
    (base / "x/memory.usage_in_bytes").write_text(str(GIB))
    (tmp_path / "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us").write_text("150000")
    (tmp_path / "sys/fs/cgroup/cpu/x/cpu.cfs_period_us").write_text("100000")
    memory = host_memory(tmp_path)
    assert (memory.total_bytes, memory.available_bytes) == (GIB // 2, 0)
    assert cpu_quota(tmp_path) == 2


def test_a_time_quota_lowers_the_cores(tmp_path: Path) -> None:
    group_v2(tmp_path, "max", 0, cpu="100000 100000")
    found = profile_of(parse_cpuinfo(text("epyc_9654")), tmp_path)
    assert found.device.cores == 1
    assert any("quota" in n for n in found.notes)


def test_the_first_look_has_no_load_and_the_second_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot.psutil, "cpu_percent", lambda interval: 37.5)
    watch = CpuWatch()
    assert watch.look().utilization_percent is None
    second = watch.look()
    assert second.utilization_percent == 37.5
    assert second.used_bytes is not None
    assert second.total_bytes is not None
    assert second.used_bytes <= second.total_bytes
