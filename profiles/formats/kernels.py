"""Which kernel of the engine runs a format on a device, or why none does.

Rules read from the source of vLLM 0.32 (`vllm/model_executor/kernels/linear/` and
`compressed_tensors/schemes/*.get_min_capability`), restated here so that planning needs no engine.
The validation stage checks the prediction against what the engine really chose.
"""

from __future__ import annotations

from collections.abc import Iterable

from profiles.formats.menu import MENU, get_format
from profiles.formats.schema import Activations, Format
from profiles.hardware.schema import Device, DeviceKind
from profiles.provenance import Contract

TORCH_INT4_KERNEL = "AdvisorTorchInt4LinearKernel"
"""Our own vLLM plugin kernel (tuners/engine/cpu_int4.py): x86 CPUs without AVX-512 have no INT4 kernel
in vLLM's CPU build (`_C_AVX2` registers no `cpu_gemm_wna16`), PyTorch's int4 packed matmul serves there."""

INT4_COST = (
    "arithmetic stays 16-bit: saturated throughput 0.6-1.2 x BF16 (Llama-3.1-8B, vLLM 0.7.3: H100 0.63, "
    "A100 0.66, RTX 4090 1.04, RTX 3090 1.17), one stream alone up to 2.4 x (Qwen3-8B, RTX 5090)"
)
FP8_COST = (
    "prefill at the 16-bit rate; throughput 1.06 (A100) to 1.56 (RTX 3090) x BF16 (Llama-3.1-8B, vLLM 0.7.3)"
)
FP4_COST = "prefill at the 16-bit rate: expect what INT4 does"
INT8_COST = "prefill at the 16-bit rate, decode reads half the bytes"
NO_E5M2 = "no engine takes E5M2 weights (compressed-tensors, vLLM and TensorRT-LLM store E4M3): KV cache only"
W4A8_SWITCH = "VLLM_CPU_INT4_W4A8"
"""Environment of vLLM's CPU build, on by default: on AMX INT4 layers served in bfloat16 round their inputs to
INT8. Advisor sets it by the checkpoint (`cpu_environment`), so W4A16 is served as W4A16."""
CPU_FP8_BLOCK_COST = "weights are widened in every step: slower than INT8 of the same size"
CPU_INT8_COST = (
    "without VNNI oneDNN adds pairs of 8-bit products in 16 bits, which saturates: outputs are off by 0.1 to "
    "2.6 times INT8's own rounding (measured, benchmarks/results/saturation.md)"
)
CPU_FP8_COST = (
    "PyTorch multiplies FP8 element by element here: 50 ms for one row of a 576 x 576 layer, INT8 0.05 ms "
    "(one core of a Sapphire Rapids, torch 2.13)"
)
PADDED_COST = "inputs or outputs are padded and cut in every step; by how much slower is not known: measure"
"""Factors above: published throughput relative to BF16, saturated, and single-stream times per token."""
"""Factors: published throughput relative to BF16, saturated, and single-stream times per token."""

MACHETE_GROUPS = (None, 64, 128)
"""Of `machete_utils.py` for 16-bit activations; None: one scale per channel."""


class KernelSupport(Contract):
    """The answer for one (format, shape, device): `kernel` is None when nothing runs it."""

    kernel: str | None
    native: bool = False  # the arithmetic type itself is in the hardware
    reason: str
    slow: bool = False
    cost: str = ""  # what falling back costs, in words and measured factors
    rounds: Activations | None = None  # what the kernel does to the input, where that is not the format's

    @property
    def runs(self) -> bool:
        """Whether the engine can serve the format there."""
        return self.kernel is not None

    def activations(self, fmt: Format) -> Activations:
        """What the layer's input is rounded to when it is served."""
        return fmt.activations if self.rounds is None else self.rounds


