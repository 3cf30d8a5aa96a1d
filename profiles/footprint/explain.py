"""The formula behind every line, with its numbers: what `--explain` prints."""

from __future__ import annotations

from profiles.footprint.laws import GIB
from profiles.footprint.schema import Footprint
from profiles.provenance import Figure, Provenance

LINES: tuple[tuple[str, str], ...] = (
    ("weights", "weights per rank"),
    ("activation", "activation peak"),
    ("non_torch", "non-torch memory"),
    ("cuda_graph", "CUDA graphs"),
    ("budget", "budget"),
    ("kv_bytes", "KV cache"),
    ("kv_bytes_per_token", "KV bytes per token"),
    ("kv_tokens", "KV tokens"),
    ("max_concurrency", "maximum concurrency"),
    ("longest_context", "longest context"),
    ("checkpoint", "checkpoint on disk"),
    ("free_after", "left for others"),
    ("prefill_tokens_s", "prefill"),
    ("decode_tokens_s", "decode per request"),
    ("ttft_ms", "time to first token"),
    ("itl_ms", "between tokens"),
    ("throughput_tokens_s", "all requests together"),
)


def number(value: float, unit: str) -> str:
    """A value in its unit: bytes as GiB when large."""
    if unit == "B":
        return f"{value / GIB:,.2f} GiB" if abs(value) >= GIB / 10 else f"{value:,.0f} B"
    return f"{value:,.0f} {unit}" if value == int(value) else f"{value:,.2f} {unit}"


def words(figure: Figure) -> str:
    """Value, interval and how it is known, on one line."""
    if figure.value in (float("inf"), float("-inf")):
        text = "unbounded"
    else:
        text = number(figure.value, figure.unit)
        if figure.low != figure.high:
            text += f" ({number(figure.low, figure.unit)} to {number(figure.high, figure.unit)})"
    known = "" if figure.provenance is Provenance.EXACT else f"{figure.provenance.value}, "
    return f"{text}  [{known}{figure.source}]"


def explain(footprint: Footprint) -> str:
    """Every line of the predicted boot log with its formula."""
    out = [f"{footprint.plan_label} on {footprint.device_name}, vLLM {footprint.spec.engine_version}"]
    for field, title in LINES:
        figure = getattr(footprint, field)
        if figure is None:
            continue
        out.append(f"{title}: {words(figure)}")
        if figure.formula:
            out.append(f"    = {figure.formula}")
    out.append(f"verdict: {footprint.verdict.value} - {footprint.reason}")
    out += [f"refusal: {text}" for text in footprint.refusals]
    for lever in footprint.levers:
        enough = ", enough" if lever.enough else ""
        out.append(
            f"lever: {lever.change} frees {number(lever.frees_bytes.value, 'B')}{enough} ({lever.cost})"
        )
    out += [f"note: {text}" for text in footprint.notes]
    return "\n".join(out)
