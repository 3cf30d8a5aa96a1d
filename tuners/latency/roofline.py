"""What a layer should take by the device's rates: where nothing can be timed."""

from __future__ import annotations

from profiles.footprint.speed import CPU_EFFICIENCY, DECODE_EFFICIENCY, PREFILL_EFFICIENCY
from profiles.formats import Format, get_format
from profiles.formats.kernels import kernel_support
from profiles.hardware.schema import Device, DeviceKind
from profiles.provenance import Provenance
from tuners.latency.schema import TOKENS, LayerTime, Shape, Spread

LAUNCH_MS = (0.002, 0.005, 0.02)
"""One kernel's launch, and the quantization of its input where there is one."""

CPU_FP8_OPS_S = (4e6, 1.3e7, 1e8)
"""PyTorch 2.13's FP8 matmul on a CPU without FP8 arithmetic multiplies element by element: 6.5 million
multiply-adds a second on one core of a Sapphire Rapids (48 to 54 ms for a 576 x 576 layer and one row)."""


def layer_time(shape: Shape, format_name: str, device: Device) -> LayerTime | None:
    """max(bytes over bandwidth, operations over the peak), each at the efficiencies of
    `profiles.footprint.speed`; None where the device's rates are not known."""
    fmt = get_format(format_name)
    bandwidth, peak = device.bandwidth_bytes_s, _peak(fmt, device)
    if bandwidth is None or peak is None or bandwidth.value <= 0:
        return None
    if _by_element(fmt, device):
        return _slow(shape, fmt)
    return LayerTime(
        shape=shape,
        format=fmt.name,
        ms=tuple(_spread(shape, fmt, tokens, bandwidth.value, peak, device) for tokens in TOKENS),
        kernel="",
        provenance=Provenance.ESTIMATED,
    )


def _by_element(fmt: Format, device: Device) -> bool:
    if fmt.family != "fp8" or device.kind is not DeviceKind.CPU:
        return False
    return "Torch" in (kernel_support(fmt, device).kernel or "")


def _slow(shape: Shape, fmt: Format) -> LayerTime:
    slow, value, fast = CPU_FP8_OPS_S
    ops = [work(shape, fmt, tokens)[1] for tokens in TOKENS]
    return LayerTime(
        shape=shape,
        format=fmt.name,
        ms=tuple(Spread(1e3 * n / value, 1e3 * n / fast, 1e3 * n / slow) for n in ops),
        kernel="",
        provenance=Provenance.ESTIMATED,
    )


def _spread(shape: Shape, fmt: Format, tokens: int, bandwidth: float, peak: float, device: Device) -> Spread:
    moved, ops = work(shape, fmt, tokens)
    ends = CPU_EFFICIENCY if device.kind is DeviceKind.CPU else DECODE_EFFICIENCY
    slow, value, fast = (
        1e3 * max(moved / (bandwidth * e), ops / (peak * p))
        for e, p in zip(ends, PREFILL_EFFICIENCY, strict=True)
    )
    low_ms, launch_ms, high_ms = LAUNCH_MS
    return Spread(value + launch_ms, fast + low_ms, slow + high_ms)


def work(shape: Shape, fmt: Format, tokens: int) -> tuple[float, float]:
    """(bytes moved, operations) of one pass: weights once, inputs and outputs in 16 bits.

    Of a MoE layer the experts that `tokens` independent draws of k out of n touch (`speed.weights_read`).
    """
    one = fmt.weight_bytes(shape.out_features, shape.in_features)
    rows = tokens
    weights = float(one)
    if shape.experts:
        share = shape.experts_per_token / shape.experts if shape.experts_per_token else 1.0
        weights = one * shape.experts * (1 - (1 - share) ** tokens)
        rows = tokens * max(1, shape.experts_per_token)
    moved = weights + 2.0 * rows * (shape.in_features + shape.out_features)
    return moved, 2.0 * rows * shape.in_features * shape.out_features


def _peak(fmt: Format, device: Device) -> float | None:
    word = fmt.activations.name
    own = "int8" if word.startswith("INT8") else "fp8" if word.startswith("FP8") else ""
    kinds = ("fp4" if word.endswith("FP4") else own, "bf16", "fp16", "fp32")
    found = next((device.peak_ops[k].value for k in kinds if k in device.peak_ops), None)
    return found if found and found > 0 else None