def kernel_support(
    fmt: Format, device: Device, out_features: int | None = None, in_features: int | None = None
) -> KernelSupport:
    """The kernel that vLLM picks for `fmt` on `device`; shape rules apply when a shape is given.

    `out_features` and `in_features` are those of the engine's fused layer on one rank.
    """
    if out_features is not None and in_features is not None:
        problem = fmt.shape_problem(out_features, in_features)
        if problem:
            return KernelSupport(kernel=None, reason=problem)
    if fmt.family == "16-bit":
        return KernelSupport(kernel="UnquantizedLinearMethod", native=True, reason="not quantized")
    if device.kind is DeviceKind.CPU:
        return _on_cpu(fmt, device, out_features, in_features)
    if device.kind is DeviceKind.CUDA and device.sm is not None:
        return _on_cuda(fmt, device.sm, out_features, in_features)
    return KernelSupport(
        kernel=None,
        reason=f"no kernel table for {device.kind.value} devices: only CUDA and CPU are covered",
    )


def _none(reason: str) -> KernelSupport:
    return KernelSupport(kernel=None, reason=reason)


def _on_cpu(fmt: Format, device: Device, n: int | None, k: int | None) -> KernelSupport:
    isa = set(device.isa)
    if "avx2" not in isa:
        return _none("vLLM's x86 CPU build needs at least AVX2")
    if fmt.family == "int4":
        return _int4_on_cpu(fmt, isa, n, k)
    if fmt.family == "int8" and fmt.activations is not Activations.A16:
        return _int8_on_cpu(fmt, isa, n, k)
    if fmt.name == "FP8_DYNAMIC":
        if "amx_fp8" in isa:
            return KernelSupport(kernel="CPUFP8W8A8ScaledMMLinearKernel", native=True, reason="AMX-FP8")
        return KernelSupport(
            kernel="ChannelWiseTorchFP8ScaledMMLinearKernel",
            slow=True,
            reason="no FP8 kernel on this CPU: PyTorch multiplies element by element, about 50 ms a row "
            "where INT8 takes 0.05 ms",
            cost=CPU_FP8_COST,
        )
    if fmt.name == "FP8_BLOCK":
        if "amx_tile" not in isa:
            return _none("vLLM's CPU kernel for FP8 blocks needs AMX")
        if "amx_fp8" in isa:
            return KernelSupport(kernel="CPUFp8W8A8BlockScaledMMKernel", native=True, reason="AMX-FP8")
        return KernelSupport(
            kernel="CPUFp8BlockScaledMMKernel",
            slow=True,
            reason="FP8 weights are widened to BF16 in the kernel (AMX): activations stay 16-bit, "
            "slower than INT8 at the same size",
            cost=CPU_FP8_BLOCK_COST,
            rounds=Activations.A16,
        )
    if fmt.name == "FP8_STATIC":
        return _none("vLLM's x86 CPU build has no operator for static FP8 scales: FP8_DYNAMIC runs")
    if fmt.name == "FP8_E5M2":
        return _none(NO_E5M2)
    return _none(f"vLLM's x86 CPU build has no kernel for {fmt.name}")


def _int4_on_cpu(fmt: Format, isa: set[str], n: int | None, k: int | None) -> KernelSupport:
    if fmt.activations is Activations.FP8_TOKEN:
        return _none(f"{fmt.name} is for compute capability 9.0 alone (CUTLASS W4A8)")
    w4a8 = fmt.activations is Activations.INT8_TOKEN
    if w4a8 and not {"avx512f", "amx_tile"} <= isa:
        return _none("without AMX vLLM's INT4 kernel keeps 16-bit activations: W4A16 is the same there")
    if "avx512f" in isa:
        if n is not None and k is not None and (n % 32 or k % 32):
            return _none(f"CPUWNA16 wants in/out multiples of 32, got in {k}, out {n}")
        if w4a8:
            return KernelSupport(
                kernel="CPUWNA16LinearKernel",
                native=True,
                reason="INT4 weights times INT8 activations (AMX), switched on for the whole process "
                f"by {W4A8_SWITCH}=1",
            )
        return KernelSupport(
            kernel="CPUWNA16LinearKernel", reason="INT4 weights unpacked in registers (AVX-512)"
        )
    if not fmt.symmetric:
        return _none("no AVX-512: Advisor's own INT4 kernel takes symmetric weights only")
    if fmt.group_size not in (32, 64, 128, 256):
        return _none("PyTorch's int4 kernel takes groups of 32 to 256")
    if n is not None and n % 16:
        return _none(f"PyTorch's int4 kernel wants out multiples of 16, got {n}")
    return KernelSupport(
        kernel=TORCH_INT4_KERNEL,
        reason="no AVX-512: vLLM's own INT4 kernel is not built for this CPU; "
        "Advisor's vLLM plugin serves it with PyTorch's int4 kernel",
    )


