"""Every allocator on the same model, quantized weights, byte budgets and calibration text, in one run.

    python benchmarks/allocators.py --model DIR --data DIR --out DIR [--budgets 4.5 5 5.5 6 7] [--quick]

Allocators: uniform, first and last blocks high, weight error, AutoScheme's rule, ModelOpt's rule, MLX's
rule (`rules.py` says what is re-implemented from where), the exact additive allocation of measured KL,
random search, plain TPE and NSGA-II over raw categoricals at equal evaluations, and Advisor with its parts
added one by one. Quality is measured on WikiText-2, GSM8K and HumanEval, which none of them saw;
differences to Advisor are paired over sequences with a 95 % bootstrap interval. `--rich` formats make a
further Advisor row with its own menu.

Every finished plan and measurement is kept in OUT: a stopped run goes on. `--burst` seconds end a call early.
Writes OUT/table.md, OUT/results.jsonl and OUT/front.html.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import rules
import texts
import torch

from profiles.hardware import probe_cpu
from profiles.models import read_model
from profiles.tasks import load_task
from tuners.evaluate import Evaluator, paired_difference
from tuners.events import Event
from tuners.model.calibrate import build_variants
from tuners.plan import PrecisionPlan, Unit, uniform
from tuners.search.report import Reporter
from tuners.search.schema import SearchSettings, SearchSpec
from tuners.search.scoring import score
from tuners.search.setup import Setup
from tuners.search.study import PlanSearch
from tuners.search.trials import Trials, open_storage
from tuners.sensitivity.table import FISHER, GDY2, KL, MSE, SensitivityTable
from tuners.solver import solve
from tuners.units import build_units, fixed_bytes


class OutOfTime(Exception):
    """The burst is over; what is finished is on disk."""


class Bench:
    """One model under one menu: what all allocators share."""

    def __init__(self, options: argparse.Namespace, formats: list[str], until: float) -> None:
        self.options, self.until = options, until
        model = read_model(options.model)
        self.units: list[Unit] = build_units(model, probe_cpu().device, formats=formats)
        self.settings = SearchSettings(
            trials=options.trials,
            sensitivity="exact",
            search_sequences=options.sequences,
            select_sequences=options.sequences,
            evaluate_sequences=4,
            sensitivity_sequences=max(4, options.sequences // 2),
            front_points=2,
        )
        self.spec = SearchSpec(
            run_dir=options.out,
            model_path=Path(options.model),
            units=tuple(self.units),
            fixed_bytes=fixed_bytes(model, self.units),
            budget_bytes=0,
            task=load_task("generic"),
            settings=self.settings,
            cache_dir=options.out / "cache",
        )
        self.setup = Setup(self.spec, self.emit)
        self.host, self.store = self.setup.host, self.setup.store
        self.seconds: dict[str, float] = {}
        held = texts.evaluation(options.data)
        self.held_out = {
            name: Evaluator(
                self.host,
                self.store,
                self.host.tokenise(
                    random.Random(0).sample(items, len(items)), seq_len=128, max_sequences=options.held_out
                ),
                self.setup.cache / "reference",
                name,
            )
            for name, items in held.items()
        }
        self._rule_scores: dict[str, rules.Scores] = {}

    def emit(self, _event: Event) -> None:
        """Stop between steps when the burst is over."""
        if time.monotonic() > self.until:
            raise OutOfTime

    def bytes_for(self, bits: float) -> int:
        """A budget in bytes over the units."""
        return int(bits * sum(u.numel for u in self.units) / 8)

    def table(self) -> SensitivityTable:
        """Variants and sensitivities, timed once."""
        mark = self.setup.cache / "seconds.json"
        start = time.monotonic()
        build_variants(self.host, self.store, self.setup.calibration, emit=self.emit)
        known = self.setup.load_table()
        found = known or score(self.setup, self.emit)
        if known is None:
            mark.write_text(json.dumps({"all": time.monotonic() - start}))
        return found

    def rule(self, name: str, make: Callable[[], rules.Scores]) -> rules.Scores:
        """Scores of another tool's rule, made once and kept with their wall time."""
        path = self.setup.cache / f"rule-{name}-{len(self.units)}.json"
        if name not in self._rule_scores:
            if not path.exists():
                start = time.monotonic()
                path.write_text(json.dumps({"scores": make(), "seconds": 0}))
                data = json.loads(path.read_text())
                data["seconds"] = time.monotonic() - start
                path.write_text(json.dumps(data))
            data = json.loads(path.read_text())
            self._rule_scores[name], self.seconds[name] = data["scores"], data["seconds"]
        return self._rule_scores[name]

    def order(self) -> list[str]:
        """MLX's order of the units."""
        path = self.setup.cache / "order-mlx.json"
        if not path.exists():
            start = time.monotonic()
            ids = self.setup.search.ids
            reference = torch.from_numpy(np.array(self.setup.search.reference()))
            found = rules.mlx_order(self.host, self.store, ids, reference, "int4", "int8")
            path.write_text(json.dumps({"order": found, "seconds": time.monotonic() - start}))
        data = json.loads(path.read_text())
        self.seconds["mlx"] = data["seconds"]
        return list(data["order"])


