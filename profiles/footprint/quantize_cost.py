"""Memory and time to quantize a model on this machine, before anything is started.

Ranges around published runs: GPTQ or AWQ of Llama-3-8B take about 30 minutes on an A100, RTN about one;
AWQ of a 32B model has taken 900 GB of host memory (its calibration caches every layer's inputs).
"""

from __future__ import annotations

from profiles.errors import UsageError
from profiles.footprint.facts import facts_of
from profiles.footprint.ledger import QUANTIZABLE_ROLES, ledger_of
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.models.schema import ModelProfile
from profiles.provenance import Contract, Figure

GIB = 1 << 30
PASSES = {"rtn": 0, "gptq": 2, "awq": 22, "smoothquant": 1, "autoround": 400}
"""Forward passes over the calibration set per layer: GPTQ one for statistics and one after; AWQ 20 scales
and two; AutoRound 200 steps, forward and backward."""

EFFICIENCY = (0.08, 0.25, 0.6)
"""Share of the 16-bit peak during calibration (small batches, Python between layers)."""

HESSIAN_OPS = 1.5
"""A GPTQ layer inverts in^3 and sweeps out x in^2 operations, this many of each together."""

SWEEP_EFFICIENCY = (0.005, 0.03, 0.1)
"""Share of the fp32 peak of the column sweep, which is sequential. Makes Llama-3-8B on an A100 10-60 min."""

DISK_BYTES_S = (0.2e9, 0.8e9, 3e9)


class QuantizeCost(Contract):
    """What a quantization run needs here."""

    method: str
    host_bytes: Figure
    device_bytes: Figure
    seconds: Figure
    fits: bool
    reason: str


def quantize_cost(
    model: ModelProfile,
    hardware: HardwareProfile,
    method: str = "gptq",
    *,
    samples: int = 512,
    sequence_length: int = 2048,
) -> QuantizeCost:
    """Peak memory and time of one calibration run of llm-compressor (layer by layer on the first device).

    Raises:
        UsageError: an unknown method, or absurd calibration sizes.
    """
    name = method.strip().lower()
    if name not in PASSES:
        raise UsageError("no cost law for this method", got=method[:60], allowed=", ".join(PASSES))
    if not (0 < samples <= 1 << 20 and 0 < sequence_length <= 1 << 22):
        raise UsageError("not a calibration set", got=f"{samples} x {sequence_length}")
    device = hardware.device
    on_cpu = device.kind is not DeviceKind.CUDA
    tokens = samples * sequence_length if PASSES[name] else 0
    sizes = _sizes(model)
    hidden = facts_of(model).hidden
    cache = tokens * hidden * 2  # inputs of the current layer, offloaded to the host
    if name == "awq":
        cache += tokens * sizes.widest_in * 2 * 2
    spread = {"awq": 4.0, "autoround": 2.0}.get(name, 1.5)
    base = sizes.total + 2 * GIB
    host = base + cache
    working = sizes.block * (2 if on_cpu else 1)
    if name == "gptq":
        working += sum(4 * n * n for n in sizes.block_inputs) + 4 * sizes.largest
    elif PASSES[name]:
        working += 4 * sizes.block
    working += sequence_length * max(hidden, sizes.widest_in) * 2 * 4 if PASSES[name] else 0
    if on_cpu:
        host, working = host + working, 0
    host_figure = Figure.estimated(
        host, base if not cache else 0.9 * host, host * spread, "B",
        f"law of {name}, checked on published runs",
        f"checkpoint {sizes.total / GIB:.2f} + process 2 + calibration cache {cache / GIB:.2f} GiB"
        + (" + layer" if on_cpu else ""),
    )  # fmt: skip
    device_figure = Figure.estimated(
        working, working * 0.7, working * 2.5, "B", "one layer at a time with its statistics", None
    )
    seconds = _seconds(device, sizes, tokens, name)
    ram = hardware.host_ram_bytes.value if hardware.host_ram_bytes else None
    if on_cpu and device.kind is DeviceKind.CPU:
        ram = device.free_bytes.value if device.free_bytes else device.total_bytes.value
    return _answer(name, host_figure, device_figure, seconds, ram, device)


