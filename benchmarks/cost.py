"""What measuring a plan costs: against a plain forward pass on the same tokens, and the sensitivity table.

    python benchmarks/cost.py MODEL_DIR [--cells 24] [--rounds 5]

1. A plain forward pass (`model(ids).logits` by Transformers, nothing else) and the evaluation of a plan by
   the search (switch weights, forward, KL, perplexity and top-1 against the stored reference), in turn, on
   the search's own 16 sequences of 128 tokens; uniform INT4, uniform INT8 and a mixed plan.
2. Cells of the table, evenly spread: naive (a full forward pass and `torch.nn.functional.kl_div` against
   the reference, for each cell on all sequences) and as the product does it (suffix from the cached block
   input, the product's number of sequences), in turn; and by suffix on the naive one's sequences, where the
   two must agree.

Process time as well as wall time, because other programs may share the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812

from profiles.formats import get_format
from profiles.hardware import probe_cpu
from profiles.models import read_model
from profiles.tasks import load_task
from tuners.evaluate import Evaluator, compare
from tuners.model.host import BlockInputs, ModelHost
from tuners.model.variants import VariantStore, rtn
from tuners.search.schema import SearchSettings
from tuners.sensitivity.measure import sequences_for
from tuners.units import build_units

T = TypeVar("T")


class Clock:
    """Wall and process seconds of several kinds of work, added up."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Do the work and add its time."""
        wall, cpu = time.perf_counter(), time.process_time()
        out = work()
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu
        return out

    def ratio(self, name: str, base: str) -> str:
        """Both ratios as text."""
        return f"{self.wall[name] / self.wall[base]:.3f} wall, {self.cpu[name] / self.cpu[base]:.3f} process"


def plans(host: ModelHost, store: VariantStore, ids: torch.Tensor, folder: Path, rounds: int) -> None:
    """Part 1."""
    units = list(host.units.values())
    evaluator = Evaluator(host, store, ids, folder, "search")
    evaluator.reference()
    lowest = {u.name: u.options[0] for u in units}
    eight = {u.name: next(o for o in u.options if get_format(o).weight_bits == 8) for u in units}
    mixed = {u.name: (lowest if i % 3 else eight)[u.name] for i, u in enumerate(units)}
    named = {"uniform INT4": lowest, "uniform INT8": eight, "mixed": mixed}
    for plan in named.values():
        evaluator.quality(plan)  # dequantized weights are in memory from the first trial on

    @torch.no_grad()
    def plain() -> None:
        for at in range(0, len(ids), 4):
            host.model(input_ids=ids[at : at + 4], use_cache=False)

    clock = Clock()
    plain()
    for _ in range(rounds):
        clock.run("plain", plain)
        for name, plan in named.items():
            clock.run(name, lambda plan=plan: evaluator.quality(plan))  # type: ignore[misc]
    print(f"plan evaluation on {ids.numel()} tokens, {rounds} rounds in turn with a plain forward pass:")
    print(f"  plain forward  {clock.wall['plain'] / rounds:7.2f} s")
    for name in named:
        print(f"  {name:14} {clock.wall[name] / rounds:7.2f} s, ratio {clock.ratio(name, 'plain')}")


@torch.no_grad()
def table(host: ModelHost, store: VariantStore, ids: torch.Tensor, count: int) -> None:
    """Part 2."""
    cells = [(u.name, f) for u in host.units.values() for f in u.options if f != "BF16"]
    # an odd number of steps apart, so that blocks, roles and formats all take part
    step = max(1, len(cells) // count) | 1
    chosen = cells[::step]
    clock = Clock()
    inputs, logits = clock.run("capture", lambda: host.capture(ids))
    reference = torch.log_softmax(logits, -1)
    del logits
    worst = worst_relative = 0.0
    for unit, fmt in chosen:
        block, few = host.block_of(unit), sequences_for(fmt, len(ids))
        some = BlockInputs(hidden=tuple(h[:few] for h in inputs.hidden))

        def naive() -> list[float]:
            logp = torch.log_softmax(host.logits(ids), -1)
            kl = F.kl_div(logp, reference, log_target=True, reduction="none").sum(-1).mean(-1)
            return [float(x) for x in kl]

        def suffix(used: BlockInputs = inputs, rows: int = len(ids), block: int = block) -> list[float]:
            out = host.logits_from(block, ids[:rows], used)
            return [x.kl for x in compare(out, reference, ids[:rows])]

        with store.installed({unit: fmt}):
            full = clock.run("naive", naive)
            same = clock.run("suffix", suffix)
            clock.run("product", lambda some=some, few=few: suffix(some, few))  # type: ignore[misc]
        worst = max(worst, *(abs(a - b) for a, b in zip(full, same, strict=True)))
        worst_relative = max(worst_relative, abs(sum(same) / sum(full) - 1))
    share = len(chosen) / len(cells)
    for name in ("suffix", "product"):  # the capture serves all cells of a table: its share is added
        clock.wall[name] += clock.wall["capture"] * share
        clock.cpu[name] += clock.cpu["capture"] * share
    print(f"table: {len(chosen)} of {len(cells)} cells, {ids.numel()} tokens each:")
    print(f"  naive    {clock.wall['naive'] / len(chosen):6.3f} s a cell")
    for name, what in (("suffix", "same sequences"), ("product", "the product's sequences")):
        mean = clock.wall[name] / len(chosen)
        print(
            f"  {name:8} {mean:6.3f} s a cell, ratio {clock.ratio(name, 'naive')} ({what}, capture included)"
        )
    print(
        f"  largest difference of a sequence's KL: {worst:.1e}, of a cell's, relative: {worst_relative:.1e}"
    )


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    settings = SearchSettings()
    units = build_units(read_model(options.model), probe_cpu().device)
    host = ModelHost.load(options.model, units)
    text = load_task("generic").splits.search
    ids = host.tokenise(text, seq_len=settings.seq_len, max_sequences=settings.search_sequences)
    with tempfile.TemporaryDirectory() as folder:
        store = VariantStore(host, Path(folder), settings.variant_memory_bytes)
        for unit in units:
            for fmt in unit.options:
                if fmt != "BF16":
                    made = {m.name: rtn(host.original[m.name], get_format(fmt)) for m in unit.linears}
                    store.put(unit.name, fmt, made)
        table(host, store, ids[: settings.sensitivity_sequences], options.cells)
        plans(host, store, ids, Path(folder), options.rounds)


if __name__ == "__main__":
    main()
