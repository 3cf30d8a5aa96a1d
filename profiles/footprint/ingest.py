"""Reading a real boot log of vLLM 0.8 to 0.33, and setting it against the prediction.

A log is untrusted text: size, line length and every number are bounded, patterns are linear.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path

from profiles.errors import UsageError
from profiles.footprint.laws import GIB
from profiles.footprint.schema import Footprint
from profiles.provenance import Contract, Figure

MAX_BYTES = 64 << 20
MAX_LINE = 4096
MAX_GIB = 1 << 20
MAX_COUNT = 1 << 50

_NUMBER = r"(-?\d{1,15}(?:,\d{3}){0,6}(?:\.\d{1,9})?)"
_SIZES: tuple[tuple[str, str], ...] = (
    ("weights", rf"Model loading took {_NUMBER} ?(GiB|GB)"),
    ("weights", rf"Loading model weights took {_NUMBER} ?(GiB|GB)"),
    ("weights", rf"model weights take {_NUMBER} ?(GiB|GB)"),
    ("weights", rf"weights memory: {_NUMBER} ?(GiB|GB)"),
    ("non_torch", rf"non_torch_memory takes {_NUMBER} ?(GiB|GB)"),
    ("non_torch", rf"non-torch forward increase memory: {_NUMBER} ?(GiB|GB)"),
    ("activation", rf"PyTorch activation peak memory takes {_NUMBER} ?(GiB|GB)"),
    ("activation", rf"torch peak memory increase: {_NUMBER} ?(GiB|GB)"),
    ("kv_bytes", rf"Available KV cache memory: {_NUMBER} ?(GiB|GB)"),
    ("kv_bytes", rf"memory reserved for KV Cache is {_NUMBER} ?(GiB|GB)"),
    ("kv_bytes", rf"Auto set \({_NUMBER}/[\d.]{{1,12}}\) ?(GiB)"),
    ("kv_bytes", rf"Current kv cache memory in use is {_NUMBER} (GiB|bytes)"),
    ("kv_given", rf"reserved {_NUMBER} ?(GiB) memory for KV Cache as specified by kv_cache_memory_bytes"),
    ("kv_given", rf"Explicitly set \({_NUMBER}/[\d.]{{1,12}}\) ?(GiB)"),
    ("weights", rf"Actual usage is {_NUMBER} (GiB) for weight"),
    ("consumed", rf"Actual usage is {_NUMBER} (GiB) for consumed memory"),
    ("activation", rf"{_NUMBER} (GiB) for peak activation"),
    ("non_torch", rf"{_NUMBER} (GiB) for non-torch memory"),
    ("graph_actual", rf"{_NUMBER} (GiB) for CUDAGraph memory"),
    ("graph_actual", rf"CUDA graph pool memory: {_NUMBER} (GiB) \(actual\)"),
    ("graph_estimate", rf"\(actual\), {_NUMBER} (GiB) \(estimated\)"),
    ("total", rf"Free memory on device \([\d.]{{1,12}}/{_NUMBER} (GiB)\)"),
    ("total", rf"total_memory={_NUMBER} ?(GiB)"),
    ("total", rf"total_gpu_memory \({_NUMBER} ?(GiB|GB)\)"),
    ("graph_estimate", rf"Estimated CUDA graph memory: {_NUMBER} ?(GiB|GB) total"),
    ("graph_actual", rf"Graph capturing finished in \d{{1,9}} secs?, took {_NUMBER} ?(GiB|GB)"),
)
_COUNTS: tuple[tuple[str, str], ...] = (
    ("kv_tokens", rf"(?:GPU|CPU|XPU|HPU) KV cache size: {_NUMBER} tokens"),
    ("max_concurrency", rf"Maximum concurrency for [\d,]{{1,20}} tokens per request: {_NUMBER}x"),
    ("max_model_len", rf"Maximum concurrency for {_NUMBER} tokens per request"),
    ("blocks", rf"# (?:GPU|CPU|cuda|cpu) blocks: {_NUMBER}"),
    ("tensor_parallel_size", r"\btensor_parallel_size=(\d{1,5})\b"),
    ("pipeline_parallel_size", r"\bpipeline_parallel_size=(\d{1,5})\b"),
    ("data_parallel_size", r"\bdata_parallel_size=(\d{1,5})\b"),
    ("max_model_len", r"\bmax_seq_len=(\d{1,12})\b"),
    ("max_num_batched_tokens", r"max_num_batched_tokens=(\d{1,9})\b"),
    ("gpu_memory_utilization", r"gpu_memory_utilization (?:\()?(\d(?:\.\d{1,6})?)"),
    ("gpu_memory_utilization", r"--gpu-memory-utilization=(\d(?:\.\d{1,6})?) is"),
    ("gpu_memory_utilization", r"'gpu_memory_utilization': (\d(?:\.\d{1,6})?)"),
    ("gpu_memory_utilization", r"Desired GPU memory utilization is \((\d(?:\.\d{1,6})?), "),
    ("max_num_seqs", r"'max_num_seqs': (\d{1,9})"),
    ("max_num_batched_tokens", r"'max_num_batched_tokens': (\d{1,9})"),
)
_TEXTS: tuple[tuple[str, str], ...] = (
    ("engine_version", r"\(v(\d{1,3}\.\d{1,4}[\w.+-]{0,40})\) with config"),
    ("engine_version", r"vLLM API server version (\d{1,3}\.\d{1,4}[\w.+-]{0,40})"),
    ("engine_version", r"[\u2580-\u259f] {1,4}version (\d{1,3}\.\d{1,4}[\w.+-]{0,40})"),
    ("architecture", r"Resolved architecture: ([A-Za-z0-9_]{1,80})"),
    ("model", r"with config: model='([^']{1,300})'"),
    ("model", r"non-default args: .{0,2000}?'model': '([^']{1,300})'"),
    ("dtype", r"\bdtype=torch\.(\w{1,20})"),
    ("kv_cache_dtype", r"\bkv_cache_dtype=(\w{1,24})"),
    ("prefix_caching", r"\benable_prefix_caching(?:=|': )(True|False)\b"),
    ("gpu", r"(?:GPU name|Device name|device_name)[:=] ?'?([A-Za-z0-9 _./()-]{2,60})"),
)
_FAILURES = (
    r"(To serve at least one request with the model'?s'? max seq len|No available memory for the cache blocks"
    r"|is larger than the maximum number of tokens that can be stored in KV cache"
    r"|CUDA out of memory|is less than desired (?:GPU|CPU) memory utilization"
    r"|Engine core initialization failed)"
)


@functools.cache
def _patterns() -> tuple[tuple[str, str, re.Pattern[str]], ...]:
    """(size, count or text; name; pattern), compiled when the first log is read."""
    tables = (("size", _SIZES), ("count", _COUNTS), ("text", _TEXTS))
    return tuple((kind, name, re.compile(pattern)) for kind, table in tables for name, pattern in table)


class BootLog(Contract):
    """What a boot log says; None where it does not. Sizes in bytes, the tightest rank's."""

    engine_version: str | None = None
    architecture: str | None = None
    model: str | None = None
    gpu: str | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    gpu_memory_utilization: float | None = None
    enforce_eager: bool = False
    enable_prefix_caching: bool | None = None
    total_bytes: float | None = None
    weights: float | None = None
    activation: float | None = None
    non_torch: float | None = None
    graph_estimate: float | None = None
    graph_actual: float | None = None
    kv_bytes: float | None = None
    kv_given: float | None = None  # the cache was asked for in bytes, not what profiling left
    arguments_listed: bool = False  # "non-default args" is there: what it does not name was the default
    kv_tokens: int | None = None
    kv_blocks: int | None = None
    max_concurrency: float | None = None
    failure: str | None = None


