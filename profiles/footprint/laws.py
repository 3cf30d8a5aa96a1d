"""What the engine needs besides weights and KV cache: activation peak, non-torch memory, CUDA graphs.

Laws fitted to 40 boot logs of vLLM 0.19 on H100 and checked on single cases of 0.8 to 0.28, two of them
(0.26, H100) our own; every
constant says where it was read. All sizes in bytes, each with an interval.
"""

from __future__ import annotations

from typing import NamedTuple

from profiles.footprint.facts import ModelFacts
from profiles.footprint.runner import EVERY, is_second
from profiles.footprint.version import NEWEST, Version
from profiles.provenance import Provenance

GIB = 1 << 30

SAMPLER_BYTES = 12.4
"""Per sequence and vocabulary entry of the dummy sampler run, besides the logits in the model's dtype:
14.4 B with 16-bit logits (calibrated 0.17-0.19/H100, within 0.05 GiB on 13 architectures)."""

SORTED_SAMPLER_BYTES = 35.9
"""The same up to 0.16, where top-k/top-p sorts with 64-bit indices: 37.9 B with 16-bit logits (Qwen3-32B
and gpt-oss-120b on H100, 0.10-0.11: 5.64 GiB; Qwen2.5-7B-AWQ: 1.42 GiB)."""

LEAN_SAMPLER = (0, 17)
"""From here on the lean sampler (Qwen3-14B/H100: 5.64 GiB in 0.15-0.16, 2.23 in 0.17)."""

COPIED_LOGITS_BYTES = 4
"""The second runner's dummy sampler keeps the logits' dtype and changes them in place (0.26 to 0.32): beside
them nothing. A copy in float32 is what the interval allows for."""

MLP_HIDDENS = 3.2
"""Hidden states alive at the MLP's peak beside gate_up (2 x I) and its product (I): CodeLlama-7B 0.77,
Granite-8B 0.85 GiB (0.19), 110,592 B per token of Llama-3.1-8B on the RTX 3090 (no constant); with the
second runner Llama-3.1-8B 1.77 GiB of 1.77, SmolLM2-135M 0.27 of 0.26 (0.26/H100, 16,384 tokens)."""

ACTIVATION_BASE = 0.065 * GIB
PIPELINE_HIDDENS = 2.0
"""Buffers of intermediate tensors between stages: hidden states and residual (0.19, PP 2)."""

VISION_RESIDUAL = (0.075 * GIB, 0.0, 0.16 * GIB)
"""Encoder of vision models beyond the cached outputs (Gemma-3 0.15, Granite-vision 0 GiB)."""

DENSE_SPREAD = 0.12 * GIB
MOE_SPREAD = 0.25 * GIB

NON_TORCH_NEW = {"one": (0.25, 0.2, 0.46), "many": (2.1, 2.0, 2.3), "pipeline": (0.07, 0.05, 0.25)}
"""GiB by parallelism (0.19/H100); `one` reached 0.46 on two Granite models."""
NON_TORCH_OLD = {"one": (0.13, 0.1, 0.35), "many": (0.55, 0.45, 1.2), "pipeline": (0.13, 0.05, 0.35)}
"""GiB (0.11/H100; 0.35 on an RTX 3090)."""
NON_TORCH_STEP = ((0, 11), (0, 19))
"""Between these versions nobody measured: linear between the two, the interval spans both."""

GRAPH_BASE, GRAPH_PER_LAYER, GRAPH_MOE = 0.3, 0.0165, 0.3
"""GiB of captured graphs: base + layers on the rank + MoE (0.19/H100, 51 capture sizes; 0.51-1.85 seen,
within -30 % and +45 %; 0.26/H100: Llama-3.1-8B 0.98 of 0.83, SmolLM2-135M 0.39 of 0.80)."""
GRAPH_SPREAD = (0.45, 1.6)
FULL_CAPTURES = 51
"""Capture sizes up to 512: 1, 2, 4, multiples of 8 to 256, of 16 to 512 (vLLM 0.32)."""

CPU_PROCESS = (0.75 * GIB, 0.5 * GIB, 1.6 * GIB)
"""Resident memory of a CPU worker without weights: Python, PyTorch, the engine (0.32 on x86)."""

CALIBRATED_DEVICE = "H100"
CALIBRATED_VERSIONS = frozenset({(0, 11), (0, 17), (0, 18), (0, 19)})


class Range(NamedTuple):
    """A value and what it likely lies between."""

    value: float
    low: float
    high: float

    def plus(self, other: Range) -> Range:
        """Sum of value and ends."""
        return Range(self.value + other.value, self.low + other.low, self.high + other.high)

    def shifted(self, nbytes: float) -> Range:
        """A measured residual added, never below zero."""
        return Range(*(max(0.0, x + nbytes) for x in self))


ZERO = Range(0.0, 0.0, 0.0)


class Batch(NamedTuple):
    """What decides transient memory on one rank."""

    tokens: int
    sequences: int
    served_bytes: int
    tp: int
    pp: int
    ranks: int  # ranks that share the experts
    expert_parallel: bool
    version: Version
    cuda: bool


