"""A plan made for a task against the plan made for generic text, at equal bytes, on held-out items.

    python benchmarks/tasks.py MODEL_DIR [--tasks code,math,...] [--bits 5,6] [--out FOLDER]

Profiles (`tuners/sensitivity/tasks.py`) are cached: a stopped run goes on where it was. For every task it
measures, on the held-out split that nothing has seen: KL and top-1 agreement of the plan that the exact
solver makes of the task's own profile, and of the plan made of the generic profile. The menu is INT4 and
INT8 per unit, variants are calibrated on generic text for all, so that only the choice of formats differs.
Losses are means over the counted tokens, differences are paired over sequences (95 % bootstrap). Writes
FOLDER/tasks.json and FOLDER/tasks.md; rows of other tasks that are there already stay.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from tuners.child import CHILD_ENV

os.environ.update({**CHILD_ENV, **os.environ})  # before torch is imported: waiting threads sleep

import torch

from advisor.cli.sensitivity import make_spec
from profiles.hardware import probe_cpu
from profiles.models import read_model
from profiles.tasks import load_task
from tuners.evaluate import paired_difference
from tuners.evaluate_schema import Quality, SequenceLoss
from tuners.events import Event, Message
from tuners.model import versions
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
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
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
    rows, briefs = earlier(options.out, names)
    briefs["generic"] = brief(profiles["generic"])
    lowest = {u.name: min(u.options, key=u.bytes_as) for u in units}
    generic = scores(profiles["generic"])
    for name in names[1:]:
        profiles[name] = profile(bench, tasks[name])
        own = scores(profiles[name])
        rank = rank_correlation(
            [own[u][f] for u, f in lowest.items()], [generic[u][f] for u, f in lowest.items()]
        )
        text = bench.sequences(tasks[name], "evaluate", max(8, HELD_OUT_TOKENS // tasks[name].seq_len))
        plans: dict[str, dict[str, str]] = {}
        for bits in map(float, options.bits.split(",")):
            budget = int(bits * weights / 8)
            plans[f"task {bits:g}"] = solve(units, own, budget)
            plans[f"generic {bits:g}"] = solve(units, generic, budget)
        held = {n: Quality.of("evaluate", found) for n, found in measure(bench, text, plans).items()}
        for bits in map(float, options.bits.split(",")):
            pair = {p: f"{p} {bits:g}" for p in ("task", "generic")}
            own_plan, base = (held[pair[p]] for p in ("task", "generic"))
            differ = PrecisionPlan(formats=plans[pair["task"]]).diff(
                PrecisionPlan(formats=plans[pair["generic"]])
            )
            rows.append(
                {
                    "task": name,
                    "bits": bits,
                    "rank_correlation_with_generic": rank,
                    "units_that_differ": len(differ),
                    "sequences": len(text),
                    "tokens": base.tokens,
                    "kl_task_plan": own_plan.kl,
                    "kl_generic_plan": base.kl,
                    "difference": against(own_plan, base),
                    "top1_task_plan": own_plan.top1,
                    "top1_generic_plan": base.top1,
                    "sequence_kl_task_plan": own_plan.sequence_kl,
                    "sequence_kl_generic_plan": base.sequence_kl,
                    "sequence_tokens": base.sequence_tokens,
                }
            )
            print(markdown(rows[-1:]), flush=True)
        briefs[name] = brief(profiles[name])
        write(options.out, rows, briefs, model.model_id)


def against(plan: Quality, base: Quality) -> tuple[float, float, float]:
    """KL of a plan minus the base's, paired."""
    return paired_difference(plan.sequence_kl, base.sequence_kl, base.sequence_tokens)


def earlier(folder: Path, names: list[str]) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Rows and profiles of tasks that are not measured now."""
    path = folder / "tasks.json"
    if not path.exists():
        return [], {}
    found = json.loads(path.read_text())
    rows = [row for row in found["rows"] if row["task"] not in names]
    return rows, {n: p for n, p in found["profiles"].items() if n not in names}


def write(folder: Path, rows: list[dict[str, Any]], profiles: dict[str, dict[str, Any]], model: str) -> None:
    """tasks.json and tasks.md, whole after every task."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tasks.json").write_text(json.dumps({"rows": rows, "profiles": profiles}) + "\n")
    lines = [
        "# A plan tuned for the task against a plan tuned for generic text, at equal bytes",
        "",
        f"`python benchmarks/tasks.py` on {model}, held-out items, PyTorch on the CPU. Loss: KL to the",
        "original in nats per counted token; same bytes for both plans, of INT4 and INT8. Variants of",
        f"version {versions.VARIANTS} (tuners/model/versions.py), torch {torch.__version__}.",
        "",
        markdown(rows),
        "",
        "| profile | counted tokens | stopped |",
        "|---|---|---|",
        *(
            f"| {n} | {p['stopped']['tokens']:,} in {p['stopped']['sequences']} sequences "
            f"| {p['stopped']['why']} |"
            for n, p in profiles.items()
        ),
    ]
    (folder / "tasks.md").write_text("\n".join(lines) + "\n")


VERDICTS = {-1: "lower", 0: "no measurable difference", 1: "HIGHER"}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| task | bits | tokens | task plan | generic plan | difference, 95 % | verdict | same top token "
        "| units that differ | rank correlation |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        mean, low, high = row["difference"]
        verdict = VERDICTS[(low > 0) - (high < 0)]
        lines.append(
            f"| {row['task']} | {row['bits']:g} | {row['tokens']:,} | {row['kl_task_plan']:.4f} "
            f"| {row['kl_generic_plan']:.4f} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] | {verdict} "
            f"| {row['top1_task_plan']:.1%} / {row['top1_generic_plan']:.1%} "
            f"| {row['units_that_differ']} | {row['rank_correlation_with_generic']:.2f} |"
        )
    return "\n".join(lines)


def brief(found: TaskSensitivity) -> dict[str, Any]:
    """A profile without its units."""
    return found.model_dump(mode="json", exclude={"units", "plan"})


if __name__ == "__main__":
    main()
