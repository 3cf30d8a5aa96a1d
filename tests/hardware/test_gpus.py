"""What the probe makes of recorded driver answers."""

from __future__ import annotations

import pytest

from profiles.hardware import gpus, probe
from profiles.hardware.gpus import probe_gpus
from profiles.hardware.host import HostMemory
from profiles.hardware.nvml import open_nvml
from profiles.hardware.schema import DeviceKind, HardwareProfile
from profiles.hardware.snapshot import live_gpus
from profiles.provenance import Provenance
from tests.hardware.replay import Replay

GIB = 1024**3
MIB = 1024**2
HOST = HostMemory(total_bytes=120 * GIB, available_bytes=100 * GIB)


def probed(name: str, **environ: str) -> HardwareProfile:
    return probe_gpus(Replay(name), environ, HOST)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_driver", "no NVIDIA driver"),
        ("driver_not_loaded", "modprobe nvidia"),
        ("version_mismatch", "different versions"),
        ("count_fails", "NVML error 999"),
    ],
)
def test_a_driver_that_does_not_answer_leaves_no_device_and_says_why(name: str, words: str) -> None:
    found = probed(name)
    assert found.devices == ()
    assert words in " ".join(found.notes)
    assert live_gpus(Replay(name), {}) == []


def test_probe_falls_back_to_the_cpu_and_keeps_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "open_nvml", lambda api: open_nvml(Replay("version_mismatch")))
    found = probe()
    assert found.device.kind is DeviceKind.CPU
    assert any("different versions" in n for n in found.notes)


def test_one_gpu_has_what_cuda_can_use_and_the_catalogue_speeds() -> None:
    found = probed("rtx_4090")
    device = found.device
    assert device.total_bytes.value == (24564 - 449) * MIB
    assert device.total_bytes.provenance is Provenance.EXACT
    assert device.free_bytes is not None
    assert device.free_bytes.value == (24564 - 449 - 1200) * MIB
    assert device.sm == 89
    assert device.catalogue_key == "rtx-4090"
    assert device.bandwidth_bytes_s is not None
    assert device.bandwidth_bytes_s.value == 1008e9
    assert device.bandwidth_bytes_s.provenance is Provenance.ESTIMATED
    assert device.power_w is not None
    assert device.power_w.value == 450
    assert (found.driver, found.runtime) == ("570.86.15", "CUDA 12.8")
    assert found.interconnect == "PCIe 4.0 x16"
    assert found.origin == "mixed"


def test_a_driver_that_hides_its_reserve_gives_an_interval_not_a_point() -> None:
    total = probed("rtx_4090_old_driver").device.total_bytes
    assert total.provenance is Provenance.ESTIMATED
    assert total.low < (24564 - 449) * MIB < total.high


def test_the_laptop_chip_is_not_the_desktop_chip() -> None:
    device = probed("rtx_4090_laptop").device
    assert device.catalogue_key == "rtx-4090-laptop"
    assert device.bandwidth_bytes_s is not None
    assert device.bandwidth_bytes_s.value == 576e9


@pytest.mark.parametrize("name", ["modded_4090", "unknown_gpu"])
def test_a_name_or_size_that_is_not_in_the_catalogue_gets_no_speed(name: str) -> None:
    found = probed(name)
    assert found.device.bandwidth_bytes_s is None
    assert found.device.peak_ops == {}
    assert found.device.catalogue_key is None
    assert found.origin == "probe"
    assert any("not in the catalogue" in n for n in found.notes)


def test_four_gpus_with_nvlink() -> None:
    found = probed("h100_x4")
    assert [d.index for d in found.devices] == [0, 1, 2, 3]
    assert {d.catalogue_key for d in found.devices} == {"h100-sxm"}
    assert found.device.total_bytes.value / GIB == pytest.approx(79.19, abs=0.01)
    assert found.interconnect == "NVLink 900 GB/s (18 links up)"


def test_an_h200_as_its_driver_answered() -> None:
    found = probed("h200_machine")
    assert found.device.catalogue_key == "h200-sxm"
    assert found.device.compute_capability == (9, 0)
    assert found.device.total_bytes.provenance is Provenance.EXACT
    assert found.device.total_bytes.value == 150109880320  # torch.cuda.mem_get_info() there, to the byte
    assert found.interconnect == "PCIe 5.0 x16"  # alone in its machine: no link is up
    assert (found.driver, found.runtime) == ("580.159.04", "CUDA 13.0")
    assert found.notes == ()


