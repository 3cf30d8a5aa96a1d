"""Final checkpoints in vLLM: does the engine rank the plans of an `allocation` table as torch did?

The plans of Advisor, AutoScheme and the blunt rule (first and last blocks high) are written by Advisor's
own quantizer and measured by the product's validation (`tuners.validate`) on the held-out sequences of the
table.
"""

from __future__ import annotations

import others
from bench import Bench
from products import Way, quantized

from profiles.footprint.schema import ServingSpec
from tuners.plan import PrecisionPlan
from tuners.validate.measure import MeasureSpec
from tuners.validate.run import measure_checkpoint
from tuners.validate.schema import EngineMeasurement

COMPARED = ("Advisor", others.AUTOSCHEME, "first and last blocks high")


def measured(bench: Bench, checkpoint: str, name: str, *, reference: bool = False) -> EngineMeasurement:
    """One checkpoint in the engine, or the measurement of an earlier run."""
    out = bench.out / "engine" / f"{name}.json"
    if out.exists():
        return EngineMeasurement.model_validate_json(out.read_text())
    bench.clock.check()
    ids = [row for e in bench.held_out.values() for row in e.ids.tolist()]
    spec = MeasureSpec(
        checkpoint=checkpoint,
        serving=ServingSpec(max_model_len=1024, concurrency=4, kv_cache_memory_bytes=2**28),
        evaluate_ids=tuple(tuple(row) for row in ids),
        reference_path=str(bench.out / "engine" / "reference.npz"),
        is_reference=reference,
        out_path=str(out),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    return measure_checkpoint(spec, emit=lambda _: None, log_path=bench.out / "logs" / f"engine-{name}.log")


def rank(bench: Bench, rows: list[dict], budgets: list[float]) -> str:
    """Measure, and say budget by budget whether the order is the same."""
    original = measured(bench, str(bench.options.model), "original", reference=True)
    lines = [
        f"vLLM {original.engine_version}, {original.dtype}, original: perplexity {original.perplexity:.2f}",
        "",
        "| budget | plan | torch KL, unit by unit | engine KL (top 64) | engine perplexity | order |",
        "|---|---|---|---|---|---|",
    ]
    for bits in budgets:
        found = []
        for name in COMPARED:
            row = next(
                r for r in rows if (r["part"], r["allocator"], r["budget"]) == ("allocation", name, bits)
            )
            plan = PrecisionPlan(formats=row["formats"], label=name)
            made = quantized(Way(bench, bench.options.samples), plan)
            engine = measured(bench, made.checkpoint, plan.key)
            kls = [k for q in row["texts"].values() for k in q["sequence_kl"]]
            found.append((name, sum(kls) / len(kls), engine))
        torch_order = [n for n, *_ in sorted(found, key=lambda f: f[1])]
        engine_order = [n for n, *_ in sorted(found, key=lambda f: f[2].kl_to_reference or 0.0)]
        for name, kl, engine in found:
            verdict = "same" if torch_order == engine_order else f"engine: {' < '.join(engine_order)}"
            lines.append(
                f"| {bits} | {name} | {kl:.4g} | {engine.kl_to_reference:.4g} | {engine.perplexity:.2f} "
                f"| {verdict} |"
            )
    return "\n".join(lines) + "\n"
