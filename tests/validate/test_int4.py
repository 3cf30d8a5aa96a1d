"""The INT4 matmul against a dequantized one, and where the plugin steps in."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tuners.engine import cpu_int4, int4_packing

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"), reason="this torch has no CPU int4 matmul"
)


def _compressed(q: Any) -> Any:
    """(out, in) of -8..7 -> compressed-tensors' int32 words: lowest nibble first, offset 8."""
    words = (q + 8).reshape(q.shape[0], -1, 8).to(torch.int64)
    packed = sum(words[..., i] << (4 * i) for i in range(8))
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def _layer(out_features: int, in_features: int, group: int) -> tuple[Any, Any]:
    torch.manual_seed(0)
    q = torch.randint(-8, 8, (out_features, in_features))
    scale = (torch.rand(out_features, in_features // group) / 50 + 0.001).to(torch.bfloat16).float()
    return q, scale


def test_unpacking_undoes_packing() -> None:
    q, _ = _layer(16, 64, 32)

    assert torch.equal(int4_packing.unpack_nibbles(_compressed(q)), (q + 8).to(torch.int32))


@pytest.mark.parametrize("group", int4_packing.GROUP_SIZES)
@pytest.mark.parametrize("shape", [(16, 256), (48, 512), (256, 768)])
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_the_matmul_equals_a_dequantized_one(group: int, shape: tuple[int, int], rows: int) -> None:
    q, scale = _layer(*shape, group)
    x = torch.randn(2, rows, shape[1])
    dequantized = q.float() * scale.repeat_interleave(group, dim=1)
    expected = x.to(torch.bfloat16).float() @ dequantized.t()

    found = int4_packing.matmul(
        x, int4_packing.pack_weight(_compressed(q)), int4_packing.scales_and_zeros(scale), group
    )

    assert found.dtype == x.dtype
    assert found.shape == (2, rows, shape[0])
    # bfloat16 output: 8 bits of mantissa
    assert torch.allclose(found, expected, rtol=2**-7, atol=2**-7 * expected.abs().max().item())


def test_registering_twice_puts_one_kernel_in_front_of_the_one_that_crashes() -> None:
    pytest.importorskip("vllm")
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or cpu_int4._has_native_kernel():
        pytest.skip("the plugin has nothing to do here")
    import vllm.model_executor.kernels.linear as linear
    from vllm.platforms import PlatformEnum

    before = list(linear._POSSIBLE_KERNELS[PlatformEnum.CPU])
    try:
        cpu_int4.register()
        cpu_int4.register()
        names = [k.__name__ for k in linear._POSSIBLE_KERNELS[PlatformEnum.CPU]]
    finally:
        linear._POSSIBLE_KERNELS[PlatformEnum.CPU][:] = before

    assert names.count("AdvisorTorchInt4LinearKernel") == 1
    assert names.index("AdvisorTorchInt4LinearKernel") < names.index("CPUWNA16LinearKernel")


@pytest.mark.parametrize(("on_cpu", "native"), [(False, False), (True, True)])
def test_it_stays_out_of_the_way_elsewhere(
    monkeypatch: pytest.MonkeyPatch, on_cpu: bool, native: bool
) -> None:
    monkeypatch.setattr(cpu_int4, "_is_cpu_platform", lambda: on_cpu)
    monkeypatch.setattr(cpu_int4, "_has_native_kernel", lambda: native)
    monkeypatch.setattr(cpu_int4, "_put_first", lambda: pytest.fail("registered"))

    cpu_int4.register()


def test_arm_cpus_are_not_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_int4.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu_int4, "_is_cpu_platform", lambda: pytest.fail("asked"))

    cpu_int4.register()


def test_a_broken_engine_is_not_made_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise ImportError("vllm is half installed")

    monkeypatch.setattr(cpu_int4.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu_int4, "_is_cpu_platform", broken)

    cpu_int4.register()


def test_the_plugin_module_itself_loads_nothing_heavy() -> None:
    import subprocess

    code = "import sys, tuners.engine.cpu_int4; print([m for m in ('torch', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