def _int8_on_cpu(fmt: Format, isa: set[str], n: int | None, k: int | None) -> KernelSupport:
    """oneDNN takes every kind of INT8 activations; the AMX kernel that replaces it for symmetric ones
    (`check_cpu_sgl_kernel`) computes a scale per token and never reads a static one."""
    amx = "amx_tile" in isa and fmt.activations in (Activations.INT8_TOKEN, Activations.INT8_TENSOR)
    if amx and (n is None or n % 16 == 0) and (k is None or k % 32 == 0):
        static = fmt.activations is Activations.INT8_TENSOR
        return KernelSupport(
            kernel="CPUInt8ScaledMMLinearKernel",
            native=True,
            reason="AMX INT8"
            + (": scales are computed per token, the checkpoint's static one is not read" if static else ""),
            rounds=Activations.INT8_TOKEN if static else None,
        )
    if isa & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        return KernelSupport(
            kernel="CPUInt8ScaledMMLinearKernel", native=True, reason="oneDNN INT8 with VNNI/AMX"
        )
    if fmt.activations in (Activations.INT8_TOKEN_ASYM, Activations.INT8_TENSOR_ASYM):
        return _none(
            "without VNNI oneDNN adds pairs of 8-bit products in 16 bits, which saturates: with a zero point "
            "and one large input channel the output was 16 to 66 % off (benchmarks/results/saturation.md)"
        )
    return KernelSupport(
        kernel="CPUInt8ScaledMMLinearKernel",
        reason="oneDNN INT8, without VNNI: sums of pairs saturate",
        cost=CPU_INT8_COST,
    )


def _on_cuda(fmt: Format, sm: int, n: int | None, k: int | None) -> KernelSupport:
    if fmt.name == "FP8_E5M2":
        return _none(NO_E5M2)
    if fmt.family == "int4" and fmt.activations is Activations.FP8_TOKEN:
        return _w4afp8_on_cuda(sm, n, k)
    if fmt.family == "int4" and fmt.activations is Activations.INT8_TOKEN:
        return _none(
            "Marlin and Machete would serve it with 16-bit activations, as W4A16; INT8 ones need the "
            "optional Humming kernels, which have not been tried"
        )
    if fmt.family == "int4" or fmt.name == "W8A16":
        return _weight_only_int_cuda(fmt, sm, n, k)
    if fmt.family == "int8":
        if sm >= 100:
            return _none("INT8 W8A8 crashes at start on Blackwell (vLLM issue 54311): use FP8_DYNAMIC")
        if sm < 75:
            return _none(f"INT8 tensor cores need compute capability 7.5, got {sm / 10}")
        return KernelSupport(kernel="CutlassInt8ScaledMMLinearKernel", native=True, reason="CUTLASS INT8")
    if fmt.family == "fp8":
        return _fp8_on_cuda(fmt, sm)
    if fmt.family == "fp4":
        return _fp4_on_cuda(fmt, sm)
    return _none(f"no rule for {fmt.name} on CUDA")


