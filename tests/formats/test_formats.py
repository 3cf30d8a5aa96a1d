"""Bytes of formats against the field's figures, shape rules, and which kernel runs what where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import UsageError
from profiles.formats import MENU, get_format
from profiles.formats.kernels import TORCH_INT4_KERNEL, kernel_support
from profiles.hardware.schema import Device, DeviceKind
from profiles.provenance import Figure


def device(kind: str, *, isa: tuple[str, ...] = (), capability: tuple[int, int] | None = None) -> Device:
    return Device(
        kind=DeviceKind(kind),
        name="test",
        total_bytes=Figure.exact(2**34, "B", "test"),
        isa=isa,
        compute_capability=capability,
    )


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("W4A16_G128", 4.125),
        ("W4A16_G32", 4.5),
        ("W8A8", 8 + 16 / 4096),
        ("FP8_DYNAMIC", 8 + 16 / 4096),
        ("NVFP4", 4.5),
        ("MXFP4", 4.25),
        ("BF16", 16.0),
    ],
)
def test_bits_per_weight_are_the_published_ones(name: str, bits: float) -> None:
    assert get_format(name).bits_per_weight(4096, 4096) == pytest.approx(bits, abs=1e-4)


@given(st.integers(1, 64), st.integers(1, 64))
def test_more_bits_never_weigh_less(rows: int, groups: int) -> None:
    out_features, in_features = 16 * rows, 128 * groups
    sizes = [
        get_format(n).weight_bytes(out_features, in_features)
        for n in ("W4A16_G128", "W4A16_G64", "W4A16_G32", "W8A8", "BF16")
    ]
    assert sizes == sorted(sizes)


@given(st.sampled_from(sorted(MENU)), st.integers(1, 40), st.integers(1, 40))
def test_bytes_grow_with_the_shape(name: str, rows: int, columns: int) -> None:
    fmt = MENU[name]
    here = fmt.weight_bytes(128 * rows, 128 * columns)
    assert here < fmt.weight_bytes(128 * (rows + 1), 128 * columns)
    assert here < fmt.weight_bytes(128 * rows, 128 * (columns + 1))


def test_group_and_block_must_divide_the_inputs() -> None:
    assert get_format("W4A16_G128").shape_problem(576, 576) is not None
    assert get_format("W4A16_G64").shape_problem(576, 576) is None
    assert get_format("FP8_BLOCK").shape_problem(576, 576) is not None
    assert get_format("W8A16").shape_problem(64, 30) is not None


def test_int4_on_a_cpu_depends_on_avx512() -> None:
    int4 = get_format("W4A16_G64")
    assert kernel_support(int4, device("cpu", isa=("avx2",)), 576, 576).kernel == TORCH_INT4_KERNEL
    full = kernel_support(int4, device("cpu", isa=("avx2", "avx512f")), 576, 576)
    assert full.kernel == "CPUWNA16LinearKernel"
    assert not kernel_support(int4, device("cpu"), 576, 576).runs


@pytest.mark.parametrize(
    ("name", "capability", "runs", "native"),
    [
        ("FP8_DYNAMIC", (9, 0), True, True),
        ("FP8_DYNAMIC", (8, 9), True, True),
        ("FP8_DYNAMIC", (8, 0), True, False),
        ("FP8_DYNAMIC", (7, 0), False, False),
        ("W8A8", (8, 0), True, True),
        ("W8A8", (10, 0), False, False),
        ("W8A8", (12, 0), False, False),
        ("W4A16_G128", (7, 5), True, False),
        ("W4A16_G128", (7, 0), False, False),
        ("NVFP4", (10, 0), True, True),
        ("NVFP4", (9, 0), True, False),
        ("MXFP4", (7, 5), False, False),
    ],
)
def test_kernels_by_compute_capability(
    name: str, capability: tuple[int, int], runs: bool, native: bool
) -> None:
    found = kernel_support(get_format(name), device("cuda", capability=capability), 4096, 4096)
    assert (found.runs, found.native) == (runs, native)
    assert found.reason


def test_aliases_and_nearest_names() -> None:
    assert get_format("int8").name == "W8A8"
    assert get_format("fp8").name == "FP8_DYNAMIC"
    with pytest.raises(UsageError, match="W4A16_G128"):
        get_format("W4A16_G129")
