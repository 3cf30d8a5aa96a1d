"""Bytes of the weights: on each rank as the engine allocates them, and on disk as a checkpoint.

A planned linear is priced by `Format.weight_bytes` alone, the function that the search uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from profiles.footprint.facts import ModelFacts
from profiles.footprint.ledger import Group, Ledger, Line
from profiles.formats import Format, get_format

MIB = 1 << 20
VOCAB_PADDING = 64
"""Rows of embeddings and heads are padded to it (vLLM `DEFAULT_VOCAB_PADDING_SIZE`)."""


class UniformChoice:
    """One format per line, whatever the block: priced once per kind of layer."""

    def __init__(self, of_line: Callable[[Line], Format | None]) -> None:
        self._of_line = of_line

    def __call__(self, line: Line, name: str) -> Format | None:
        """The format of a line."""
        del name
        return self._of_line(line)


MXFP4_WIDTH, MXFP4_HIDDEN = 128, 256
"""Padding of Marlin and TRT-LLM expert kernels (vLLM 0.32 `fused_moe/oracle/mxfp4.py`): gpt-oss-120b takes
65.97 GiB with Marlin against 60.8 of tensors."""
TRITON_INPUTS, VALUE_SHARE = 256, (16, 17)
"""Triton's layout on Hopper pads the inputs of the packed values (16 of 17 bytes), not of their scales:
64.33 GiB for gpt-oss-120b, 64.38 measured."""
TRITON_FROM, TRITON_SM = (0, 11), 90
"""Hopper takes Triton from about this version on (65.97 GiB in 0.10 was Marlin); Ampere stays with Marlin
(gpt-oss-20b on an A100, 0.19: 13.72 GiB)."""


def mxfp4_by_triton(sm: int | None, version: tuple[int, int]) -> bool:
    """Whether MXFP4 experts run in Triton's kernels on that device and version."""
    return sm == TRITON_SM and version >= TRITON_FROM


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


FormatChoice = Callable[[Line, str], "Format | None"]
"""Format of a line given its module name; None: as stored."""


