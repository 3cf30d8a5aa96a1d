"""Every allocator on the same model, quantized weights, byte budgets and calibration text, in one run.

    python benchmarks/allocators.py --model DIR --data DIR --out DIR [--budgets 4.5 5 5.5 6 7] [--parts ...]

Parts: `allocation` (one row for each allocator and budget), `ablation` (Advisor's parts one by one), `raw`
(random search, TPE and NSGA-II over raw categoricals at equal evaluations), `limit` (the additive plan that
knows the judging text), `time` (Advisor from a cold cache until its plan is as good as AutoScheme's),
`product` (final checkpoints, each tool by its own best method: products.py), `engine` (final checkpoints in
vLLM: engine_ranking.py).

AutoScheme and ModelOpt run by their own code (others.py; `--modelopt-python` is an interpreter with
`nvidia-modelopt`, transformers, datasets, requests, ruamel.yaml and scipy). Quality is measured on
WikiText-2, GSM8K and HumanEval, which nobody calibrated on; differences to Advisor are paired over sequences
with a 95 % bootstrap interval. Everything that was
measured is kept in OUT: a stopped run goes on, and `--burst` seconds end a call early. Writes OUT/table.md,
OUT/results.jsonl and OUT/front.html.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import engine_ranking
import numpy as np
import optuna
import others
import products
import rules
import torch
from bench import LIKE_JUDGED, Bench, OutOfTime

from tuners.evaluate import paired_difference
from tuners.plan import PrecisionPlan, Unit, uniform
from tuners.search.report import Reporter
from tuners.search.scoring import score
from tuners.search.setup import Setup
from tuners.search.study import PlanSearch
from tuners.search.trials import Trials
from tuners.sensitivity.measure import measure_kl
from tuners.sensitivity.table import FISHER, G2DY2, GDY2, KL, MSE, CellLog, SensitivityTable, blend
from tuners.solver import solve

ADVISOR = "Advisor"
PARTS = ("allocation", "ablation", "raw", "limit", "time", "product", "engine")
RICH = ["W4A16_G128", "W4A16_ASYM_G128", "W4A16_G64", "W4A16_ASYM_G64", "W4A16_G32", "W8A8"]
"""Every format that a kernel of this CPU runs fast; of `--formats all` only FP8 is missing (slow here)."""
Makers = dict[str, Callable[[], dict[str, str]]]


def allocation(bench: Bench, table: SensitivityTable, bits: float) -> Makers:
    """Name to the function that makes the plan at the budget."""
    budget, units = bench.bytes_for(bits), bench.units
    return {
        ADVISOR: lambda: searched(bench, table, budget),
        others.AUTOSCHEME: lambda: others.answer(bench, others.AUTOSCHEME)["plans"][budget],
        others.AUTOSCHEME_16: lambda: others.answer(bench, others.AUTOSCHEME_16)["plans"][budget],
        others.MODELOPT: lambda: others.answer(bench, others.MODELOPT)["plans"][budget],
        "exact additive, measured KL": lambda: solve(units, table.scores(KL), budget),
        "gradient at the low-bit point (MLX's rule)": lambda: rules.upgrade_in_order(
            units, mlx_order(bench), "int4", "int8", budget
        ),
        "first and last blocks high": lambda: rules.first_last(units, "int4", "int8", budget),
        "uniform": lambda: largest_uniform(units, budget),
    }


def ablation(bench: Bench, table: SensitivityTable, bits: float) -> Makers:
    """Advisor's parts one by one; the last, all of them, is the row Advisor of `allocation`."""
    budget, units = bench.bytes_for(bits), bench.units
    never = {"correct_every": 10_000}
    three = (KL, FISHER, GDY2)
    blended = blend({s: table.scores(s) for s in three}, dict.fromkeys(three, 1.0), 1.0)
    return {
        "signal alone: weight error": lambda: solve(units, table.scores(MSE), budget),
        "signal alone: (g.dy)^2": lambda: solve(units, table.scores(GDY2), budget),
        "signal alone: (g dy)^2 by channel": lambda: solve(units, table.scores(G2DY2), budget),
        "signal alone: Fisher probes": lambda: solve(units, table.scores(FISHER), budget),
        "mean of KL, Fisher and (g.dy)^2": lambda: solve(units, blended, budget),
        "choice among signals": lambda: searched(
            bench, table, budget, **never, trials=4, contested_share=0.0
        ),
        "+ prices": lambda: searched(bench, table, budget, **never, contested_share=0.0),
        "+ contested units": lambda: searched(bench, table, budget, **never),
    }


