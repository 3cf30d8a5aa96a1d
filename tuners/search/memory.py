"""What a search needs in memory, resident and block by block, worked out before anything is loaded.

The bound of each stage is a sum of named parts; stages follow each other, so the search needs the largest.
`benchmarks/streaming.py` compares the bounds with measured peaks.
"""

from __future__ import annotations

import importlib.metadata as metadata
from collections.abc import Iterable, Sequence

from profiles.errors import EnvironmentProblem, UsageError
from profiles.models.schema import TensorInfo
from profiles.sizes import size
from tuners.budget import parse_memory
from tuners.model.limits import HESSIAN_BYTES, ROWS_BYTES, SAMPLE_CELLS, SMALL_BYTES, STATES_BYTES
from tuners.plan import Unit
from tuners.search.schema import Memory, MemoryMode, SearchMemory, SearchSettings, StageMemory

RUNTIME_BYTES = {"CPU": 900 * 2**20, "GPU": 1200 * 2**20}
"""Interpreter, PyTorch, Transformers, llm-compressor and Optuna, imported and used once, by PyTorch's build
(measured with PyTorch 2.13: 0.72 GB with the one for CPUs, 0.30 GB more with the one that brings the GPU
libraries, on a machine without a GPU; code is shared between processes but counts as resident in each)."""

HEAP_SHARE = 0.10
"""Freed memory that the C library keeps, as a share of the rest (measured below 6 %)."""

GPTQ_WEIGHTS, GPTQ_HESSIANS = 9, 4
"""Copies of the largest weight and of its Hessian that GPTQ holds at its peak, in float32."""

ROUNDING_WEIGHTS = 4
"""The same of rounding to nearest."""

ASKED = "asked for"

SHARE_OF_AVAILABLE = 0.9
"""The search takes no more than this of what is available now."""


def torch_build() -> str:
    """`GPU` when the installed PyTorch brings NVIDIA's libraries, else `CPU`; nothing is imported."""
    try:
        needs = metadata.requires("torch") or []
    except metadata.PackageNotFoundError:
        return "CPU"
    return "GPU" if any(need.startswith(("nvidia-", "cuda-")) for need in needs) else "CPU"


class _Sizes:
    """What the bounds are made of; `item` is the size of a compute number in bytes."""

    def __init__(
        self, tensors: Iterable[TensorInfo], units: Sequence[Unit], settings: SearchSettings, item: int
    ) -> None:
        listed = list(tensors)
        self.units, self.set, self.item = units, settings, item
        self.linears = [m for u in units for m in u.linears]
        blocks: dict[str, int] = {}
        prefixes = block_prefixes(units)
        self.resident = 0
        outside: list[TensorInfo] = []
        for tensor in listed:
            prefix = next((p for p in _parents(tensor.name) if p in prefixes), None)
            if prefix is not None:
                blocks[prefix] = blocks.get(prefix, 0) + tensor.numel * item
            elif tensor.numel * item <= SMALL_BYTES:
                self.resident += tensor.numel * item
            else:
                outside.append(tensor)
        self.count = len(blocks)
        self.block = max(blocks.values(), default=0)
        self.all = sum(t.numel for t in listed) * item
        self.head = max((t.numel for t in outside), default=0) * item
        self.mapped = max((t.nbytes for t in listed), default=0)
        vocabularies = [t for t in outside if len(t.shape) == 2]
        wide = max(vocabularies, key=lambda t: t.shape[0], default=None)
        self.vocab, self.hidden = (wide.shape[0], wide.shape[1]) if wide else (0, self.linears[0].in_features)
        per_block: dict[int | None, int] = {}
        seen: dict[int | None, int] = {}
        once = 0
        for unit in units:
            outs = sum(m.out_features * m.copies for m in unit.linears)
            ins = unit.linears[0].in_features
            per_block[unit.block] = per_block.get(unit.block, 0) + outs + ins
            seen[unit.block] = seen.get(unit.block, 0) + ins + settings.probes * outs
            once += ins + outs
        self.features = max(per_block.values()) + 6 * self.hidden
        self.seen = 4 * settings.seq_len * max(seen.values())
        self.all_seen = 4 * settings.seq_len * sum(seen.values())
        self.quick_seen = 4 * settings.quick_sequences * settings.seq_len * once  # one probe; answers: whole
        self.unit = max(u.numel for u in units) * item
        self.weight = 4 * max(m.in_features * m.out_features for m in self.linears)
        self.hessian = 4 * max(m.in_features for m in self.linears) ** 2

    def states(self, sequences: int) -> int:
        return sequences * self.set.seq_len * self.hidden * self.item

    @property
    def batch(self) -> int:
        """One batch inside a block: inputs and outputs of all its linears at once."""
        return self.set.batch_size * self.set.seq_len * self.features * self.item

    @property
    def logits(self) -> int:
        """Logits of one batch in float32."""
        return 4 * self.set.batch_size * self.set.seq_len * self.vocab

    def hessians(self) -> int:
        each = [4 * u.linears[0].in_features ** 2 for u in self.units if any("W4" in o for o in u.options)]
        return min(sum(each), max(HESSIAN_BYTES, max(each, default=0)))

    def block_hessians(self) -> int:
        first = self.units[0].block
        each = [4 * u.linears[0].in_features ** 2 for u in self.units if u.block == first]
        return min(sum(each), max(HESSIAN_BYTES, max(each)))

    def gptq(self) -> int:
        return GPTQ_WEIGHTS * self.weight + GPTQ_HESSIANS * self.hessian