class _Sizes(Contract):
    total: int
    block: int
    largest: int
    widest_in: int
    weights: int
    sweep_ops: float
    block_inputs: tuple[int, ...]


def _sizes(model: ModelProfile) -> _Sizes:
    ledger = ledger_of(model)
    per_block = sweep = 0.0
    weights = largest = widest = 0
    inputs: list[int] = []
    for group in ledger.groups:
        for line in group.lines:
            if line.role not in QUANTIZABLE_ROLES:
                continue
            copies = line.copies * len(group.blocks)
            weights += line.out * line.inn * copies
            sweep += copies * HESSIAN_OPS * (line.inn**3 + 2 * line.out * line.inn**2)
            largest = max(largest, line.out * line.inn)
            widest = max(widest, line.inn)
            inputs += [line.inn] * line.copies
    per_block = weights * 2 / max(1, model.num_layers)
    return _Sizes(
        total=ledger.stored_bytes,
        block=int(per_block),
        largest=largest,
        widest_in=widest,
        weights=weights,
        sweep_ops=sweep,
        block_inputs=tuple(inputs[:4096]),
    )


def _seconds(device: Device, sizes: _Sizes, tokens: int, name: str) -> Figure:
    half = next((device.peak_ops[k] for k in ("bf16", "fp16", "fp32") if k in device.peak_ops), None)
    full = device.peak_ops.get("fp32") or half
    disk = [2 * sizes.total / rate for rate in reversed(DISK_BYTES_S)]  # read and written
    if half is None or full is None:
        return Figure.estimated(
            disk[1] * 60,
            disk[0],
            disk[2] * 600,
            "s",
            "no rates of this device are known: only an order",
            None,
        )
    ops = 2.0 * sizes.weights * tokens * PASSES[name]
    sweep = sizes.sweep_ops if name == "gptq" else 0.0
    times = [
        ops / (half.value * e) + sweep / (full.value * s) + d + sizes.weights * 4 / 1e9
        for e, s, d in zip(reversed(EFFICIENCY), reversed(SWEEP_EFFICIENCY), disk, strict=True)
    ]
    formula = (
        f"2 x {sizes.weights / 1e9:,.2f}e9 weights x {tokens:,} tokens x {PASSES[name]} passes / "
        f"({half.value / 1e12:,.2f} Top/s x {EFFICIENCY[1]}) + sweep {sweep / 1e12:,.1f} Top "
        "+ reading and writing"
    )
    return Figure.estimated(
        times[1], times[0], times[2], "s", f"law of {name}: a range, not a promise", formula
    )


def _answer(
    name: str, host: Figure, working: Figure, seconds: Figure, ram: float | None, device: Device
) -> QuantizeCost:
    fits, reason = True, f"{name} needs about {host.value / GIB:,.1f} GiB of host memory"
    room = device.free_bytes.value if device.free_bytes else device.total_bytes.value
    if ram is not None and host.value > ram:
        fits, reason = (
            False,
            f"{name} needs {host.value / GIB:,.1f} GiB of host memory, {ram / GIB:,.1f} is there",
        )
    elif working.value > room:
        fits, reason = (
            False,
            f"one layer needs {working.value / GIB:,.1f} GiB on {device.name}, {room / GIB:,.1f} is there",
        )
    elif ram is None:
        reason += "; this machine's host memory is not known"
    elif host.high > ram:
        reason += f", perhaps up to {host.high / GIB:,.1f}, {ram / GIB:,.1f} is there"
    return QuantizeCost(
        method=name, host_bytes=host, device_bytes=working, seconds=seconds, fits=fits, reason=reason
    )
