"""The catalogue: whole, in order, and never matched by a part of a name."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import UsageError
from profiles.hardware import all_devices, entries, find_device, find_entry, planned
from profiles.hardware.catalogue import match_driver, normalised
from profiles.hardware.catalogue.build import COMPILED, build, compiled_text
from profiles.hardware.catalogue.entry import CatalogueEntry
from profiles.hardware.schema import DeviceKind
from profiles.provenance import Provenance

GIB = 1024**3
TYPES = {"fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int4", "fp4"}
NARROWER = [("fp32", "fp16"), ("fp32", "bf16"), ("tf32", "bf16"), ("bf16", "fp8"), ("fp8", "fp4")]
each = pytest.mark.parametrize("entry", entries(), ids=lambda e: e.key)


def test_the_shipped_file_is_what_the_families_say() -> None:
    assert COMPILED.read_text(encoding="utf-8") == compiled_text(), (
        "run: python -m profiles.hardware.catalogue build"
    )
    assert tuple(build()) == entries()


def test_there_are_enough_devices_of_every_kind() -> None:
    kinds = Counter(e.kind for e in entries())
    assert len(entries()) >= 120
    assert len(all_devices()) == len(entries())
    assert set(kinds) == set(DeviceKind)
    assert sum(e.laptop for e in entries()) >= 20


def test_keys_names_and_aliases_name_one_device_each() -> None:
    owner: dict[str, str] = {}
    for entry in entries():
        for name in {normalised(n) for n in (entry.key, entry.name, *entry.aliases)}:
            assert owner.setdefault(name, entry.key) == entry.key, name
            assert name


@each
def test_an_entry_is_whole_and_plausible(entry: CatalogueEntry) -> None:
    assert len(entry.source) > 10
    assert len(entry.memory_source) > 10
    assert 0 < entry.memory_low_gib <= entry.memory_gib <= entry.memory_high_gib
    assert 30 < entry.bandwidth_gbps < 10_000
    assert entry.peaks_tops
    assert set(entry.peaks_tops) <= TYPES
    assert all(0.01 < v < 20_000 and math.isfinite(v) for v in entry.peaks_tops.values())
    assert (entry.compute_capability is not None) == (entry.kind is DeviceKind.CUDA)
    if entry.kind is DeviceKind.CPU:
        assert entry.cores
        assert entry.isa
    device = entry.device()
    assert device.catalogue_key == entry.key
    assert device.total_bytes.provenance in (Provenance.CALIBRATED, Provenance.ESTIMATED)


@each
def test_narrower_types_are_never_slower(entry: CatalogueEntry) -> None:
    peaks = entry.peaks_tops
    for wide, narrow in NARROWER:
        if wide in peaks and narrow in peaks:
            assert peaks[narrow] >= peaks[wide] * 0.999, (wide, narrow)


@each
def test_native_types_follow_the_compute_capability(entry: CatalogueEntry) -> None:
    if entry.compute_capability is None:
        return
    major, minor = entry.compute_capability
    sm = major * 10 + minor
    assert ("fp8" in entry.peaks_tops) == (sm >= 89)
    assert ("fp4" in entry.peaks_tops) == (sm >= 100)
    assert ("bf16" in entry.peaks_tops) == (sm >= 80)
    if sm >= 90:
        assert "int4" not in entry.peaks_tops


@pytest.mark.parametrize("entry", [e for e in entries() if e.laptop], ids=lambda e: e.key)
def test_a_laptop_chip_differs_from_the_desktop_chip_of_its_name(entry: CatalogueEntry) -> None:
    assert "Laptop" in entry.name
    try:
        desktop = find_entry(entry.key.replace("-laptop", ""))
    except UsageError:
        return  # the RTX 3050 Ti and 4050 exist in laptops only
    assert not desktop.laptop
    mine, theirs = entry.peaks_tops["fp32"], desktop.peaks_tops["fp32"]
    assert (entry.memory_gib, entry.bandwidth_gbps, mine) != (
        desktop.memory_gib,
        desktop.bandwidth_gbps,
        theirs,
    )


@pytest.mark.parametrize(
    ("key", "gib"),
    [("h100", 79.19), ("a100-80", 79.25), ("rtx-5090", 31.4), ("h20-3e", 139.7)],
)
def test_totals_that_drivers_report(key: str, gib: float) -> None:
    assert find_entry(key).memory_gib == pytest.approx(gib, rel=1e-3)


@pytest.mark.parametrize("key", ["rtx-3090", "rtx-4090"])
def test_the_24_gb_cards_have_less(key: str) -> None:
    assert 23.5 <= find_entry(key).memory_gib <= 23.6


@pytest.mark.parametrize(
    ("key", "kind", "tops"),
    [
        ("rtx-4090", "bf16", 165.2),
        ("rtx-4090", "int8", 660.6),
        ("rtx-5090", "fp4", 1676),
        ("rtx-3090", "fp16", 71.2),
        ("rtx-6000-ada", "fp16", 364.2),
        ("rtx-pro-6000", "fp32", 126.0),
        ("jetson-agx-orin", "int8", 85.2),
        ("rx-7900-xtx", "fp16", 122.8),
        ("rx-9070-xt", "fp8", 389),
    ],
)
def test_rates_per_unit_reproduce_the_published_peaks(key: str, kind: str, tops: float) -> None:
    assert find_entry(key).peaks_tops[kind] == pytest.approx(tops, rel=0.005)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("rtx-4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("nvidia geforce rtx 4090 laptop gpu", "rtx-4090-laptop"),
        ("RTX 4090 Mobile", "rtx-4090-laptop"),
        ("H100", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("Tesla T4", "t4"),
        ("AMD EPYC 7763 64-Core Processor", "epyc-7763"),
        ("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", "xeon-gold-6148"),
        ("Apple M4 Max", "apple-m4-max-128gb"),
        ("dgx-spark", "gb10"),
    ],
)
def test_names_that_people_and_drivers_use(name: str, key: str) -> None:
    assert find_device(name).catalogue_key == key


@pytest.mark.parametrize("name", ["rtx-409", "4090 laptop gpu rtx", "h10", "", "rtx", "RTX 4090 Ti", "🦆"])
def test_a_part_of_a_name_finds_nothing(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_device(name)
    assert caught.value.allowed


def test_the_nearest_names_are_offered() -> None:
    with pytest.raises(UsageError) as caught:
        find_device("rtx-4900")
    assert "rtx-4090" in (caught.value.allowed or "")


def test_one_name_with_two_sizes_asks_which() -> None:
    with pytest.raises(UsageError) as caught:
        find_device("RTX 4060 Ti")
    assert "rtx-4060-ti-8gb" in (caught.value.allowed or "")
    assert "rtx-4060-ti-16gb" in (caught.value.allowed or "")


@pytest.mark.parametrize("entry", [e for e in entries() if e.kind is DeviceKind.CUDA], ids=lambda e: e.key)
def test_the_drivers_answer_finds_its_own_entry(entry: CatalogueEntry) -> None:
    for name in entry.driver_names:
        total = None if entry.unified_memory else entry.memory_gib * GIB
        assert match_driver(name, total, DeviceKind.CUDA) == entry


def test_memory_tells_sizes_apart_and_refuses_others() -> None:
    for gib, key in ((7.6, "rtx-4060-ti-8gb"), (15.6, "rtx-4060-ti-16gb")):
        found = match_driver("NVIDIA GeForce RTX 4060 Ti", gib * GIB, DeviceKind.CUDA)
        assert found is not None
        assert found.key == key
    assert match_driver("NVIDIA GeForce RTX 4060 Ti", 12 * GIB, DeviceKind.CUDA) is None
    assert match_driver("NVIDIA GeForce RTX 4090", 23.5 * GIB, DeviceKind.ROCM) is None


def test_planned_machines_say_that_nobody_saw_them() -> None:
    found = planned("h100", 2)
    assert [d.index for d in found.devices] == [0, 1]
    assert found.origin == "catalogue"
    assert found.interconnect == "NVLink 900 GB/s"
    assert found.device.free_bytes is None
    assert any("laptop" in n for n in planned("rtx-4090-laptop").notes)
    assert any("apple-m4-max-48gb" in n for n in planned("apple-m4-max").notes)


@pytest.mark.parametrize("count", [0, -1, 5000])
def test_absurd_counts_are_refused(count: int) -> None:
    with pytest.raises(UsageError):
        planned("h100", count)


def outcome(name: str) -> str | None:
    try:
        return find_device(name).catalogue_key
    except UsageError as error:
        return error.allowed


@given(st.text(max_size=60))
def test_any_text_finds_a_device_or_says_what_is_allowed(name: str) -> None:
    assert outcome(name)


@given(st.sampled_from(entries()))
def test_normalising_twice_changes_nothing(entry: CatalogueEntry) -> None:
    for name in (entry.key, entry.name):
        assert normalised(normalised(name)) == normalised(name)
