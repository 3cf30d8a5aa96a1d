"""What may be expressed: fusions, shape rules and kernels decide before any search starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.errors import UsageError
from profiles.formats import Activations
from profiles.hardware.schema import Device, DeviceKind
from profiles.models import read_model
from profiles.provenance import Figure
from tuners.plan import Unit
from tuners.units import build_units, excluded_formats, fixed_bytes, served_rounding


def gpu(capability: tuple[int, int]) -> Device:
    return Device(
        kind=DeviceKind.CUDA,
        name="test GPU",
        total_bytes=Figure.exact(24 * 2**30, "B", "test"),
        compute_capability=capability,
    )


def test_fused_projections_are_one_unit(tiny_units: list[Unit]) -> None:
    assert [u.role for u in tiny_units] == ["qkv", "o", "gate_up", "down"] * 4
    assert {m.name.rsplit(".", 1)[1] for m in tiny_units[0].linears} == {"q_proj", "k_proj", "v_proj"}


def test_group_size_follows_the_shape(tiny_model_dir: Path, cpu: Device) -> None:
    units = build_units(read_model(str(tiny_model_dir)), cpu, formats=["W4A16"])
    assert {u.options for u in units} == {("W4A16_G128", "BF16")}


def test_all_makes_every_group_size_an_option_and_says_what_cannot_run(tiny_model_dir: Path) -> None:
    wide = Device(
        kind=DeviceKind.CPU,
        name="AVX-512",
        total_bytes=Figure.exact(2**33, "B", "test"),
        isa=("avx2", "avx512f"),
    )
    model = read_model(str(tiny_model_dir))
    unit = build_units(model, wide, formats=["all"])[0]
    assert {"W4A16_G128", "W4A16_G64", "W4A16_G32", "W4A16_ASYM_G128"} <= set(unit.options)
    assert "no kernel" in unit.excluded["W8A16"]
    narrow = build_units(model, wide.model_copy(update={"isa": ("avx2",)}), formats=["all"])[0]
    assert "symmetric weights only" in narrow.excluded["W4A16_ASYM_G128"]
    assert "W8A16" in build_units(model, gpu((9, 0)), formats=["all"])[0].options


def test_all_leaves_out_what_is_served_as_another_format(tiny_model_dir: Path) -> None:
    amx = Device(
        kind=DeviceKind.CPU,
        name="AMX",
        total_bytes=Figure.exact(2**33, "B", "test"),
        isa=("avx2", "avx512f", "avx512_vnni", "amx_tile", "amx_int8"),
    )
    model = read_model(str(tiny_model_dir))
    unit = build_units(model, amx, formats=["all"])[0]
    assert {"W8A8", "W8A8_ASYM", "W8A8_STATIC_ASYM", "FP8_DYNAMIC", "FP8_BLOCK"} <= set(unit.options)
    assert "served exactly as W8A8" in unit.excluded["W8A8_STATIC"]
    assert "switches all INT4 layers" in unit.excluded["W4A8_G128"]
    assert "E4M3" in unit.excluded["FP8_E5M2"]
    assert served_rounding([unit], amx) == {"FP8_BLOCK": Activations.A16}

    ampere = build_units(model, gpu((8, 0)), formats=["all"])[0]
    assert "served exactly as NVFP4" in ampere.excluded["NVFP4A16"]  # Marlin rounds no inputs
    assert "served exactly as FP8_DYNAMIC" in ampere.excluded["FP8_W8A16"]
    hopper = build_units(model, gpu((9, 0)), formats=["all"])[0]
    assert {"W4AFP8", "FP8_STATIC", "FP8_W8A16", "W8A16"} <= set(hopper.options)


def test_w4a8_alone_takes_the_largest_group_that_fits(tiny_model_dir: Path) -> None:
    amx = Device(
        kind=DeviceKind.CPU,
        name="AMX",
        total_bytes=Figure.exact(2**33, "B", "test"),
        isa=("avx2", "avx512f", "amx_tile"),
    )
    model = read_model(str(tiny_model_dir))
    assert {u.options for u in build_units(model, amx, formats=["W4A8"])} == {("W4A8_G128", "BF16")}
    plain = amx.model_copy(update={"isa": ("avx2", "avx512f")})
    assert "W4A16 is the same" in build_units(model, plain, formats=["W4A8"])[0].excluded["W4A8_G128"]


def test_blackwell_searches_nvfp4_unasked(tiny_model_dir: Path) -> None:
    model = read_model(str(tiny_model_dir))
    assert all("NVFP4" in u.options for u in build_units(model, gpu((10, 0))))
    assert all("NVFP4" not in u.options for u in build_units(model, gpu((9, 0))))


def test_int8_is_left_out_on_blackwell_with_the_reason(tiny_model_dir: Path) -> None:
    units = build_units(read_model(str(tiny_model_dir)), gpu((10, 0)))
    assert all("W8A8" not in u.options for u in units)
    assert any("Blackwell" in reason for reason in excluded_formats(units))


def test_a_group_never_straddles_ranks(tiny_model_dir: Path, cpu: Device) -> None:
    units = build_units(read_model(str(tiny_model_dir)), cpu, formats=["W4A16_G128"], tp=2)
    o_proj = next(u for u in units if u.role == "o")
    assert "W4A16_G128" not in o_proj.options
    assert "straddle" in o_proj.excluded["W4A16_G128"]


def test_fixed_and_unit_bytes_are_the_whole_checkpoint(tiny_model_dir: Path, tiny_units: list[Unit]) -> None:
    model = read_model(str(tiny_model_dir))
    as_stored = fixed_bytes(model, tiny_units) + sum(u.bytes_as("BF16") for u in tiny_units)
    assert as_stored == sum(t.nbytes for t in model.tensors)


def test_unknown_format_names_the_nearest(tiny_model_dir: Path, cpu: Device) -> None:
    with pytest.raises(UsageError, match="FP8_DYNAMIC"):
        build_units(read_model(str(tiny_model_dir)), cpu, formats=["FP8_DYNAMC"])


def test_a_format_with_only_a_slow_kernel_is_offered_when_asked_for_by_name(
    tiny_model_dir: Path, cpu: Device
) -> None:
    model = read_model(str(tiny_model_dir))
    default = build_units(model, cpu)
    assert all("FP8_DYNAMIC" not in u.options and "W8A8" in u.options for u in default)
    assert all("by name brings it back" in u.excluded["FP8_DYNAMIC"] for u in default)

    alone = build_units(model, cpu, formats=["FP8_DYNAMIC"])
    assert {u.options for u in alone} == {("FP8_DYNAMIC", "BF16")}
    assert all("FP8_DYNAMIC" in u.options for u in build_units(model, gpu((9, 0))))