@pytest.mark.parametrize(
    ("value", "indices", "words"),
    [
        ("2,0", [2, 0], "limits what this process sees"),
        ("GPU-h1000003", [3], "limits"),
        ("1,9,2", [1], "'9' names no device"),
        ("1,1", [], "named twice"),
        ("", [], "limits"),
        ("-1", [], "limits"),
        ("GPU-h100", [], "names no device"),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(value: str, indices: list[int], words: str) -> None:
    found = probed("h100_x4", CUDA_VISIBLE_DEVICES=value)
    assert [d.index for d in found.devices] == indices
    assert words in " ".join(found.notes)


def test_without_the_variable_nothing_is_said_about_it() -> None:
    assert not any("CUDA_VISIBLE" in n for n in probed("h100_x4").notes)


def test_a_mig_instance_has_its_share() -> None:
    found = probed("h100_mig")
    (device,) = found.devices
    assert device.mig_profile == "3g.40gb"
    assert device.total_bytes.value == 40320 * MIB
    assert device.catalogue_key == "h100-sxm"
    assert device.peak_ops["bf16"].value == pytest.approx(989.5e12 * 60 / 132)
    assert device.bandwidth_bytes_s is not None
    assert device.bandwidth_bytes_s.value == pytest.approx(3352e9 * 40320 / 1024 / 79.19)
    assert any("2 MIG instances" in n for n in found.notes)


def test_the_mig_instance_that_was_asked_for() -> None:
    (device,) = probed("h100_mig", CUDA_VISIBLE_DEVICES="MIG-00000002-1111").devices
    assert device.mig_profile == "1g.10gb"
    assert probed("h100_mig", CUDA_VISIBLE_DEVICES="MIG-none").devices == ()


def test_mig_mode_without_instances_is_unusable() -> None:
    found = probed("h100_mig_empty")
    assert found.devices == ()
    assert any("without instances" in n for n in found.notes)


def test_unified_memory_is_the_hosts() -> None:
    found = probed("gb10")
    device = found.device
    assert device.unified_memory
    assert device.total_bytes.value == HOST.total_bytes
    assert device.free_bytes is not None
    assert device.free_bytes.value == HOST.available_bytes
    assert device.catalogue_key == "gb10"
    assert any("does not support the memory query" in n for n in found.notes)


def test_an_integrated_gpu_beside_a_real_one_is_not_counted() -> None:
    found = probed("integrated_beside_discrete")
    assert [(d.name, d.index) for d in found.devices] == [("NVIDIA RTX A6000", 1)]
    assert any("integrated" in n for n in found.notes)


def test_a_lost_gpu_is_left_out_and_the_others_keep_their_numbers() -> None:
    found = probed("lost_gpu")
    assert [d.index for d in found.devices] == [1]
    assert any("device 0 is left out" in n for n in found.notes)
    assert [d.index for d in probed("lost_gpu", CUDA_VISIBLE_DEVICES="1").devices] == [1]


def test_different_gpus_are_said_to_differ() -> None:
    found = probed("mixed_gpus", CUDA_VISIBLE_DEVICES="1,0")
    assert [d.catalogue_key for d in found.devices] == ["rtx-4090", "rtx-3090"]
    assert any("devices differ" in n for n in found.notes)
    assert any("CUDA_DEVICE_ORDER" in n for n in found.notes)


def test_live_answers_and_gaps() -> None:
    (now,) = live_gpus(Replay("rtx_4090"), {})
    assert now.used_bytes == 1200 * MIB
    assert (now.utilization_percent, now.temperature_c, now.power_w) == (13.0, 47.0, 81.234)
    assert [p.used_bytes for p in now.processes] == [1100 * MIB, None]
    (gap,) = live_gpus(Replay("rtx_4090_laptop"), {})
    assert gap.utilization_percent is None
    assert gap.power_w is None
    (unified,) = live_gpus(Replay("gb10"), {})
    assert unified.total_bytes is not None
    assert unified.power_w == 11.17