def search_memory(
    tensors: Iterable[TensorInfo],
    units: Sequence[Unit],
    settings: SearchSettings,
    available_bytes: int,
    *,
    on_gpu: bool = False,
) -> SearchMemory:
    """The mode that `settings.memory` asks for, or that what is available allows, and its bound: of each
    process, when there are several workers.

    A GPU computes in float32 too where the whole model fits so, else in bfloat16: bfloat16's own rounding
    hides small differences between formats (docs/gpu.md has both measured).

    Raises:
        UsageError, EnvironmentProblem: a quick search is asked to stream, or would have to.
    """
    listed = list(tensors)
    limit = (settings.memory_bytes or int(available_bytes * SHARE_OF_AVAILABLE)) // settings.workers
    asked = settings.memory
    sizes = _Sizes(listed, units, settings, 4)
    resident = _resident(sizes)
    wide = max(s.total_bytes for s in resident) <= limit and asked != "streamed"
    if on_gpu and not wide:
        sizes = _Sizes(listed, units, settings, 2)
        resident = _resident(sizes)
    streamed = _streamed(sizes)
    needs_resident = max(s.total_bytes for s in resident)
    needs_streamed = max(s.total_bytes for s in streamed)
    if settings.is_quick:
        _check_quick(asked, needs_resident, limit)
    mode: MemoryMode = asked if asked != "auto" else "resident" if needs_resident <= limit else "streamed"
    if asked != "auto":
        reason = ASKED
    elif mode == "resident":
        reason = f"the whole model needs {size(needs_resident)} of the {size(limit)} allowed"
    else:
        reason = f"the whole model would need {size(needs_resident)}, {size(limit)} are allowed"
    formats = {(u.name, f): u.bytes_as(f) for u in units for f in u.options if f != "BF16"}
    scratch = (sizes.count + 1) * sizes.states(settings.probe_sequences) if mode == "streamed" else 0
    return SearchMemory(
        mode=mode,
        compute="bfloat16" if on_gpu and not wide else "float32",
        reason=reason,
        bound_bytes=needs_resident if mode == "resident" else needs_streamed,
        resident_bytes=needs_resident,
        streamed_bytes=needs_streamed,
        available_bytes=available_bytes,
        limit_bytes=limit,
        variants_disk_bytes=0 if settings.is_quick else sum(formats.values()),
        scratch_disk_bytes=scratch,
        stages=tuple(resident if mode == "resident" else streamed),
    )


def check_memory(text: str, sensitivity: str) -> None:
    """Refuse a wrong `--memory`, and one that the sensitivity cannot keep, before anything starts.

    Raises:
        UsageError: no such memory, or a quick search of a streamed model.
    """
    asked, _ = parse_memory(text)
    if sensitivity == "quick":
        _check_resident(asked)


def _check_resident(asked: Memory) -> None:
    if asked == "streamed":
        raise UsageError(
            "a quick search holds the whole model: it rounds the weights that are in memory",
            got="--sensitivity quick --memory streamed",
            allowed="--memory auto, resident, or a size that the whole model fits into",
            next_step="--sensitivity fast --memory streamed reads the model block by block",
        )


def _check_quick(asked: Memory, needs_bytes: int, limit_bytes: int) -> None:
    _check_resident(asked)
    if asked == "auto" and needs_bytes > limit_bytes:
        raise EnvironmentProblem(
            "not enough memory for a quick search: it holds the whole model",
            got=f"needs {size(needs_bytes)}",
            allowed=size(limit_bytes),
            next_step="--sensitivity fast reads the model block by block",
        )


