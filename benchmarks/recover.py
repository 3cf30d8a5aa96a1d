"""Recovery of the demo model's checkpoints: held-out KL before and after, and wall time.

    python benchmarks/recover.py MODEL_DIR --out DIR [--data DIR] [--steps 200] [--bits 4.25 5]
        [--sensitivity TABLE.json]

At 4.25 bits the plan is uniform INT4 (groups of 64), above it the exact plan for the measured sensitivities
of TABLE (`sensitivity-*.json` of a search's cache). Text, measure and interval are those of
`benchmarks/methods.py`; training sees the task's search split alone. Measurements are added to
DIR/recover.jsonl.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from checkpoints import Bench, parser_of

from tuners.evaluate import paired_difference
from tuners.plan import PrecisionPlan
from tuners.sensitivity.table import KL, SensitivityTable
from tuners.solver import solve

UNIFORM = 4.25


def main() -> None:
    """Measure each budget and print a row."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--bits", type=float, nargs="*", default=[UNIFORM, 5.0])
    parser.add_argument("--sensitivity", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench.of(options)
    for bits in options.bits:
        row = measure(bench, bits, options)
        with (options.out / "recover.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(in_words(row), flush=True)


def measure(bench: Bench, bits: float, options: argparse.Namespace) -> dict[str, Any]:
    """Held-out KL of one budget's checkpoint before and after recovery."""
    plan = plan_of(bench, bits, options.sensitivity)
    folder = options.out / f"plan-{plan.key}"
    bench.made(plan, folder, num_samples=options.samples)
    before = bench.kl(folder, plan)
    made = bench.made(plan, folder, num_samples=options.samples, recover_steps=options.steps)
    assert made.recovery is not None
    return {
        "bits": plan.bits_per_weight(bench.units),
        "plan": plan.counts(),
        "result": made.recovery.model_dump(),
        "peak_rss_bytes": made.peak_rss_bytes,
        "before": before,
        "after": bench.kl(folder, plan),
    }


def plan_of(bench: Bench, bits: float, sensitivity: Path | None) -> PrecisionPlan:
    """Uniform INT4 at its own bits, the exact plan of the measured table above."""
    if bits == UNIFORM:
        return PrecisionPlan(formats={u.name: "W4A16_G64" for u in bench.units})
    if sensitivity is None:
        raise SystemExit("--sensitivity TABLE.json is needed for a mixed plan")
    scores = SensitivityTable.model_validate_json(sensitivity.read_text()).scores(KL)
    budget = int(bits * sum(u.numel for u in bench.units) / 8)
    return PrecisionPlan(formats=solve(bench.units, scores, budget))


def in_words(row: dict[str, Any]) -> str:
    """One Markdown row."""
    cells = [f"{row['bits']:.2f}", str(row["result"]["steps"])]
    for text in row["before"]:
        before, after = row["before"][text], row["after"][text]
        mean, low, high = paired_difference(after, before)
        was = sum(before) / len(before)
        cells.append(f"{was:.5f} -> {sum(after) / len(after):.5f} ({mean / was:+.1%})")
        cells.append(f"{mean:+.5f} [{low:+.5f}, {high:+.5f}]")
    cells += [f"{row['result']['flipped']:.2%}", f"{row['result']['seconds']:.0f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