def raw(bench: Bench, _table: SensitivityTable, bits: float) -> Makers:
    """What a straightforward Optuna script would do, at as many evaluations as Advisor has trials."""
    budget = bench.bytes_for(bits)
    return {
        "random search": lambda: raw_search(bench, budget, "random"),
        "TPE, raw categoricals": lambda: raw_search(bench, budget, "tpe"),
        "NSGA-II, raw categoricals": lambda: raw_search(bench, budget, "nsga"),
    }


def limit(bench: Bench, _table: SensitivityTable, bits: float) -> Makers:
    """What no allocator can know: the exact solution of KL measured on the very text that judges."""
    log = CellLog(bench.out / "limit-cells.jsonl")
    ids = torch.cat([e.ids for e in bench.held_out.values()])
    measure_kl(bench.host, bench.store, ids, log, emit=bench.emit, eight_bit_share=1.0)
    scores: dict[str, dict[str, float]] = {}
    for (unit, fmt), cell in log.cells.items():
        scores.setdefault(unit, {})[fmt] = max(float(np.mean(cell.sequence_kl)), 1e-12)
    budget = bench.bytes_for(bits)
    return {"limit: exact additive on the judging text": lambda: solve(bench.units, scores, budget)}


def searched(bench: Bench, table: SensitivityTable, budget: int, **changes: object) -> dict[str, str]:
    """The product's own search and choice; `changes` of its settings switch parts off."""
    settings = bench.settings.model_copy(update=changes)
    bench.setup.settings = settings
    bench.setup.spec = bench.spec.model_copy(update={"budget_bytes": budget, "settings": settings})
    trials = Trials(bench.units, bench.setup.search, settings, bench.emit)
    search = PlanSearch(
        bench.units,
        table,
        trials,
        budget,
        optuna.storages.InMemoryStorage(),
        settings,
        bench.emit,
        name="bench",
    )
    search.run()
    return Reporter(bench.setup, table, bench.emit).choose(search).plan.formats


def mlx_order(bench: Bench) -> list[str]:
    """MLX's order of the units, on as many sequences as the table."""
    path = bench.out / "order-mlx.json"
    if not path.exists():
        bench.clock.check()
        start = time.process_time()
        ids = bench.setup.cell_sequences.ids
        reference = torch.log_softmax(bench.host.logits(ids), -1)
        found = rules.mlx_order(bench.host, bench.store, ids, reference, "int4", "int8")
        path.write_text(json.dumps({"order": found, "seconds": time.process_time() - start}))
    data = json.loads(path.read_text())
    bench.clock.charged_s += data["seconds"]
    return list(data["order"])


def largest_uniform(units: list[Unit], budget: int) -> dict[str, str]:
    """The largest uniform scheme that the budget holds."""
    plans = [uniform(units, family) for family in ("int4", "int8")]
    return max((p for p in plans if p.bytes_of(units) <= budget), key=lambda p: p.bytes_of(units)).formats


def repaired(units: list[Unit], plan: dict[str, str], budget: int, rng: random.Random) -> dict[str, str]:
    """Units downgraded at random until the budget holds: generous to searches that ignore it."""
    plan, order = dict(plan), list(units)
    rng.shuffle(order)
    used = sum(u.bytes_as(plan[u.name]) for u in units)
    for unit in order:
        if used <= budget:
            break
        least = min(unit.options, key=unit.bytes_as)
        used += unit.bytes_as(least) - unit.bytes_as(plan[unit.name])
        plan[unit.name] = least
    return plan


