"""What to change when it does not fit, cheapest first, each tried with the same prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from profiles.footprint.core import Prediction, usable
from profiles.footprint.facts import ModelFacts
from profiles.footprint.laws import GIB
from profiles.footprint.schema import Lever, ServingSpec
from profiles.footprint.serving import DeviceView
from profiles.footprint.version import Version
from profiles.provenance import Figure, Provenance


class Trial(NamedTuple):
    """A changed spec, the words for it, and what it costs."""

    change: str
    spec: ServingSpec
    cost: str


Predictor = Callable[[ServingSpec], tuple[float, bool]]
"""Changed arguments to the slack that they leave and whether everything fits then."""


def trials(
    spec: ServingSpec, facts: ModelFacts, view: DeviceView, devices: int, *, fp8_kv: bool
) -> list[Trial]:
    """Changes worth trying, in the order of what they cost."""
    out: list[Trial] = []

    def change(words: str, cost: str, **update: object) -> None:
        out.append(Trial(words, spec.model_copy(update=update), cost))

    assert spec.max_num_seqs is not None
    assert spec.max_num_batched_tokens is not None
    assert spec.max_model_len is not None
    assert spec.gpu_memory_utilization is not None
    for count in (256, 64, 16):
        if spec.max_num_seqs > count >= spec.concurrency:
            change(f"--max-num-seqs {count}", "fewer requests at once", max_num_seqs=count)
    for tokens in (2048, 512):
        if spec.max_num_batched_tokens > tokens and not view.cpu:
            change(
                f"--max-num-batched-tokens {tokens}",
                "slower prefill",
                max_num_batched_tokens=tokens,
                max_num_seqs=min(spec.max_num_seqs, tokens),
            )
    if not view.cpu and spec.kv_cache_memory_bytes is None and spec.gpu_memory_utilization < 0.95:
        change("--gpu-memory-utilization 0.95", "less memory for others", gpu_memory_utilization=0.95)
    if spec.kv_cache_dtype == "auto" and fp8_kv and facts.kv_layers:
        change("--kv-cache-dtype fp8", "a small loss on long inputs", kv_cache_dtype="fp8")
    for part in (2, 4, 8):
        shorter = spec.max_model_len // part
        if shorter >= 1024:
            change(f"--max-model-len {shorter}", "shorter context", max_model_len=shorter)
    if not view.cpu and not spec.enforce_eager:
        change("--enforce-eager", "slower decode", enforce_eager=True)
    ranks = spec.tensor_parallel_size
    for tp in (2, 4, 8):
        if tp > ranks and facts.heads % tp == 0 and not view.cpu:
            beyond = tp * spec.pipeline_parallel_size * spec.data_parallel_size > devices
            change(
                f"--tensor-parallel-size {tp}",
                f"{tp} devices" + (f", {devices} given" if beyond else ""),
                tensor_parallel_size=tp,
            )
    if view.cpu and spec.kv_cache_memory_bytes is None:
        change(
            "VLLM_CPU_KVCACHE_SPACE=4",
            "4 GiB of KV cache instead of a share of host memory",
            kv_cache_memory_bytes=4 * GIB,
        )
    return out


def levers(before: float, candidates: list[Trial], predictor: Predictor, source: str) -> tuple[Lever, ...]:
    """Each candidate with what it frees on the tightest rank, relative to the slack before."""
    out = []
    for trial in candidates:
        after, enough = predictor(trial.spec)
        freed = after - before
        if freed < 0.01 * GIB and not enough:
            continue
        spread = 0.15 * abs(freed)
        figure = Figure(
            value=freed,
            low=freed - spread,
            high=freed + spread,
            unit="B",
            provenance=Provenance.ESTIMATED,
            source=source,
            formula="memory left after the requests asked for, with the change - without it",
        )
        out.append(Lever(change=trial.change, frees_bytes=figure, cost=trial.cost, enough=enough))
    return tuple(out)


def slack(p: Prediction, spec: ServingSpec) -> float:
    """Bytes left on the tightest rank after the requests asked for; negative when they do not fit."""
    assert spec.max_model_len is not None
    room = p.ranks[p.tight].available.value
    if not p.cache.groups:
        return room
    need = p.cache.request_blocks(spec.max_model_len) * spec.concurrency
    return room - need * p.cache.block_bytes[p.tight]


def holds(p: Prediction, spec: ServingSpec, version: Version) -> bool:
    """Whether the pessimistic number of blocks holds the concurrency asked for at the context asked for."""
    if not p.cache.groups:
        return p.ranks[p.tight].available.low > 0
    assert spec.max_model_len is not None
    return usable(p.blocks_low, version) >= p.cache.request_blocks(spec.max_model_len) * spec.concurrency
