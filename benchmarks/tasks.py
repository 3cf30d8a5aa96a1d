"""A plan made for a task against the plan made for generic text, at equal bytes, on held-out items.

    python benchmarks/tasks.py MODEL_DIR [--tasks code,math,...] [--bits 5,6] [--out tasks.json]

Profiles (`tuners/sensitivity/tasks.py`) are cached: a stopped run goes on where it was. For every task it
measures, on the held-out split that nothing has seen: KL and top-1 agreement of the plan that the exact
solver makes of the task's own profile, of the plan made of the generic profile, and of the one of the two
that has the lower KL on the selection split. The menu is INT4 and INT8 per unit, variants are calibrated on
generic text for all. Differences are paired over sequences, 95 % bootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from tuners.child import CHILD_ENV

os.environ.update({**CHILD_ENV, **os.environ})  # before torch is imported: waiting threads sleep

import numpy as np

from advisor.cli.sensitivity import make_spec
from profiles.hardware import probe_cpu
from profiles.models import read_model
from profiles.tasks import load_task
from profiles.tasks.schema import SplitName
from tuners.evaluate import paired_difference
from tuners.evaluate_schema import SequenceLoss
from tuners.events import Event, Message
from tuners.model.items import Sequences
from tuners.plan import PrecisionPlan
from tuners.sensitivity.bench import Bench
from tuners.sensitivity.stopping import rank_correlation
from tuners.sensitivity.task_schema import ProfileSettings, TaskSensitivity
from tuners.sensitivity.tasks import profile
from tuners.solver import solve
from tuners.units import build_units

HELD_OUT_TOKENS = 3072
"""Tokens of held-out items measured for each task, prompts included."""


def say(event: Event) -> None:
    """Messages, with the time."""
    if isinstance(event, Message):
        print(f"  {time.strftime('%H:%M:%S')} {event.text}", flush=True)


def scores(found: TaskSensitivity) -> dict[str, dict[str, float]]:
    """unit -> format -> KL."""
    out: dict[str, dict[str, float]] = {}
    for cell in found.units:
        out.setdefault(cell.unit, {})[cell.format] = max(cell.kl, 1e-12)
    return out


def measure(bench: Bench, text: Sequences, plans: dict[str, dict[str, str]]) -> dict[str, list[SequenceLoss]]:
    """Losses of each plan on every sequence."""
    out: dict[str, list[SequenceLoss]] = {name: [] for name in plans}
    for start in range(0, len(text), 4):
        rows = slice(start, start + 4)
        chunk = Sequences(text.ids[rows], None if text.weights is None else text.weights[rows])
        reference = bench.reference(chunk)
        for name, plan in plans.items():
            out[name] += bench.losses(chunk, reference, plan)
    return out


def main() -> None:
    """Profile, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tasks", default="code,math,tool-calling,translation,summarization,reasoning")
    parser.add_argument("--bits", default="5,6")
    parser.add_argument("--out", type=Path, default=Path("tasks.json"))
    options = parser.parse_args()
    model = read_model(options.model)
    units = tuple(build_units(model, probe_cpu().device, formats=("W4A16", "W8A8")))
    weights = sum(u.numel for u in units)
    names = ["generic", *options.tasks.split(",")]
    tasks = {name: load_task(name) for name in names}
    spec = make_spec(
        model, units, tuple(tasks.values()), "5bits", exact=False, trust_remote_code=False
    ).model_copy(update={"settings": ProfileSettings(most_chunks=4, most_scored=0, exact_cells=0)})
    bench = Bench(spec, say)
    profiles = {"generic": profile(bench, tasks["generic"])}
    rows = []
    lowest = {u.name: min(u.options, key=u.bytes_as) for u in units}
    generic = scores(profiles["generic"])
    for name in names[1:]:
        profiles[name] = profile(bench, tasks[name])
        own = scores(profiles[name])
        rank = rank_correlation(
            [own[u][f] for u, f in lowest.items()], [generic[u][f] for u, f in lowest.items()]
        )
        texts: dict[SplitName, Sequences] = {
            split: bench.sequences(tasks[name], split, max(8, HELD_OUT_TOKENS // tasks[name].seq_len))
            for split in ("select", "evaluate")
        }
        plans: dict[str, dict[str, str]] = {}
        for bits in map(float, options.bits.split(",")):
            budget = int(bits * weights / 8)
            plans[f"task {bits:g}"] = solve(units, own, budget)
            plans[f"generic {bits:g}"] = solve(units, generic, budget)
        chosen, held = (measure(bench, texts[split], plans) for split in ("select", "evaluate"))
        for bits in map(float, options.bits.split(",")):
            pair = {p: f"{p} {bits:g}" for p in ("task", "generic")}
            pick = min(pair, key=lambda p: float(np.mean([x.kl for x in chosen[pair[p]]])))
            kl = {p: [x.kl for x in held[key]] for p, key in pair.items()}
            top1 = {p: float(np.mean([x.top1 for x in held[key]])) for p, key in pair.items()}
            differ = PrecisionPlan(formats=plans[pair["task"]]).diff(
                PrecisionPlan(formats=plans[pair["generic"]])
            )
            difference, low, high = paired_difference(kl["task"], kl["generic"])
            picked, picked_low, picked_high = paired_difference(kl[pick], kl["generic"])
            rows.append(
                {
                    "task": name,
                    "bits": bits,
                    "rank_correlation_with_generic": rank,
                    "units_that_differ": len(differ),
                    "sequences": len(texts["evaluate"]),
                    "kl_task_plan": float(np.mean(kl["task"])),
                    "kl_generic_plan": float(np.mean(kl["generic"])),
                    "difference": [difference, low, high],
                    "picked_on_selection": pick,
                    "picked_difference": [picked, picked_low, picked_high],
                    "top1_task_plan": top1["task"],
                    "top1_generic_plan": top1["generic"],
                }
            )
            options.out.write_text(
                json.dumps({"rows": rows, "profiles": {n: brief(p) for n, p in profiles.items()}}, indent=1)
            )
            print(line(rows[-1]), flush=True)
    for name, found in profiles.items():
        stop = found.stopped
        print(f"{name}: {found.seconds:.0f} s, {stop.sequences} sequences, {stop.tokens} tokens: {stop.why}")


def brief(found: TaskSensitivity) -> dict[str, object]:
    """A profile without its units."""
    return found.model_dump(mode="json", exclude={"units", "plan"})


def line(row: dict[str, object]) -> str:
    """One row of the table."""
    difference, low, high = row["difference"]  # type: ignore[misc]
    picked, picked_low, picked_high = row["picked_difference"]  # type: ignore[misc]
    return (
        f"{row['task']:14} {row['bits']:>4} bits  task plan {row['kl_task_plan']:.4f}  "
        f"generic plan {row['kl_generic_plan']:.4f}  difference {difference:+.4f} [{low:+.4f}, {high:+.4f}]  "
        f"picked {row['picked_on_selection']}: {picked:+.4f} [{picked_low:+.4f}, {picked_high:+.4f}]  "
        f"rank {row['rank_correlation_with_generic']:.2f}  {row['units_that_differ']} units differ"
    )


if __name__ == "__main__":
    main()
