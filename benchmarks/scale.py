"""What the search costs as models grow: the solver at 100,000 units, the table from 2 to 64 blocks.

    python benchmarks/scale.py [--units 100000] [--blocks 2 4 8 16] [--width 64]

First the exact solver and the plan's price on a synthetic mixture of experts. Then synthetic Llama-shaped
models: forward passes of the exact table (half a pass for each cell, so O(N) passes over O(N) blocks), of
the fast one (its passes do not grow with the model at all), of one plan against a plain forward, and their
processor times (wall time as well for the solver).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch

from profiles.formats import get_format
from tuners.evaluate import Evaluator
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore, rtn
from tuners.plan import PrecisionPlan, Unit, UnitLinear
from tuners.sensitivity.fast import measure_fast
from tuners.sensitivity.measure import measure_kl
from tuners.sensitivity.table import CellLog
from tuners.solver import solve
from tuners.solver_limits import fastest, solve_within_ms, summed

OPTIONS = ("W4A16_G128", "W4A16_G64", "W4A16_G32", "W8A8", "FP8_DYNAMIC", "BF16")


def solver(count: int) -> None:
    """Time `solve` and the price of its plan on `count` units of a few shapes."""
    rng = random.Random(0)
    units = [
        Unit(
            name=f"model.layers.{i // 1000}.experts.{i % 1000}",
            role="expert_down",
            block=i // 1000,
            linears=(UnitLinear(name=f"x{i}", in_features=rng.choice((2048, 7168)), out_features=2048),),
            options=OPTIONS,
        )
        for i in range(count)
    ]
    scores = {}
    for unit in units:
        base = rng.lognormvariate(-8, 2)
        factors = (1.0, rng.uniform(0.8, 0.95), rng.uniform(0.6, 0.8), rng.uniform(0.01, 0.05), 0.05)
        scores[unit.name] = {f: base * x for f, x in zip(OPTIONS, factors, strict=False)}
    weights = sum(u.numel for u in units)
    for bits in (4.5, 6.0, 8.0):
        start, busy = time.perf_counter(), time.process_time()
        plan = PrecisionPlan(formats=solve(units, scores, int(bits * weights / 8)))
        solved, busy = time.perf_counter(), time.process_time() - busy
        used = plan.bits_per_weight(units)
        print(
            f"{count} units at {bits} bits: solved in {solved - start:.2f} s ({busy:.2f} s of processor), "
            f"priced in {time.perf_counter() - solved:.2f} s, {used:.6f} bits used",
            flush=True,
        )
    two_limits(units, scores, rng)


def two_limits(units: list[Unit], scores: dict[str, dict[str, float]], rng: random.Random) -> None:
    """Time the exact choice under bytes and milliseconds, and the fastest plan under bytes and loss."""
    speeds = dict(zip(OPTIONS, (0.7, 0.72, 0.75, 0.5, 1.5, 1.0), strict=True))
    costs = {}
    for unit in units:
        base = unit.numel / 1e9 * rng.uniform(0.9, 1.1)
        costs[unit.name] = {f: base * x for f, x in speeds.items()}
    budget = int(6 * sum(u.numel for u in units) / 8)
    free, least = solve(units, scores, budget), fastest(units, scores, budget, costs)
    limit = 0.5 * (summed(free, costs) + summed(least, costs))
    start = time.perf_counter()
    within = solve_within_ms(units, scores, budget, costs, limit)
    took = time.perf_counter() - start
    print(
        f"{len(units)} units at 6 bits and {limit:.4g} ms: solved in {took:.2f} s, loss "
        f"{summed(free, scores):.6g} without the limit, {summed(within, scores):.6g} at "
        f"{summed(within, costs):.6g} ms"
    )
    most = summed(within, scores)
    start = time.perf_counter()
    found = fastest(units, scores, budget, costs, most)
    took = time.perf_counter() - start
    print(
        f"{len(units)} units at 6 bits, the fastest with a loss of {most:.4g}: solved in {took:.2f} s, "
        f"{summed(found, costs):.6g} ms"
    )


def llama(blocks: int, width: int) -> tuple[torch.nn.Module, list[Unit]]:
    """A random model and its units."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=blocks, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=256, tie_word_embeddings=True,
    )  # fmt: skip
    units = []
    for b in range(blocks):
        for role, block, shards, sizes in (
            ("qkv", "self_attn", ("q_proj", "k_proj", "v_proj"), (width, width)),
            ("o", "self_attn", ("o_proj",), (width, width)),
            ("gate_up", "mlp", ("gate_proj", "up_proj"), (2 * width, width)),
            ("down", "mlp", ("down_proj",), (width, 2 * width)),
        ):
            names = [f"model.layers.{b}.{block}.{s}" for s in shards]
            linears = tuple(UnitLinear(name=n, out_features=sizes[0], in_features=sizes[1]) for n in names)
            units.append(
                Unit(name=f"{b}.{role}", role=role, block=b, linears=linears, options=("W8A8", "BF16"))
            )
    model = LlamaForCausalLM(config).eval()
    model.requires_grad_(False)
    return model, units


def growth(blocks: int, width: int) -> None:
    """One line: passes and seconds of a model of `blocks` blocks."""
    model, units = llama(blocks, width)
    host = ModelHost(model, None, units)
    ids = torch.randint(0, 256, (4, 64))
    passes = 0.0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1 / blocks

    with tempfile.TemporaryDirectory() as folder:
        store = VariantStore(host, Path(folder), 2**30)
        fmt = get_format("W8A8")
        for unit in units:
            store.put(unit.name, "W8A8", {m.name: rtn(host.original[m.name], fmt) for m in unit.linears})
        evaluator = Evaluator(host, store, ids, Path(folder), "search")
        evaluator.reference()
        plan = dict.fromkeys(host.units, "W8A8")
        evaluator.quality(plan)  # dequantized weights are now in memory, as after the first trial
        forward = min(_timed(lambda: host.logits(ids)) for _ in range(5))
        trial = min(_timed(lambda: evaluator.quality(plan)) for _ in range(5))
        handles = [b.mlp.register_forward_hook(count) for b in host.blocks]
        exact_s = _timed(lambda: measure_kl(host, store, ids, CellLog(Path(folder) / "c"), emit=_silent))
        exact = passes
        fast_s = _timed(lambda: measure_fast(host, store, ids))
        for handle in handles:
            handle.remove()
    print(
        f"{blocks:3} blocks: forward {forward * 1e3:7.1f} ms, a plan {trial / forward:4.2f} forwards, "
        f"exact table {exact:6.1f} passes ({exact / len(units):.2f} a cell) {exact_s:6.2f} s, "
        f"fast table {passes - exact:4.1f} passes + backwards {fast_s:6.2f} s",
        flush=True,
    )


def _silent(_event: object) -> None:
    pass


def _timed(work: object) -> float:
    """Processor seconds: other programs may share the machine."""
    start = time.process_time()
    work()  # type: ignore[operator]
    return time.process_time() - start


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    solver(options.units)
    for blocks in options.blocks:
        growth(blocks, options.width)


if __name__ == "__main__":
    main()