def quantize_memory(
    tensors: Iterable[TensorInfo], units: Sequence[Unit], samples: int, tokens: int, *, on_gpu: bool = False
) -> StageMemory:
    """The bound of quantizing block by block with `samples` sequences of `tokens` tokens."""
    batch = max(1, 1024 // tokens)
    settings = SearchSettings(seq_len=max(16, tokens), batch_size=batch, calibration_sequences=samples)
    s = _Sizes(tensors, units, settings, 2 if on_gpu else 4)
    return _stage(
        "quantize", {"block": s.block, "mapped tensor": s.mapped, "small modules": s.resident},
        hidden_states=3 * s.states(samples), batch=s.batch, Hessians=s.block_hessians(),
        quantizing=s.gptq() + 3 * s.unit, written=s.block // 2 + s.head,
    )  # fmt: skip


def require(memory: SearchMemory) -> None:
    """Refuse a search that cannot stay within what it is allowed.

    Raises:
        EnvironmentProblem: the bound of its mode is above the limit.
    """
    if memory.bound_bytes <= memory.limit_bytes or memory.reason == ASKED:
        return
    stage = max(memory.stages, key=lambda s: s.total_bytes)
    part = max(stage.parts, key=lambda p: stage.parts[p])
    raise EnvironmentProblem(
        "not enough memory to search this model, even one block at a time",
        where=f"stage: {stage.stage}",
        got=f"needs {size(memory.bound_bytes)}, most of it for {part} ({size(stage.parts[part])})",
        allowed=size(memory.limit_bytes),
        next_step="close other programs, or use a machine with more memory",
    )


def memory_text(memory: SearchMemory) -> str:
    """The bound in one line."""
    how = "in memory as a whole" if memory.mode == "resident" else "streamed block by block"
    stage = max(memory.stages, key=lambda s: s.total_bytes)
    return (
        f"model {how}, computed in {memory.compute} ({memory.reason}): "
        f"at most {memory.bound_bytes / 2**30:.2f} GiB, in stage {stage.stage!r} (estimated)"
    )


def _stage(name: str, base: dict[str, int], **parts: int) -> StageMemory:
    """A stage with the runtime and the heap's share added."""
    found = {**base, **{k.replace("_", " "): v for k, v in parts.items()}}
    found["heap"] = int(HEAP_SHARE * sum(found.values()))
    return StageMemory(stage=name, parts={"runtime": RUNTIME_BYTES[torch_build()], **found})


def _streamed(s: _Sizes) -> list[StageMemory]:
    used = s.set
    block = {"block": s.block, "mapped tensor": s.mapped, "small modules": s.resident}
    head = {"head": s.head, "mapped tensor": s.mapped, "small modules": s.resident}
    tokens = max(used.search_sequences, used.select_sequences, used.evaluate_sequences)
    probing = used.probes * s.states(used.probe_sequences)
    one_state = s.states(used.sensitivity_sequences)
    options = sum(len(u.options) - 1 for u in s.units)
    cells = options if used.sensitivity == "exact" else min(options, 2 * SAMPLE_CELLS)
    walking = max(min(STATES_BYTES, cells * one_state), one_state) + 3 * one_state
    rows = max(min(ROWS_BYTES, used.probe_sequences * s.seen), s.seen)
    probe_logits = 4 * used.seq_len * s.vocab
    return [
        _stage(
            "variants", block,
            hidden_states=3 * s.states(used.calibration_sequences), batch=s.batch,
            Hessians=s.block_hessians(), quantizing=s.gptq() + 3 * s.unit,
        ),
        _stage("plan, blocks", block, hidden_states=3 * s.states(tokens), batch=s.batch, variant=s.unit),
        _stage("plan, head", head, hidden_states=s.states(tokens), logits=3 * s.logits),
        _stage(
            "gradients, head", head,
            hidden_states=2 * s.states(used.probe_sequences), gradients=probing, logits=8 * probe_logits,
        ),
        _stage(
            "gradients, blocks", block,
            hidden_states=2 * s.states(used.probe_sequences), gradients=2 * probing,
            rows=rows + 4 * s.seen, variant=s.unit,
            graph=2 * used.seq_len * s.features * s.item,
        ),
        _stage("measured cells, blocks", block, hidden_states=walking, batch=s.batch, variant=s.unit),
        _stage("measured cells, head", head, hidden_states=walking, logits=4 * s.logits),
    ]  # fmt: skip


def _resident(s: _Sizes) -> list[StageMemory]:
    used = s.set
    weights = {"weights": s.all, "mapped tensor": s.mapped}
    dense = sum(u.numel * s.item * (len(u.options) - 1) for u in s.units)
    variants = min(used.variant_memory_bytes, dense)
    gradients = _stage(
        "gradients", weights,
        variants=variants, rows=s.quick_seen if used.is_quick else 2 * s.all_seen,
        logits=8 * 4 * used.seq_len * s.vocab,
        graph=s.count * used.seq_len * s.features * s.item, rounding=ROUNDING_WEIGHTS * s.weight,
    )  # fmt: skip
    plan = _stage("plan", weights, variants=variants, logits=3 * s.logits, batch=s.batch)
    if used.is_quick:
        return [gradients, plan]
    goes_on = max(used.search_sequences, used.select_sequences) // 2
    return [
        _stage("written text", weights, keys_and_values=2 * s.count * s.states(goes_on), logits=s.logits),
        _stage(
            "variants", weights, batch=s.batch, Hessians=s.hessians(), quantizing=8 * s.gptq() + 3 * s.unit
        ),
        _stage(
            "sensitivity", weights,
            variants=variants, hidden_states=2 * (s.count + 1) * s.states(used.sensitivity_sequences),
            reference=4 * used.sensitivity_sequences * used.seq_len * s.vocab,
            logits=3 * s.logits, batch=s.batch,
        ),
        gradients,
        plan,
    ]  # fmt: skip


def block_prefixes(units: Sequence[Unit]) -> set[str]:
    """Module names of the decoder blocks, from the names of the units' linears."""
    found = set()
    for unit in units:
        if unit.block is not None:
            before, marker, _ = unit.linears[0].name.partition(f".{unit.block}.")
            found.add(before + marker.rstrip("."))
    return found


def _parents(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts)))
