"""The figures of a report, each with how it is known and the file or law that it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from advisor.cli.output import shown
from advisor.report.schema import Known
from profiles.provenance import Provenance
from profiles.sizes import size
from tuners.nats import nats

if TYPE_CHECKING:
    from advisor.pipeline.facts import Facts
    from advisor.pipeline.inputs import RunInputs
    from profiles.footprint.schema import Footprint
    from tuners.plan import PrecisionPlan
    from tuners.search.schema import SearchResult
    from tuners.validate.schema import ValidationReport

BOOT_LOG = (
    ("weights", "weights in the engine, per rank"),
    ("activation", "activation peak"),
    ("non_torch", "non-torch memory"),
    ("cuda_graph", "CUDA graphs"),
    ("kv_bytes", "KV cache"),
    ("kv_bytes_per_token", "KV cache per token"),
    ("kv_tokens", "KV tokens"),
    ("max_concurrency", "concurrency at the context"),
    ("decode_tokens_s", "decode, one request"),
    ("ttft_ms", "TTFT"),
    ("itl_ms", "ITL"),
)
"""Lines of the predicted boot log that a report repeats."""


def figures(
    facts: Facts,
    inputs: RunInputs,
    plan: PrecisionPlan | None,
    found: SearchResult | None,
    checked: ValidationReport | None,
) -> Iterator[Known]:
    """All figures, from the strongest (arithmetic) to the predicted boot log of the plan."""
    yield _exact("parameters", f"{facts.model.num_parameters:,}", "safetensors headers (model.json)")
    yield _exact(
        "original checkpoint", size(sum(t.nbytes for t in facts.model.tensors)), "tensor shapes and dtypes"
    )
    yield _exact("decision units", str(len(facts.units)), "what the engine fuses (units.json)")
    yield _exact("bytes that no plan changes", size(facts.fixed_bytes), "embeddings, norms (model.json)")
    if plan is not None and plan.formats.keys() >= {u.name for u in facts.units}:
        yield _exact(
            "checkpoint under the plan", size(plan.bytes_of(facts.units) + facts.fixed_bytes), "plan.yaml"
        )
        yield _exact(
            "bits per quantizable weight",
            f"{plan.bits_per_weight(facts.units):.3f}",
            "plan.yaml, scales included",
        )
    yield from _searched(found)
    yield from _validated(checked)
    if plan is not None:
        yield from _boot_log(facts, inputs, plan)


def _searched(found: SearchResult | None) -> Iterator[Known]:
    if found is None:
        return
    best = found.held_out[0]
    where = f"search.json: held-out text, {best.quality.tokens:,} tokens, PyTorch"
    yield _exact("budget for the checkpoint", size(found.budget_bytes + found.fixed_bytes), "budget.json")
    yield _measured("perplexity of the original", f"{found.perplexity_original:.3f}", where)
    yield _measured("perplexity of the plan", f"{best.quality.perplexity:.3f}", where)
    yield _measured("KL to the original, nats per token", nats(best.quality.kl), where)
    yield _measured("same top token", f"{best.quality.top1:.1%}", where)
    if best.speed is not None:
        for words, figure in (
            ("ms per token, one request", best.speed.decode_ms),
            ("ms per token, sixteen at once", best.speed.decode_16_ms),
            ("ms per 1,000 prompt tokens", best.speed.prefill_ms_per_1k),
        ):
            yield Known(
                name=f"predicted from layers: {words}", value=shown(figure), provenance=figure.provenance,
                source=f"latency.json: {figure.source}; = {figure.formula}",
            )  # fmt: skip
    counts = f"{found.trials} ({found.trials_measured} distinct plans, {found.trials_pruned} pruned)"
    yield _exact("trials", counts, "study.db")


def _validated(checked: ValidationReport | None) -> Iterator[Known]:
    if checked is None:
        return
    ran, before = checked.quantized, checked.original
    where = f"validation.json: vLLM {ran.engine_version}, {ran.dtype}"
    yield _measured(
        "perplexity ratio in the engine", f"{ran.perplexity / before.perplexity:.4f}",
        f"{where}, {ran.eval_tokens:,} held-out tokens",
    )  # fmt: skip
    task = checked.task
    if task is not None:
        low, high = task.quantized_interval
        yield _measured(
            "score on the task's items", f"{task.quantized:.1%} ({low:.1%} to {high:.1%})",
            f"{where}, {task.items} held-out items, {', '.join(task.scorers)}, 95 % interval; the original "
            f"{task.original:.1%}",
        )  # fmt: skip
    yield _measured("load time of the checkpoint", f"{ran.load_seconds:.1f} s", where)
    yield _measured("peak memory of the engine's process", size(ran.peak_rss_bytes), where)


def _boot_log(facts: Facts, inputs: RunInputs, plan: PrecisionPlan) -> Iterator[Known]:
    from advisor.pipeline.footprint import footprint_of
    from advisor.pipeline.validate import measuring_spec
    from profiles.errors import AdvisorError

    try:
        priced: Footprint = footprint_of(facts, plan, measuring_spec(inputs, facts))
    except AdvisorError:  # a plan of another menu: nothing is claimed about it
        return
    for field, words in BOOT_LOG:
        figure = getattr(priced, field)
        if figure is not None:
            yield Known(
                name=f"predicted: {words}", value=shown(figure), provenance=figure.provenance,
                source=figure.source + (f"; = {figure.formula}" if figure.formula else ""),
            )  # fmt: skip


def _exact(name: str, value: str, source: str) -> Known:
    return Known(name=name, value=value, provenance=Provenance.EXACT, source=source)


def _measured(name: str, value: str, source: str) -> Known:
    return Known(name=name, value=value, provenance=Provenance.MEASURED, source=source)