def raw_search(bench: Bench, budget: int, kind: str) -> dict[str, str]:
    """A categorical per unit, measured KL on the search split as objective."""
    rng, count = random.Random(1), bench.options.trials
    sampler: optuna.samplers.BaseSampler = {
        "random": lambda: optuna.samplers.RandomSampler(seed=1),
        "tpe": lambda: optuna.samplers.TPESampler(seed=1, multivariate=True, n_startup_trials=count // 3),
        "nsga": lambda: optuna.samplers.NSGAIISampler(seed=1, population_size=max(4, count // 4)),
    }[kind]()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    best: tuple[float, dict[str, str]] | None = None
    for _ in range(count):
        trial = study.ask()
        plan = {u.name: str(trial.suggest_categorical(u.name, list(u.options))) for u in bench.units}
        plan = repaired(bench.units, plan, budget, rng)
        kl = bench.setup.search.quality(plan).kl
        study.tell(trial, kl)
        if best is None or kl < best[0]:
            best = kl, plan
    assert best is not None
    return best[1]


def cold(bench: Bench, bits: list[float]) -> dict[float, tuple[dict[str, str], float]]:
    """Plans and processor seconds from nothing (no cache, the model not loaded) until the plan is there, by
    what `--sensitivity quick` does."""
    settings = bench.settings.model_copy(update={"sensitivity": "quick", "trials": 0})
    with tempfile.TemporaryDirectory(dir=bench.out) as empty:
        start = time.process_time()
        setup = Setup(
            bench.spec.model_copy(update={"settings": settings, "cache_dir": Path(empty)}), bench.emit
        )
        reporter = Reporter(setup, score(setup, bench.emit), bench.emit)
        return {
            b: (reporter.exact(G2DY2, bench.bytes_for(b)).formats, time.process_time() - start) for b in bits
        }


def time_part(bench: Bench, rows: Rows) -> None:
    """Advisor's quickest plans and AutoScheme's, each in the seconds of a cold start of its own."""
    if any(r["part"] == "time" for r in rows.all):
        return
    made = cold(bench, bench.options.budgets)
    theirs = others.answer(bench, others.AUTOSCHEME)
    bench.variants()  # what judges the plans
    samples = f"{others.AUTOSCHEME}, {bench.options.samples} samples"
    for bits, (formats, seconds) in made.items():
        rows.add(row_of(bench, "time", "Advisor's quick scores, cold start", bits, formats, seconds))
        plan = theirs["plans"][bench.bytes_for(bits)]
        rows.add(row_of(bench, "time", samples, bits, plan, theirs["seconds"]))


def product_part(bench: Bench, rich: Bench, rows: Rows, budgets: list[float]) -> None:
    """Final checkpoints of every tool."""
    steps, samples = bench.options.recover, bench.options.calibration_samples
    ways = {
        ADVISOR: products.Way(rich, bench.options.samples),
        f"{ADVISOR}, formats of --menu alone": products.Way(bench, bench.options.samples),
        f"{ADVISOR}, {samples} calibration sequences": products.Way(rich, samples),
        f"{ADVISOR}, recovered ({steps} steps)": products.Way(
            rich, bench.options.samples, recover_steps=steps
        ),
    }
    for name, way in ways.items():
        if bench.options.only and name not in bench.options.only:
            continue
        for bits in budgets:
            if rows.has("product", name, bits):
                continue
            seconds: dict[str, float] = {}
            table = way.bench.table()
            with way.bench.timed(seconds, name):
                formats = searched(way.bench, table, way.bench.bytes_for(bits))
            made = products.ours(way, formats, bits)
            texts = products.qualities(made["texts"])
            row = row_of(way.bench, "product", name, bits, formats, seconds[name] + made["seconds"], texts)
            rows.add(row)
    for tool in products.TOOLS:
        if all(rows.has("product", tool, b) for b in budgets) or tool in bench.options.skip:
            continue
        for bits, made in products.peer(bench, tool, budgets).items():
            texts = products.qualities(made["texts"])
            rows.add(row_of(bench, "product", tool, bits, made["formats"], made["seconds"], texts))


def row_of(
    bench: Bench,
    part: str,
    name: str,
    bits: float,
    formats: dict[str, str],
    seconds: float,
    texts: dict[str, dict] | None = None,
) -> dict[str, object]:
    """A finished row; quality is that of the shared weights unless it was measured elsewhere."""
    plan = PrecisionPlan(formats=formats, label=name)
    if texts is None:
        texts = {t: q.model_dump(mode="json") for t, q in bench.judge(formats).items()}
    return {
        "part": part,
        "allocator": name,
        "budget": bits,
        "bits": plan.bits_per_weight(bench.units),
        "seconds": seconds,
        "counts": dict(plan.counts()),
        "formats": formats,
        "texts": texts,
    }


class Rows:
    """Finished rows, on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has(self, part: str, name: str, bits: float) -> bool:
        """Whether that row is there."""
        return any((r["part"], r["allocator"], r["budget"]) == (part, name, bits) for r in self.all)

    def add(self, row: dict[str, object]) -> None:
        """Keep and show a row."""
        self.all.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        bits, kl = f"{row['bits']:.3f} bits", f"KL {pooled(row).mean():.4g}"
        print(f"{row['budget']:4} {row['allocator']:44} {bits}  {kl}", flush=True)


def fill(bench: Bench, part: str, makers: Callable[..., Makers], budgets: list[float], rows: Rows) -> None:
    """Make and measure what is missing of a part."""
    table = bench.table()
    for bits in budgets:
        for name, make in makers(bench, table, bits).items():
            if rows.has(part, name, bits) or (bench.options.only and name not in bench.options.only):
                continue
            seconds: dict[str, float] = {}
            with bench.timed(seconds, name):
                plan = PrecisionPlan(formats=make(), label=name)
            assert plan.bytes_of(bench.units) <= bench.bytes_for(bits), name
            if name in others.NOTES:
                seconds[name] = others.answer(bench, name)["seconds"]
            rows.add(row_of(bench, part, name, bits, plan.formats, seconds[name]))


def pooled(row: dict) -> np.ndarray:
    """KL of every held-out sequence, all texts together."""
    return np.concatenate([np.array(q["sequence_kl"]) for q in row["texts"].values()])


TITLES = {
    ("allocation", "raw", "limit"): "Allocation alone: the same quantized weights for everyone",
    ("time",): "The first plan from a cold start",
    ("ablation",): "Advisor's parts one by one",
    ("product",): "Final checkpoints, each tool by its own best method",
}


def report(rows: list[dict], out: Path) -> str:
    """table.md and front.html."""
    text = ""
    for parts, title in TITLES.items():
        here = [r for r in rows if r["part"] in parts]
        if "ablation" in parts and here:
            budgets = {r["budget"] for r in here}
            here += [r for r in rows if r["part"] == "allocation" and r["allocator"] == ADVISOR and
                     r["budget"] in budgets]  # fmt: skip
        if here:
            text += f"### {title}\n\n{table_of(here)}\n"
    engine = out / "engine.md"
    if engine.exists():
        text += f"### Final checkpoints in vLLM\n\n{engine.read_text()}"
    (out / "table.md").write_text(text)
    draw([r for r in rows if r["part"] in ("allocation", "raw")], out)
    return text


def table_of(rows: list[dict]) -> str:
    """One table, budget by budget, the best first."""
    lines = [
        "| budget | allocator | bits | KL | over Advisor's | minus Advisor's, 95 % | perplexity W/G/H | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for bits in sorted({r["budget"] for r in rows}):
        here = sorted((r for r in rows if r["budget"] == bits), key=lambda r: pooled(r).mean())
        mine = [r for r in here if r["allocator"].startswith(ADVISOR)]
        ours = next((r for r in mine if r["allocator"] == ADVISOR), mine[0] if mine else None)
        for row in here:
            difference = ratio = "-"
            if ours is not None and row is not ours:
                mean, low, high = paired_difference(pooled(row), pooled(ours))
                difference = f"{mean:+.2g} [{low:+.2g}, {high:+.2g}]"
                ratio = f"{pooled(row).mean() / pooled(ours).mean():.2f}"
                if row["formats"] == ours["formats"] and row["part"] != "product":
                    difference = "the same plan"
            ppl = " / ".join(f"{q['perplexity']:.2f}" for q in row["texts"].values())
            name = f"**{row['allocator']}**" if row is ours else row["allocator"]
            cells = (bits, name, f"{row['bits']:.3f}", f"{pooled(row).mean():.3g}", ratio, difference, ppl)
            lines.append(f"| {' | '.join(str(c) for c in cells)} | {row['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict], out: Path) -> None:
    """KL over bits, one line for each allocator; without plotly there are the tables alone."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        print("no front.html: plotly is not installed (pip install plotly)", file=sys.stderr)
        return

    figure = go.Figure()
    for name in dict.fromkeys(r["allocator"] for r in rows):
        mine = sorted((r for r in rows if r["allocator"] == name), key=lambda r: r["bits"])
        figure.add_scatter(x=[r["bits"] for r in mine], y=[pooled(r).mean() for r in mine], name=name)
    figure.update_layout(
        xaxis_title="bits per weight", yaxis_title="KL on held-out text", yaxis_type="log", title=out.name
    )
    figure.write_html(out / "front.html", include_plotlyjs="cdn")


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="search cache to use (default: one of its own in OUT)")
    parser.add_argument(
        "--task", default="generic", help=f"calibration text: a task, a file, or {LIKE_JUDGED} (bench.py)"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["allocation", "ablation", "raw"])
    parser.add_argument("--budgets", type=float, nargs="+", default=[4.5, 5.0, 5.5, 6.0, 7.0])
    parser.add_argument("--budgets-ablation", type=float, nargs="+", help="default: those of --budgets")
    parser.add_argument("--menu", nargs="+", default=["W4A16", "W8A8"])
    parser.add_argument("--rich", nargs="+", default=RICH, help="menu of Advisor's own product")
    parser.add_argument("--budgets-product", type=float, nargs="+", default=[4.5, 5.0, 6.0])
    parser.add_argument("--iters", type=int, default=50, help="of AutoRound's tuning, steps a block")
    parser.add_argument(
        "--recover", type=int, default=200, help="steps of Advisor's recovery in the products"
    )
    parser.add_argument(
        "--calibration-samples", type=int, default=91, help="of the product that calibrates on more text"
    )
    parser.add_argument("--skip", nargs="*", default=[], help="tools left out of the products")
    parser.add_argument("--trials", type=int, default=24, help="of Advisor's search, and of the raw searches")
    parser.add_argument("--samples", type=int, default=16, help="that calibrate the peers and the products")
    parser.add_argument(
        "--seq-len", type=int, default=256, help="tokens of a sample; no more than the model was trained on"
    )
    parser.add_argument("--held-out", type=int, default=16, help="sequences of 128 tokens of each text")
    parser.add_argument("--modelopt-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--only", nargs="*", default=[], help="names of allocators")
    parser.add_argument("--burst", type=float, default=math.inf)
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.cache = (options.cache or options.out / "cache").resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out / "results.jsonl")
    until = time.monotonic() + options.burst
    bench = Bench(options, options.menu, until)
    fewer = options.budgets_ablation or options.budgets
    try:
        for part, makers, budgets in (
            ("allocation", allocation, options.budgets),
            ("ablation", ablation, fewer),
            ("raw", raw, fewer),
            ("limit", limit, fewer),
        ):
            if part in options.parts:
                fill(bench, part, makers, budgets, rows)
        some = options.budgets_product
        if "time" in options.parts:
            time_part(bench, rows)
        if "product" in options.parts:
            product_part(bench, Bench(options, options.rich, until), rows, some)
        if "engine" in options.parts:
            (options.out / "engine.md").write_text(engine_ranking.rank(bench, rows.all, some))
    except OutOfTime:
        print("the burst is over: the same command goes on", file=sys.stderr)
        sys.exit(75)
    finally:
        print(report(rows.all, options.out))


if __name__ == "__main__":
    main()