def allocators(bench: Bench, table: SensitivityTable, bits: float) -> dict[str, Callable[[], dict[str, str]]]:
    """Name to the function that makes the plan at the budget."""
    budget, units = bench.bytes_for(bits), bench.units
    ids = bench.setup.search.ids

    def exact(scores: rules.Scores) -> dict[str, str]:
        return solve(units, scores, budget)

    def without_16_bit(scores: rules.Scores) -> dict[str, str]:
        fewer = [u.model_copy(update={"options": tuple(o for o in u.options if o != "BF16")}) for u in units]
        return solve(fewer, scores, budget)

    out: dict[str, Callable[[], dict[str, str]]] = {
        "uniform": lambda: largest_uniform(units, budget),
        "first and last blocks high": lambda: rules.first_last(units, "int4", "int8", budget),
        "weight error": lambda: exact(table.scores(MSE)),
        "AutoScheme's rule": lambda: without_16_bit(
            bench.rule("autoscheme", lambda: rules.autoscheme(bench.host, bench.store, ids))
        ),
        "ModelOpt's rule": lambda: exact(
            bench.rule("modelopt", lambda: rules.modelopt(bench.host, bench.store, ids))
        ),
        "MLX's rule": lambda: rules.upgrade_in_order(units, bench.order(), "int4", "int8", budget),
        "random search": lambda: raw_search(bench, budget, "random"),
        "TPE, raw categoricals": lambda: raw_search(bench, budget, "tpe"),
        "NSGA-II, raw categoricals": lambda: raw_search(bench, budget, "nsga"),
        "exact additive, measured KL": lambda: exact(table.scores(KL)),
        "exact additive, Fisher probes": lambda: exact(table.scores(FISHER)),
        "exact additive, (g.dy)^2": lambda: exact(table.scores(GDY2)),
    }
    out |= advisor_rows(bench, table, budget)
    return out


ADVISOR = "Advisor"


def advisor_rows(
    bench: Bench, table: SensitivityTable, budget: int
) -> dict[str, Callable[[], dict[str, str]]]:
    """Advisor with its parts added one by one; the last row is the whole."""

    def searched(**changes: object) -> dict[str, str]:
        settings = bench.settings.model_copy(update=changes)
        bench.setup.settings = settings
        spec = bench.spec.model_copy(update={"budget_bytes": budget, "settings": settings})
        bench.setup.spec = spec
        name = f"{bench.setup.study_name(table)}-{settings.trials}"
        trials = Trials(bench.units, bench.setup.search, settings, bench.emit)
        search = PlanSearch(
            bench.units, table, trials, budget, open_storage(None, bench.options.out), settings, bench.emit,
            name=name,
        )  # fmt: skip
        search.run()
        return Reporter(bench.setup, table, bench.emit).choose(search).plan.formats

    never, whole = {"correct_every": 10_000}, bench.options.trials
    return {
        "Advisor: choice among signals": lambda: searched(**never, trials=4, contested_share=0.0),
        "Advisor: + prices": lambda: searched(**never, contested_share=0.0),
        "Advisor: + contested units": lambda: searched(**never, trials=whole),
        ADVISOR: lambda: searched(trials=whole),
    }


