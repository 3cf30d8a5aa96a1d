"""Prefill and decode by roofline: bytes really read, operations really done, as intervals.

Efficiency ranges come from published single-stream runs; nothing here is measured on the device.
"""

from __future__ import annotations

from typing import NamedTuple

from profiles.footprint.core import Prediction
from profiles.footprint.facts import ModelFacts
from profiles.footprint.ledger import Ledger
from profiles.footprint.schema import ServingSpec
from profiles.footprint.weights import RankBytes
from profiles.formats import Activations, get_format
from profiles.hardware.schema import Device, DeviceKind
from profiles.provenance import Figure, Provenance

DECODE_EFFICIENCY = (0.5, 0.7, 0.88)
"""Share of the data sheet's bandwidth in single-stream decode: Qwen3-8B on RTX 5090 reads 15.1 GB in
11.1 ms (0.76) in BF16 and 4.9 GB in 4.7 ms (0.58) in W4A16."""

PREFILL_EFFICIENCY = (0.3, 0.5, 0.75)
"""Share of the dense peak in prefill: published throughput of Llama-3.1-8B, large matmuls."""

CPU_EFFICIENCY = (0.3, 0.55, 0.9)
STEP_OVERHEAD_MS = (0.2, 0.5, 1.5)
"""Scheduler and launches per step with CUDA graphs; six times as much in eager mode."""
EAGER_FACTOR = 6.0
ALL_REDUCE_MS = (0.006, 0.012, 0.04)
"""One all-reduce of a decode step; two per layer when TP > 1."""
HOST_LINK_BYTES_S = (10e9, 22e9, 55e9)
"""Reading offloaded weights from host memory in every step: PCIe 3.0 to 5.0 x16, as far as it is reached."""


INT8 = {
    Activations.INT8_TOKEN,
    Activations.INT8_TOKEN_ASYM,
    Activations.INT8_TENSOR,
    Activations.INT8_TENSOR_ASYM,
}


class Speed(NamedTuple):
    """Figures of a footprint, None where the device's rates are not known."""

    prefill_tokens_s: Figure | None
    decode_tokens_s: Figure | None
    ttft_ms: Figure | None
    itl_ms: Figure | None
    throughput_tokens_s: Figure | None
    notes: tuple[str, ...]


NOTHING = Speed(None, None, None, None, None, ())


def compute_type(formats: set[str], stored: str | None, dtype: str) -> str:
    """The arithmetic of most layers: 16-bit unless weights *and* activations are quantized."""
    names = formats - {"BF16"} or ({stored} if stored else set())
    kinds = {get_format(n).activations for n in names}
    if kinds and kinds <= INT8:
        return "int8"
    if kinds and kinds <= {Activations.FP8_TOKEN, Activations.FP8_TENSOR, Activations.FP8_GROUP}:
        return "fp8"
    if kinds and kinds <= {Activations.NVFP4, Activations.MXFP4}:
        return "fp4"
    return "fp32" if dtype == "float32" else "bf16"


def active_parameters(facts: ModelFacts, ledger: Ledger) -> float:
    """Multiply-adds per token: linear weights, routed experts by the share that a token uses."""
    share = facts.experts_per_token / facts.experts if facts.experts else 1.0
    total = 0.0
    for group in ledger.groups:
        for line in group.lines:
            if line.role in ("embed", "other", "plain") and not (line.role == "embed" and facts.tied):
                continue
            here = line.out * line.inn * line.copies * len(group.blocks)
            total += here * (share if line.role.startswith("expert") else 1.0)
    return total


