"""Predicted against measured speed, and how fast a front answers.

    python benchmarks/speed.py RUN [RUN ...]

For every run with a validation: step times of original and checkpoint in the engine, the ratio that layer
times predict, and the time of the same question to `advisor front` in this process, files read and all.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from pathlib import Path

from advisor.__main__ import run as advisor
from advisor.pipeline.latency import calibrated_now, load_latency
from advisor.workspace import Workspace
from tuners.latency.originals import speed_of
from tuners.latency.speed import Clockwork
from tuners.plan import PrecisionPlan, uniform
from tuners.validate.schema import ValidationReport

QUESTIONS = (("--budget", "5.5bits"), ("--budget", "7bits"), ("--max-ms-per-token", "1000"))


def compare(root: Path) -> None:
    """Ratios quantized / original of one run: decode alone, sixteen at once, prefill."""
    report = ValidationReport.model_validate_json((root / "validation.json").read_bytes())
    plan = PrecisionPlan.from_yaml(root / "plan.yaml")
    clock, column = calibrated_now(root), load_latency(Workspace.read_only(root))
    if clock is None or column is None:
        print(f"{root}: no latency column")
        return
    plain = Clockwork(column, clock.units, clock.experts_per_token)
    before, after = speed_of(report.original), speed_of(report.quantized)
    rows = [
        ("decode, 1", 1, before.itl_ms, after.itl_ms),
        ("decode, 16", 16, before.itl_16_ms, after.itl_16_ms),
        ("prefill", before.prompt_tokens, before.prefill_ms, after.prefill_ms),
    ]
    print(f"{root}: {dict(plan.counts())}")
    for name, tokens, original, quantized in rows:
        sixteen = plain.step_ms(uniform(plain.units, "16-bit").formats, tokens)
        alone, known = plain.step_ms(plan.formats, tokens), clock.step_ms(plan.formats, tokens)
        if original is None or quantized is None or sixteen is None or alone is None or known is None:
            continue
        print(
            f"  {name:10} original {original:8.2f} ms (predicted alone {sixteen.value:.2f} "
            f"[{sixteen.low:.2f} to {sixteen.high:.2f}]), quantized {quantized:8.2f} ms (calibrated "
            f"{known.value:.2f} [{known.low:.2f} to {known.high:.2f}]); ratio measured "
            f"{quantized / original:.3f}, predicted {known.value / original:.3f}"
        )


def answers(root: Path, repeats: int = 20) -> None:
    """Milliseconds of an answer in a process that is already running."""
    for question in QUESTIONS:
        times = []
        for _ in range(repeats):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                start = time.perf_counter()
                advisor(["front", "--run", str(root), *question, "--json"])
                times.append(1e3 * (time.perf_counter() - start))
        print(f"  front {' '.join(question)}: {statistics.median(times):.1f} ms, first {times[0]:.1f} ms")


def main() -> None:
    """Every run that was given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    for root in parser.parse_args().runs:
        if (root / "validation.json").exists():
            compare(root)
        answers(root)


if __name__ == "__main__":
    main()
