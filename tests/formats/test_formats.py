"""Bytes of formats against the field's figures, shape rules, and which kernel runs what where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import UsageError
from profiles.formats import MENU, Activations, get_format
from profiles.formats.kernels import TORCH_INT4_KERNEL, cpu_environment, kernel_support
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
        ("NVFP4A16", (10, 0), True, False),
        ("W8A8_ASYM", (8, 6), True, True),
        ("W8A8_STATIC", (12, 0), False, False),
        ("FP8_STATIC", (8, 9), True, True),
        ("FP8_W8A16", (9, 0), True, False),
        ("FP8_E5M2", (10, 0), False, False),
        ("W4AFP8", (9, 0), True, True),
        ("W4AFP8", (10, 0), False, False),
        ("W4A8_G128", (9, 0), False, False),
    ],
)
def test_kernels_by_compute_capability(
    name: str, capability: tuple[int, int], runs: bool, native: bool
) -> None:
    found = kernel_support(get_format(name), device("cuda", capability=capability), 4096, 4096)
    assert (found.runs, found.native) == (runs, native)
    assert found.reason


@pytest.mark.parametrize(
    ("name", "capability", "rounds"),
    [
        ("FP8_DYNAMIC", (8, 0), Activations.A16),
        ("FP8_DYNAMIC", (9, 0), Activations.FP8_TOKEN),
        ("NVFP4", (9, 0), Activations.A16),
        ("NVFP4", (10, 0), Activations.NVFP4),
        ("MXFP4", (8, 0), Activations.A16),
    ],
)
def test_a_weight_only_fallback_does_not_round_inputs(
    name: str, capability: tuple[int, int], rounds: Activations
) -> None:
    fmt = get_format(name)
    assert kernel_support(fmt, device("cuda", capability=capability)).activations(fmt) is rounds


def test_static_int8_scales_are_not_read_by_the_amx_kernel() -> None:
    amx = device("cpu", isa=("avx2", "avx512f", "avx512_vnni", "amx_tile"))
    static, asymmetric = get_format("W8A8_STATIC"), get_format("W8A8_STATIC_ASYM")
    assert kernel_support(static, amx, 576, 576).activations(static) is Activations.INT8_TOKEN
    assert kernel_support(static, amx, 24, 576).activations(static) is Activations.INT8_TENSOR
    assert kernel_support(asymmetric, amx, 576, 576).activations(asymmetric) is Activations.INT8_TENSOR_ASYM


def test_int8_without_vnni_saturates_and_says_so() -> None:
    old, new = device("cpu", isa=("avx2",)), device("cpu", isa=("avx2", "avx_vnni"))
    for name in ("W8A8_ASYM", "W8A8_STATIC_ASYM"):
        assert "16 bits, which saturates" in kernel_support(get_format(name), old, 576, 576).reason
        assert not kernel_support(get_format(name), old, 576, 576).runs
        assert kernel_support(get_format(name), new, 576, 576).runs
    assert "saturates" in kernel_support(get_format("W8A8"), old, 576, 576).cost
    assert not kernel_support(get_format("W8A8"), new, 576, 576).cost


def test_int4_arithmetic_of_the_cpu_build_follows_the_plan() -> None:
    assert cpu_environment(["BF16", "W8A8"]) == {}
    assert cpu_environment(["W4A16_G64", "W8A8"]) == {"VLLM_CPU_INT4_W4A8": "0"}
    assert cpu_environment(["W4A8_G64", "BF16"]) == {"VLLM_CPU_INT4_W4A8": "1"}


def test_aliases_and_nearest_names() -> None:
    assert get_format("int8").name == "W8A8"
    assert get_format("fp8").name == "FP8_DYNAMIC"
    with pytest.raises(UsageError, match="W4A16_G128"):
        get_format("W4A16_G129")


@pytest.mark.parametrize(
    ("shape", "format_name", "kernel"),
    [
        ((4096, 6144), "W4A16_G128", "MacheteLinearKernel"),
        ((4096, 28672), "W8A8", "CutlassInt8ScaledMMLinearKernel"),
        ((14336, 4096), "W8A16", "MacheteLinearKernel"),
        ((4096, 6144), "W4AFP8", "CutlassW4A8LinearKernel"),
        ((576, 1536), "W8A16", "MacheteLinearKernel"),  # an input of 64s is enough
        ((576, 1536), "BF16", "UnquantizedLinearMethod"),
        ((1536, 576), "W4A16_G128", "MarlinLinearKernel"),
        ((576, 576), "W4A16_G64", "MarlinLinearKernel"),  # padded
    ],
)
def test_kernels_that_vllm_chose_on_an_h100(shape: tuple[int, int], format_name: str, kernel: str) -> None:
    """docs/gpu.md: the layer timer's and the engine's own choice, vLLM 0.26."""
    hopper = device("cuda", capability=(9, 0))
    found = kernel_support(get_format(format_name), hopper, shape[1], shape[0])
    assert found.kernel == kernel


def test_marlin_pads_what_its_tiles_do_not_meet() -> None:
    ada = device("cuda", capability=(8, 9))
    plain = kernel_support(get_format("W4A16_G64"), ada, 1536, 576)  # out of 128s, in of 64s
    padded = kernel_support(get_format("W4A16_G64"), ada, 576, 576)
    assert (plain.kernel, padded.kernel) == ("MarlinLinearKernel", "MarlinLinearKernel")
    assert "padded" in padded.reason
    assert "padded" in padded.cost
    assert "padded" not in plain.reason
    finer = kernel_support(get_format("W4A16_G32"), device("cuda", capability=(9, 0)), 4096, 4096)
    assert finer.kernel == "MarlinLinearKernel"  # Machete takes no groups of 32