def speed(
    facts: ModelFacts,
    ledger: Ledger,
    device: Device,
    spec: ServingSpec,
    p: Prediction,
    kind: str,
) -> Speed:
    """Figures at the context and concurrency asked for; the prompt is the whole context (worst case)."""
    if device.bandwidth_bytes_s is None:
        return NOTHING._replace(notes=("no speed: the memory bandwidth of this device is not known",))
    peak = device.peak_ops.get(kind)
    fallback = peak is None
    if peak is None:
        peak = next((device.peak_ops[k] for k in ("bf16", "fp16", "fp32") if k in device.peak_ops), None)
    if peak is None or peak.value <= 0 or device.bandwidth_bytes_s.value <= 0:
        return NOTHING._replace(notes=("no speed: the peak rates of this device are not known",))
    assert spec.max_model_len is not None
    notes = (
        [f"{kind} is not native here: peak of 16-bit arithmetic taken"] if fallback and kind != "bf16" else []
    )
    cpu = device.kind is DeviceKind.CPU
    ends = CPU_EFFICIENCY if cpu else DECODE_EFFICIENCY
    bandwidth, tp = device.bandwidth_bytes_s, spec.tensor_parallel_size
    context = spec.max_model_len
    batch = int(max(1, min(spec.concurrency, p.capacity.concurrency)))
    read = sum(weights_read(facts, r.read, batch) for r in p.ranks)
    away = 0.0 if cpu else sum(read_from_host(facts, r.read, batch, spec) for r in p.ranks)
    if away:
        notes.append(f"{away / 1e9:,.2f} GB of weights are read from host memory in every step")
    kv = sum(batch * p.cache.request_blocks(context) * bytes_ for bytes_ in p.cache.block_bytes)
    moved = read - away + kv
    ops = 2 * active_parameters(facts, ledger) / tp
    steps = []
    for i in (2, 1, 0):  # fastest first
        memory = moved / (bandwidth.value * ends[i]) + away / HOST_LINK_BYTES_S[i]
        compute = batch * ops / (peak.value * PREFILL_EFFICIENCY[i])
        overhead = STEP_OVERHEAD_MS[2 - i] * (EAGER_FACTOR if spec.enforce_eager else 1)
        if tp > 1:
            overhead += ALL_REDUCE_MS[2 - i] * 2 * facts.layers
        steps.append(1e3 * max(memory, compute) + overhead)
    fast, value, slow = steps
    formula = (
        f"max({moved / 1e9:,.2f} GB read / ({bandwidth.value / 1e9:,.0f} GB/s x {ends[1]})"
        + (f" + {away / 1e9:,.2f} GB / {HOST_LINK_BYTES_S[1] / 1e9:,.0f} GB/s" if away else "")
        + ", "
        f"{batch} x {ops / 1e9:,.2f} Gop / ({peak.value / 1e12:,.1f} Top/s x {PREFILL_EFFICIENCY[1]})) "
        f"+ overhead; context {context:,}, {batch} requests"
    )
    source = (
        f"roofline, {ends[0]}-{ends[2]} of bandwidth, {PREFILL_EFFICIENCY[0]}-{PREFILL_EFFICIENCY[2]} of peak"
    )
    itl = _figure(value, fast, slow, "ms", source, formula)
    rates = [tp * peak.value * e / (ops * tp) for e in PREFILL_EFFICIENCY]
    words = f"{tp} x {peak.value / 1e12:,.1f} Top/s x {PREFILL_EFFICIENCY[1]}"
    words += f" / {ops * tp / 1e9:,.2f} Gop per token"
    prefill = _figure(rates[1], rates[0], rates[2], "tok/s", source, words)
    first = [1e3 * context / r for r in rates]
    ttft = _figure(
        first[1] + value, first[2] + fast, first[0] + slow, "ms", source,
        f"a prompt of {context:,} tokens / {rates[1]:,.0f} tok/s + one step of {value:,.2f} ms, queue empty",
    )  # fmt: skip
    decode = _figure(1e3 / value, 1e3 / slow, 1e3 / fast, "tok/s", source, f"1000 / ITL of {value:,.2f} ms")
    many = batch * spec.data_parallel_size
    total = _figure(
        many * 1e3 / value,
        many * 1e3 / slow,
        many * 1e3 / fast,
        "tok/s",
        source,
        f"{many} requests x 1000 / ITL",
    )
    return Speed(prefill, decode, ttft, itl, total, tuple(notes))


def weights_read(facts: ModelFacts, held: RankBytes, batch: int) -> float:
    """Bytes of weights that one decode step reads: no looked-up tables, only experts that it touches."""
    dense = held.total - held.experts - held.unread
    touched = 1.0
    if facts.experts:  # distinct experts of `batch` independent draws of k out of n
        touched = 1 - (1 - facts.experts_per_token / facts.experts) ** batch
    return max(0.0, dense + held.experts * touched)


def read_from_host(facts: ModelFacts, held: RankBytes, batch: int, spec: ServingSpec) -> float:
    """The part of those bytes that `--cpu-offload-gb` keeps in host memory: an even share of all weights."""
    if not spec.cpu_offload_gb or not held.total:
        return 0.0
    share = min(1.0, spec.cpu_offload_gb * (1 << 30) / held.total)
    return share * weights_read(facts, held, batch)


def _figure(value: float, low: float, high: float, unit: str, source: str, formula: str) -> Figure:
    return Figure(
        value=value,
        low=min(low, value),
        high=max(high, value),
        unit=unit,
        provenance=Provenance.ESTIMATED,
        source=source,
        formula=formula,
    )