def read_boot_log(path: Path) -> BootLog:
    """The boot log in a file.

    Raises:
        UsageError: no such file, too large, not text, or nothing of an engine's boot in it.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError("the log is too large", where=str(path), allowed=f"up to {MAX_BYTES >> 20} MiB")
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as exc:
        raise UsageError(
            "cannot read the log", where=str(path), got=exc.strerror or type(exc).__name__
        ) from exc
    return parse_boot_log(text, where=str(path))


def parse_boot_log(text: str, where: str = "the log") -> BootLog:
    """The lines of a boot log that the prediction can be set against.

    Raises:
        UsageError: no line of an engine's boot, or numbers that no machine has.
    """
    if len(text) > MAX_BYTES:
        raise UsageError("the log is too large", where=where, allowed=f"up to {MAX_BYTES >> 20} MiB")
    sizes: dict[str, list[float]] = {}
    counts: dict[str, float] = {}
    words: dict[str, str] = {}
    failure = None
    eager = listed = False
    patterns, failures = _patterns(), re.compile(_FAILURES)
    for number, raw in enumerate(text.splitlines(), 1):
        for start in range(0, min(len(raw), 8 * MAX_LINE), MAX_LINE):
            line = raw[start : start + MAX_LINE + 200]
            for kind, name, pattern in patterns:
                match = pattern.search(line)
                if match is None:
                    continue
                if kind == "size":
                    sizes.setdefault(name, []).append(_size(match[1], match[2], where, number))
                elif kind == "count":
                    counts.setdefault(name, _count(match[1], where, number))
                else:
                    words.setdefault(name, match[1])
            eager = eager or "enforce_eager=True" in line or "Enforce eager set" in line
            listed = listed or "non-default args: " in line
            if failure is None and (found := failures.search(line)):
                failure = found[1]
    if not sizes and "kv_tokens" not in counts and "blocks" not in counts and failure is None:
        raise UsageError(
            "no line of a vLLM boot was found",
            where=where,
            allowed='lines such as "Model loading took 14.99 GiB" or "GPU KV cache size: 476,016 tokens"',
            next_step="give the engine's standard output from its start, vLLM 0.8 to 0.33",
        )
    util = counts.get("gpu_memory_utilization")
    if util is not None and not 0 < util <= 1:
        raise UsageError(
            "gpu_memory_utilization is not a share", where=where, got=str(util), allowed="0 to 1"
        )
    return BootLog(
        engine_version=words.get("engine_version"),
        architecture=words.get("architecture"),
        model=words.get("model"),
        gpu=(words.get("gpu") or "").strip() or None,
        dtype=words.get("dtype"),
        kv_cache_dtype=words.get("kv_cache_dtype"),
        tensor_parallel_size=_at_least_one(counts.get("tensor_parallel_size")),
        pipeline_parallel_size=_at_least_one(counts.get("pipeline_parallel_size")),
        data_parallel_size=_at_least_one(counts.get("data_parallel_size")),
        max_model_len=_whole(counts.get("max_model_len")),
        max_num_batched_tokens=_whole(counts.get("max_num_batched_tokens")),
        max_num_seqs=_whole(counts.get("max_num_seqs")),
        gpu_memory_utilization=util,
        enforce_eager=eager,
        enable_prefix_caching={"True": True, "False": False}.get(words.get("prefix_caching", "")),
        total_bytes=_last(sizes.get("total")),
        weights=max(sizes["weights"]) if "weights" in sizes else None,
        activation=_activation(sizes),
        non_torch=_non_torch(sizes),
        graph_estimate=_last(sizes.get("graph_estimate")),
        graph_actual=_last(sizes.get("graph_actual")),
        kv_bytes=min(sizes["kv_bytes"]) if "kv_bytes" in sizes else _last(sizes.get("kv_given")),
        kv_given=_last(sizes.get("kv_given")),
        arguments_listed=listed,
        kv_tokens=_whole(counts.get("kv_tokens")),
        kv_blocks=_whole(counts.get("blocks")),
        max_concurrency=counts.get("max_concurrency"),
        failure=failure,
    )


def _activation(sizes: dict[str, list[float]]) -> float | None:
    """The transient peak. Where the engine names "consumed memory" (0.3x), its peak holds the CUDA-graph
    estimate too, which is taken off; without the estimate nothing is known."""
    if "activation" not in sizes:
        return None
    peak = max(sizes["activation"])
    if "consumed" not in sizes:
        return peak
    estimate = sizes.get("graph_estimate")
    return max(0.0, peak - max(estimate)) if estimate else None


def _non_torch(sizes: dict[str, list[float]]) -> float | None:
    """What is neither weights nor PyTorch's; else "consumed memory" less the weights."""
    if "non_torch" in sizes:
        return max(sizes["non_torch"])
    if "consumed" in sizes and "weights" in sizes:
        return max(0.0, max(sizes["consumed"]) - max(sizes["weights"]))
    return None