def activation(facts: ModelFacts, batch: Batch, *, first: bool = True, last: bool = True) -> Range:
    """The transient peak of the profiling run on one rank: the dummy sampler or the MLP, and MoE, vision."""
    t, b = batch.tokens, batch.served_bytes
    hidden = t * facts.hidden * b
    width = facts.intermediate
    if facts.experts and facts.moe_layers >= facts.layers:
        width = min(width, 2 * facts.expert_width)
    mlp = t * 3 * width * b / batch.tp + MLP_HIDDENS * hidden
    lean, second = batch.version >= LEAN_SAMPLER, batch.cuda and is_second(facts, batch.version)
    entries = batch.sequences * facts.vocab if last and facts.generates else 0
    sampler = (
        hidden + entries * (sampler_bytes(facts, batch.version, cuda=batch.cuda) + b) if entries else 0.0
    )
    beside = ACTIVATION_BASE
    if batch.pp > 1:
        beside += PIPELINE_HIDDENS * hidden
    spread = DENSE_SPREAD
    if facts.experts:
        beside += moe_workspace(facts, batch)
        spread = MOE_SPREAD
    low_extra = high_extra = 0.0
    if facts.multimodal and first:
        beside += hidden + VISION_RESIDUAL[0]
        low_extra = VISION_RESIDUAL[0] - VISION_RESIDUAL[1]
        high_extra = VISION_RESIDUAL[2] - VISION_RESIDUAL[0]
    value = max(mlp, sampler) + beside
    if not batch.cuda:
        return Range(value, value * 0.4, value * 2.0)
    low, high = value - spread - low_extra, value + spread + high_extra
    low, high = low - 0.05 * value * _drift(batch.version), high + 0.1 * value * _drift(batch.version)
    if second:
        copied = max(mlp, hidden + entries * (COPIED_LOGITS_BYTES + b)) + beside + spread
        first_runner = max(mlp, hidden + entries * (SAMPLER_BYTES + b)) + beside
        high = max(high, copied, first_runner if batch.version >= EVERY else 0.0)
    if not lean and sampler > mlp:  # builds with FlashInfer's sampler did not sort
        lean_sampler = hidden + batch.sequences * facts.vocab * (SAMPLER_BYTES + b)
        low = min(low, max(mlp, lean_sampler) + beside - ACTIVATION_BASE - spread)
    return Range(value, max(0.0, min(low, value)), high)


def sampler_bytes(facts: ModelFacts, version: Version, *, cuda: bool = True) -> float:
    """Bytes per sequence and vocabulary entry of the dummy sampler run, besides the logits."""
    if cuda and is_second(facts, version):
        return 0.0
    return SAMPLER_BYTES if version >= LEAN_SAMPLER else SORTED_SAMPLER_BYTES


def moe_workspace(facts: ModelFacts, batch: Batch) -> float:
    """Buffers of the fused-MoE kernel, held through the sampler run: T x top-k x (3 x width + hidden).

    Its three caches. 0.19/H100: Qwen3-30B 0.53 of 0.50 GiB measured, Kimi-VL 0.57 of 0.57, Llama-4-Scout
    0.17 of 0.27.
    """
    routed = batch.tokens * facts.experts_per_token
    width = facts.expert_width if batch.expert_parallel else facts.expert_width / batch.ranks
    return routed * (3 * width + facts.hidden) * batch.served_bytes


def _drift(version: Version) -> float:
    """How far a version is from those that were measured: 0 on them, 1 per five minor versions."""
    nearest = min(abs(version[1] - v[1]) for v in CALIBRATED_VERSIONS)
    beyond = max(0, version[1] - NEWEST[1])
    return (nearest + beyond) / 5


def non_torch(batch: Batch) -> Range:
    """Memory that PyTorch does not see: contexts, NCCL and all-reduce buffers."""
    if not batch.cuda:
        return Range(*CPU_PROCESS)
    kind = "many" if batch.tp > 1 else "pipeline" if batch.pp > 1 else "one"
    old, new = NON_TORCH_OLD[kind], NON_TORCH_NEW[kind]
    (_, a), (_, z) = NON_TORCH_STEP
    minor = batch.version[1]
    if minor <= a:
        value, low, high = old
    elif minor >= z:
        value, low, high = new
        if minor > z and kind == "many":
            low = old[1]
    else:
        share = (minor - a) / (z - a)
        value = old[0] + share * (new[0] - old[0])
        low, high = min(old[1], new[1]), max(old[2], new[2])
    return Range(value * GIB, min(low, value) * GIB, max(high, value) * GIB)


def capture_sizes(max_num_seqs: int) -> int:
    """Number of batch sizes that CUDA graphs are captured for (vLLM 0.32 defaults)."""
    top = min(512, 2 * max_num_seqs)
    sizes = {1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)}
    return sum(1 for s in sizes if s <= top)


def cuda_graphs(facts: ModelFacts, batch: Batch, layers_on_rank: int, *, eager: bool) -> Range:
    """Memory of the captured graphs; 0 in eager mode and on CPUs."""
    if eager or not batch.cuda:
        return ZERO
    scale = 0.5 + 0.5 * capture_sizes(batch.sequences) / FULL_CAPTURES
    value = (
        (GRAPH_BASE + GRAPH_PER_LAYER * layers_on_rank + (GRAPH_MOE if facts.experts else 0)) * GIB * scale
    )
    return Range(value, value * GRAPH_SPREAD[0], value * GRAPH_SPREAD[1])


def provenance_of(batch: Batch, device: str) -> tuple[Provenance, str]:
    """How laws are known for a version and a device: calibrated on both, or carried over from the nearest."""
    if not batch.cuda:
        return Provenance.ESTIMATED, "law of CPU workers, vLLM 0.32"
    major, minor = batch.version
    near = min(CALIBRATED_VERSIONS, key=lambda v: abs(v[1] - minor))
    carried = [] if batch.version == near else [f"{major}.{minor}"]
    if CALIBRATED_DEVICE not in device.upper():
        carried.append(device)
    if not carried:
        return Provenance.CALIBRATED, f"calibrated@vLLM {major}.{minor}/{CALIBRATED_DEVICE}"
    law = f"law calibrated@vLLM {near[0]}.{near[1]}/{CALIBRATED_DEVICE}"
    return Provenance.ESTIMATED, f"{law}, carried to {' and '.join(carried)}"