def largest_uniform(units: list[Unit], budget: int) -> dict[str, str]:
    """The largest uniform scheme that the budget holds."""
    plans = [uniform(units, family) for family in ("int4", "int8", "fp8")]
    fitting = [p for p in plans if p.bytes_of(units) <= budget]
    return max(fitting, key=lambda p: p.bytes_of(units)).formats


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
    """A categorical per unit, measured KL on the search split as objective, at equal evaluations."""
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


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """All rows, from disk where they are there."""
    path = options.out / "results.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(r["allocator"], r["budget"]) for r in rows}
    until = time.monotonic() + options.burst
    for menu, rich in ((options.menu, False), (options.rich, True)):
        if not menu:
            continue
        bench = Bench(options, menu, until)
        table = bench.table()
        for bits in options.budgets:
            todo = (
                {"Advisor, richer menu": advisor_rows(bench, table, bench.bytes_for(bits))[ADVISOR]}
                if rich
                else allocators(bench, table, bits)
            )
            for name, make in todo.items():
                if (name, bits) in known or (options.only and name not in options.only):
                    continue
                bench.emit(None)  # type: ignore[arg-type]
                start = time.monotonic()
                plan = PrecisionPlan(formats=make(), label=name)
                row: dict[str, object] = {
                    "allocator": name,
                    "budget": bits,
                    "bits": plan.bits_per_weight(bench.units),
                    "seconds": time.monotonic() - start,
                    "formats": dict(plan.counts()),
                    "texts": {
                        text: evaluator.quality(plan.formats).model_dump(mode="json")
                        for text, evaluator in bench.held_out.items()
                    },
                }
                rows.append(row)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{bits:4} {name:34} {row['bits']:.3f} bits  KL {pooled(row).mean():.4g}", flush=True)
    return rows


def pooled(row: dict) -> np.ndarray:
    """KL of every held-out sequence, all texts together."""
    return np.concatenate([np.array(q["sequence_kl"]) for q in row["texts"].values()])


def report(rows: list[dict], out: Path) -> None:
    """table.md and front.html."""
    lines = ["| budget | allocator | bits | KL | minus Advisor, 95 % interval | perplexity W/G/H | s |"]
    lines.append("|---|---|---|---|---|---|---|")
    for bits in sorted({r["budget"] for r in rows}):
        here = [r for r in rows if r["budget"] == bits]
        ours = next((r for r in here if r["allocator"] == ADVISOR), None)
        for row in here:
            difference = "-"
            if ours is not None and row is not ours:
                mean, low, high = paired_difference(pooled(row), pooled(ours))
                difference = f"{mean:+.3g} [{low:+.3g}, {high:+.3g}]"
            ppl = " / ".join(f"{q['perplexity']:.2f}" for q in row["texts"].values())
            cells = (
                bits,
                row["allocator"],
                f"{row['bits']:.3f}",
                f"{pooled(row).mean():.3g}",
                difference,
                ppl,
            )
            lines.append(f"| {' | '.join(str(c) for c in cells)} | {row['seconds']:.0f} |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    import plotly.graph_objects as go

    figure = go.Figure()
    for name in dict.fromkeys(r["allocator"] for r in rows):
        mine = sorted((r for r in rows if r["allocator"] == name), key=lambda r: r["bits"])
        figure.add_scatter(x=[r["bits"] for r in mine], y=[pooled(r).mean() for r in mine], name=name)
    figure.update_layout(
        xaxis_title="bits per weight", yaxis_title="held-out KL", yaxis_type="log", title=out.name
    )
    figure.write_html(out / "front.html")


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", type=float, nargs="+", default=[4.5, 5.0, 5.5, 6.0, 7.0])
    parser.add_argument("--menu", nargs="+", default=["W4A16", "W8A8"])
    parser.add_argument("--rich", nargs="*", default=[])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=16)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--burst", type=float, default=math.inf)
    parser.add_argument("--quick", action="store_true", help="8 trials, 8 sequences, 8 held-out ones a text")
    options = parser.parse_args()
    options.out = options.out.resolve()
    if options.quick:
        options.trials, options.sequences, options.held_out = 8, 8, 8
    try:
        rows = run(options)
    except OutOfTime:
        print("the burst is over: the same command goes on", file=sys.stderr)
        sys.exit(75)
    report(rows, options.out)


if __name__ == "__main__":
    main()