def _fp8_on_cuda(fmt: Format, sm: int) -> KernelSupport:
    if sm < 75:
        return _none(f"FP8 needs compute capability 7.5, got {sm / 10}")
    if fmt.activations is Activations.A16:
        return KernelSupport(
            kernel="MarlinFP8ScaledMMLinearKernel",
            reason="weights stay FP8, arithmetic is 16-bit (Marlin)",
            cost=FP8_COST,
        )
    if sm >= 89:
        block = fmt.name == "FP8_BLOCK"
        return KernelSupport(
            kernel="CutlassFp8BlockScaledMMKernel" if block else "CutlassFP8ScaledMMLinearKernel",
            native=True,
            reason="FP8 tensor cores",
        )
    return KernelSupport(
        kernel="MarlinFP8ScaledMMLinearKernel",
        reason="no FP8 tensor cores below 8.9: weights stay FP8, arithmetic is 16-bit (Marlin)",
        cost=FP8_COST,
        rounds=Activations.A16,
    )


def _fp4_on_cuda(fmt: Format, sm: int) -> KernelSupport:
    nv = fmt.group_size == 16
    floor = 75 if nv else 80
    if sm < floor:
        return _none(f"{fmt.name} needs compute capability {floor / 10}, got {sm / 10}")
    marlin = "MarlinNvFp4LinearKernel" if nv else "MarlinMxFp4LinearKernel"
    if fmt.activations is Activations.A16:
        dsl = sm in (100, 103)
        return KernelSupport(
            kernel="FlashInferCuteDslNvFp4W4A16LinearKernel" if dsl else marlin,
            reason="weight-only: arithmetic is 16-bit",
            cost=FP4_COST,
        )
    if sm >= 100:
        return KernelSupport(
            kernel="FlashInferCutlassNvFp4LinearKernel" if nv else "FlashInferMxFp4LinearKernel",
            native=True,
            reason="FP4 tensor cores",
        )
    return KernelSupport(
        kernel=marlin,
        reason="no FP4 tensor cores below Blackwell: weight-only, arithmetic is 16-bit",
        cost=FP4_COST,
        rounds=Activations.A16,
    )


def _w4afp8_on_cuda(sm: int, n: int | None, k: int | None) -> KernelSupport:
    if sm != 90:
        return _none(f"CUTLASS W4A8 is for compute capability 9.0 alone, got {sm / 10}")
    if (n is not None and n % 128) or (k is not None and k % 128):
        return _none(f"CUTLASS W4A8 wants in/out multiples of 128, got in {k}, out {n}")
    return KernelSupport(
        kernel="CutlassW4A8LinearKernel", native=True, reason="INT4 weights times FP8 activations (Hopper)"
    )


def _weight_only_int_cuda(fmt: Format, sm: int, n: int | None, k: int | None) -> KernelSupport:
    if sm < 75:
        return KernelSupport(
            kernel=None, reason=f"weight-only INT needs compute capability 7.5, got {sm / 10}"
        )
    cost = INT4_COST if fmt.weight_bits == 4 else INT8_COST
    if sm == 90 and fmt.group_size in MACHETE_GROUPS and (k or 64) % 64 == 0 and (n or 128) % 128 == 0:
        return KernelSupport(kernel="MacheteLinearKernel", reason="Machete (Hopper)", cost=cost)
    if n is None or k is None or (n % 64 == 0 and k % 128 == 0) or (n % 128 == 0 and k % 64 == 0):
        return KernelSupport(kernel="MarlinLinearKernel", reason="Marlin", cost=cost)
    return KernelSupport(
        kernel="MarlinLinearKernel",
        reason=f"Marlin, its tiles padded around out {n}, in {k}",
        cost=PADDED_COST,
    )


def cpu_environment(formats: Iterable[str]) -> dict[str, str]:
    """What vLLM's CPU build must be told, so that INT4 layers get the activations of their format."""
    int4 = [fmt for fmt in map(get_format, formats) if fmt.family == "int4"]
    if not int4:
        return {}
    return {W4A8_SWITCH: str(int(any(fmt.activations is not Activations.A16 for fmt in int4)))}


def supported_formats(device: Device) -> dict[str, KernelSupport]:
    """Every format of the menu with its answer on `device`, shapes aside."""
    return {name: kernel_support(fmt, device) for name, fmt in MENU.items()}