def pipeline_split(layers: int, stages: int) -> list[range]:
    """Blocks of each pipeline stage (vLLM 0.32 `get_pp_indices`)."""
    sizes = [layers // stages] * stages
    for i in range(2, layers % stages + 2):
        sizes[-i] += 1
    starts = [sum(sizes[:i]) for i in range(stages)]
    return [range(a, a + n) for a, n in zip(starts, sizes, strict=True)]


def allocated(nbytes: int) -> int:
    """What PyTorch's caching allocator charges for one tensor.

    Above 10 MiB a tensor gets whole 2 MiB pages, and a rest of 1 MiB or less is not split off
    (`CUDACachingAllocator`: kRoundLarge, kSmallSize). It explains 14.25 GiB measured for Qwen2.5-7B,
    whose tensors add up to 14.185.
    """
    if nbytes <= 10 * MIB:
        return nbytes
    whole = -(-nbytes // (2 * MIB)) * (2 * MIB)
    return whole if whole - nbytes <= MIB else nbytes


class Sharding:
    """How many ranks share what, as far as weights are concerned."""

    __slots__ = ("ep", "facts", "padded", "tp", "triton")

    def __init__(
        self,
        facts: ModelFacts,
        tp: int = 1,
        dp: int = 1,
        expert_parallel: bool = False,
        *,
        triton: bool = False,
    ) -> None:
        self.facts = facts
        self.tp = tp
        self.ep = (tp * dp, expert_parallel)
        self.padded = facts.stored_method == "mxfp4"
        self.triton = triton

    def rank_shape(self, line: Line) -> tuple[int, int, int]:
        """Rows, columns and copies of a linear on one rank."""
        tp, out, inn, copies = self.tp, line.out, line.inn, line.copies
        match line.shard:
            case "column":
                return -(-out // tp), inn, copies
            case "row":
                return out, -(-inn // tp), copies
            case "vocab":
                padded = -(-out // VOCAB_PADDING) * VOCAB_PADDING
                return -(-padded // tp), inn, copies
            case "kv":
                return self._kv_rows(out), inn, copies
            case "qkv":
                facts = self.facts
                per_head, rest = divmod(out, max(1, facts.heads + 2 * facts.kv_heads))
                if rest:
                    return -(-out // tp), inn, copies
                rows = -(-facts.heads // tp) + 2 * max(1, -(-facts.kv_heads // tp))
                return rows * per_head, inn, copies
            case "expert_column" | "expert_row":
                return self._expert_shape(line)
        return out, inn, copies

    def _expert_shape(self, line: Line) -> tuple[int, int, int]:
        """All experts sharded, or whole experts spread; MXFP4 kernels pad the width to 128, hidden to 256."""
        ranks, expert_parallel = self.ep
        column = line.shard == "expert_column"
        wide, hidden = (line.out, line.inn) if column else (line.inn, line.out)
        copies = line.copies
        if expert_parallel:
            copies = -(-copies // ranks)
        else:
            wide = -(-wide // ranks)
        if self.padded and self.triton:
            values, whole = VALUE_SHARE
            inputs = hidden if column else wide
            held = (values * _round_up(inputs, TRITON_INPUTS) + (whole - values) * inputs) // whole
            return (wide, held, copies) if column else (hidden, held, copies)
        if self.padded:
            halves = max(1, line.out // max(1, self.facts.expert_width)) if column else 1
            wide = _round_up(-(-wide // halves), MXFP4_WIDTH) * halves
            hidden = _round_up(hidden, MXFP4_HIDDEN)
        return (wide, hidden, copies) if column else (hidden, wide, copies)

    def _kv_rows(self, out: int) -> int:
        """Rows of k or v: heads replicate when TP exceeds them."""
        heads = self.facts.kv_heads
        if heads < 1 or out % heads:
            return -(-out // self.tp)
        return max(1, -(-heads // self.tp)) * (out // heads)


def line_bytes(line: Line, fmt: Format | None, sharding: Sharding, served_bytes: int) -> int:
    """Bytes of one module on one rank."""
    if not line.out:
        share = sharding.tp if line.shard == "even" else 1
        return -(-(line.elements * served_bytes + line.fixed) // share)
    rows, columns, copies = sharding.rank_shape(line)
    full = line.out * line.inn * line.copies
    here = rows * columns * copies
    if fmt is None or (fmt.family == "16-bit" and line.elements < full):
        return -(-(line.elements * served_bytes + line.fixed) * here // full)
    beside = max(0, line.elements - full) if line.elements >= full else 0  # biases
    extra = -(-beside * served_bytes * here // full)
    if line.elements >= full:
        extra += -(-line.fixed * here // full)
    return _price(fmt, rows, columns, served_bytes) * copies + extra


@lru_cache(maxsize=1 << 16)
def _price(fmt: Format, rows: int, columns: int, served_bytes: int) -> int:
    return fmt.weight_bytes(rows, columns, unquantized_bits=served_bytes * 8)


def plan_choice(formats_by_linear: Mapping[str, str] | None) -> FormatChoice | None:
    """The plan as a choice per module; None when everything stays as stored."""
    if not formats_by_linear:
        return None
    known = {name: get_format(name) for name in set(formats_by_linear.values())}
    table = {module: known[name] for module, name in formats_by_linear.items()}

    def choose(line: Line, name: str) -> Format | None:
        del line
        return table.get(name)

    return choose


class RankBytes:
    """Bytes of one pipeline stage's rank: all weights, and the share that a decode step reads."""

    __slots__ = ("experts", "total", "unread")

    def __init__(self) -> None:
        self.total = 0
        self.experts = 0  # routed experts
        self.unread = 0  # embeddings that are looked up, towers

    def add(self, group: Group, held: int, tied: bool) -> None:
        """Count a group's bytes."""
        role = group.lines[0].role
        self.total += held
        if role.startswith("expert"):
            self.experts += held
        elif role == "other" or (role == "embed" and not tied):
            self.unread += held


def stage_bytes(
    ledger: Ledger,
    sharding: Sharding,
    served_bytes: int,
    choice: FormatChoice | None = None,
    stages: int = 1,
    *,
    cuda: bool = True,
) -> list[RankBytes]:
    """Weights of each pipeline stage's rank, rounded as the GPU's allocator does when `cuda`."""
    facts = sharding.facts
    split = pipeline_split(facts.layers, stages)
    stage_of = {block: i for i, blocks in enumerate(split) for block in blocks}
    stage_of[-1], stage_of[-2] = 0, stages - 1
    out = [RankBytes() for _ in range(stages)]
    if stages == 1 and (choice is None or isinstance(choice, UniformChoice)):
        _one_stage(ledger, sharding, served_bytes, choice, out[0], cuda=cuda)
        return out
    for group in ledger.groups:
        for (kinds, stage), count in _choices(group, choice, stage_of).items():
            sizes = [
                line_bytes(line, fmt, sharding, served_bytes)
                for line, fmt in zip(group.lines, kinds, strict=True)
            ]
            nbytes = sum(sizes)
            held = ((allocated(nbytes) if cuda else nbytes) + absorbed(group, sharding, served_bytes)) * count
            out[stage].add(group, held, facts.tied)
            if group.lines[0].role == "embed" and facts.tied and stages > 1 and stage == 0:
                out[-1].total += held  # the head's copy (vLLM loads tied embeddings on both ends)
    for rank in out:
        rank.total += facts.rope_elements * served_bytes
    return out


def _one_stage(
    ledger: Ledger,
    sharding: Sharding,
    served_bytes: int,
    choice: FormatChoice | None,
    out: RankBytes,
    *,
    cuda: bool,
) -> None:
    """The common case without pipeline stages or per-block formats: every group priced once."""
    for group in ledger.groups:
        fmts = tuple(choice(line, "") if choice is not None else None for line in group.lines)
        out.add(group, group_bytes(group, fmts, sharding, served_bytes, cuda=cuda), sharding.facts.tied)
    out.total += sharding.facts.rope_elements * served_bytes


def group_bytes(
    group: Group,
    formats: Sequence[Format | None],
    sharding: Sharding,
    served_bytes: int,
    *,
    cuda: bool,
) -> int:
    """Bytes of a group's modules on one rank, all blocks together."""
    nbytes = 0
    for line, fmt in zip(group.lines, formats, strict=True):
        nbytes += line_bytes(line, fmt, sharding, served_bytes)
    held = allocated(nbytes) if cuda else nbytes
    return (held + absorbed(group, sharding, served_bytes)) * len(group.blocks)


def absorbed(group: Group, sharding: Sharding, served_bytes: int) -> int:
    """MLA keeps `kv_b_proj` a second time, split into W_UK and W_UV in 16 bits, for decoding
    (vLLM 0.32 `mla_attention.py`, `prefer_copy`; Kimi-VL-A3B on H100: 30.74 GiB against 30.60 without)."""
    if not group.fused.endswith("kv_b_proj") or not sharding.facts.latent:
        return 0
    line = group.lines[0]
    rows, columns, copies = sharding.rank_shape(line)
    return rows * columns * copies * served_bytes


def _choices(
    group: Group, choice: FormatChoice | None, stage_of: Mapping[int, int]
) -> Counter[tuple[tuple[Format | None, ...], int]]:
    """How often each combination of formats occurs on each stage."""
    if choice is None or isinstance(choice, UniformChoice):
        same = tuple(choice(line, "") if choice else None for line in group.lines)
        if max(stage_of.values()) == 0:
            return Counter({(same, 0): len(group.blocks)})
        return Counter((same, stage_of.get(block, 0)) for block in group.blocks)
    return Counter(
        (
            tuple(choice(line, name) for line, name in zip(group.lines, names, strict=True)),
            stage_of.get(block, 0),
        )
        for block, names in zip(group.blocks, group.names, strict=True)
    )


def checkpoint_bytes(ledger: Ledger, choice: FormatChoice | None = None) -> int:
    """Tensor bytes of the checkpoint on disk; a planned linear in its format, the rest as stored."""
    if choice is None:
        return ledger.stored_bytes
    total = 0
    for group in ledger.groups:
        for names in group.names:
            for line, name in zip(group.lines, names, strict=True):
                fmt = choice(line, name)
                total += line.stored if fmt is None else _stored_as(line, fmt)
    return total


def _stored_as(line: Line, fmt: Format) -> int:
    full = line.out * line.inn * line.copies
    if fmt.family == "16-bit" or not full:
        return line.stored
    if line.elements < full:  # already quantized: only the logical shape is known
        return fmt.weight_bytes(line.out, line.inn) * line.copies
    width = (line.stored - line.fixed) // line.elements
    return fmt.weight_bytes(line.out, line.inn) * line.copies + (line.elements - full) * width + line.fixed
