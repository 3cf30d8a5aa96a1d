"""How much text GPTQ wants: the written checkpoint's KL by the number of calibration sequences.

    python benchmarks/calibration.py --model DIR --data DIR --out DIR [--samples 16 32 91] [--held-out 16]

One checkpoint for each number, by the product's own quantizer with its defaults: sequences of 256 tokens of
the generic task's search split, and beyond its end those that the original model writes
(`tuners/model/written.py`). Two plans: INT4 everywhere, and INT4 and INT8 unit by unit in turn. Judged in
torch on sequences of WikiText-2, GSM8K and HumanEval, which nothing was calibrated on.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from statistics import fmean

import products
from bench import Bench

from tuners.child import run_child
from tuners.plan import PrecisionPlan
from tuners.quantize.schema import QuantizeResult, QuantizeSpec


def plans(bench: Bench) -> dict[str, dict[str, str]]:
    """Formats by unit."""
    turns = ("int4", "int8")
    return {
        "INT4": {u.name: bench.family(u, "int4") for u in bench.units},
        "INT4 and INT8 in turn": {u.name: bench.family(u, turns[i % 2]) for i, u in enumerate(bench.units)},
    }


def checkpoint(bench: Bench, formats: dict[str, str], samples: int, seed: int) -> QuantizeResult:
    """The product's quantizer in its child."""
    spec = QuantizeSpec(
        model_path=bench.options.model,
        units=tuple(bench.units),
        plan=PrecisionPlan(formats=formats),
        out_dir=str(bench.out / "checkpoint"),
        calibration_texts=bench.spec.task.splits.search,
        num_samples=samples,
        seed=seed,
        overwrite=True,
    )
    found = run_child(
        "tuners.quantize.job",
        spec,
        emit=lambda _: None,
        log_path=bench.out / "quantize.log",
        stage="quantize",
    )
    return QuantizeResult.model_validate(found)


def judged(bench: Bench, made: QuantizeResult) -> dict[str, float]:
    """KL by text."""
    answer = bench.out / "answer.json"
    asked = {"checkpoint": made.checkpoint, "held_out": products.held_out(bench), "out": str(answer)}
    products.child(sys.executable, "checkpoint_child.py", asked, bench.out / "judge.log")
    texts = products.qualities(json.loads(answer.read_text())["texts"])
    answer.unlink()
    return {name: quality["kl"] for name, quality in texts.items()}


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 32, 91])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--held-out", type=int, default=16, help="sequences of 128 tokens of each text")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    options.cache, options.task, options.trials = options.out / "cache", "generic", 1
    bench = Bench(options, ["W4A16", "W8A8"], math.inf)
    print("| plan | sequences | seed | tokens | KL | W/G/H | s |\n|---|---|---|---|---|---|---|", flush=True)
    for name, formats in plans(bench).items():
        for samples in options.samples:
            for seed in options.seeds:
                before = products.children_s()
                made = checkpoint(bench, formats, samples, seed)
                seconds = products.children_s() - before
                kl = judged(bench, made)
                shutil.rmtree(made.checkpoint)
                words = " / ".join(f"{x:.3g}" for x in kl.values())
                print(
                    f"| {name} | {samples} | {seed} | {made.calibration_tokens} | {fmean(kl.values()):.3g} "
                    f"| {words} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