def _size(number: str, unit: str, where: str, line: int) -> float:
    """Bytes. The engine's older "GB" are GiB too (it divides by 2**30)."""
    value = float(number.replace(",", ""))
    if unit == "bytes":
        value /= GIB
    if not math.isfinite(value) or abs(value) > MAX_GIB:
        raise UsageError("a size that no device has", where=f"{where}:{line}", got=number[:40] + " GiB")
    return value * GIB


def _count(number: str, where: str, line: int) -> float:
    value = float(number.replace(",", ""))
    if not math.isfinite(value) or not 0 <= value <= MAX_COUNT:
        raise UsageError("a count that no engine prints", where=f"{where}:{line}", got=number[:40])
    return value


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _at_least_one(value: float | None) -> int:
    return max(1, int(value)) if value is not None else 1


def _last(values: list[float] | None) -> float | None:
    return values[-1] if values else None


class Comparison(Contract):
    """One line of the boot log: predicted, measured, and how far apart."""

    line: str
    predicted: Figure
    measured: float
    error: float  # predicted - measured, in the figure's unit
    relative: float | None  # error / measured
    within: bool  # the measured value lies in the predicted interval


def compare(log: BootLog, predicted: Footprint) -> tuple[Comparison, ...]:
    """Predicted against measured for every line that the log has."""
    graph = log.graph_estimate if log.graph_estimate is not None else log.graph_actual
    measured: tuple[tuple[str, Figure, float | None], ...] = (
        ("weights", predicted.weights, log.weights),
        ("activation", predicted.activation, log.activation),
        ("non_torch", predicted.non_torch, log.non_torch),
        ("cuda_graph", predicted.cuda_graph, graph),
        ("kv_bytes", predicted.kv_bytes, log.kv_bytes),
        ("kv_tokens", predicted.kv_tokens, log.kv_tokens),
        ("max_concurrency", predicted.max_concurrency, log.max_concurrency),
    )
    out = []
    for name, figure, value in measured:
        if value is None or not math.isfinite(figure.value):
            continue
        error = figure.value - value
        rounding = 0.005 * GIB if figure.unit == "B" else 0.005
        out.append(
            Comparison(
                line=name,
                predicted=figure,
                measured=value,
                error=error,
                relative=error / value if value else None,
                within=figure.low - rounding <= value <= figure.high + rounding,
            )
        )
    return tuple(out)
