"""`advisor recommend`: which precision, method, engine and KV dtype, and which rule says so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advisor.cli.options import Count, Gpu, Json, Offline, TrustToRead
from profiles.errors import UsageError

if TYPE_CHECKING:
    from advisor.recommend import Recommendation
    from advisor.recommend.schema import Family
    from profiles.provenance import Figure
    from tuners.search.schema import MeasuredPlan, SearchResult

SIGNS = {"for": "+", "against": "-", "neutral": " "}


def recommend(
    model: Annotated[str, Parameter(help="A folder with config.json and safetensors, or a Hub id.")],
    /,
    *,
    task: Annotated[
        str | None,
        Parameter(
            name="--task", help="A task (advisor tasks), a file of your own, or a mixture: code:0.7,chat:0.3."
        ),
    ] = None,
    use: Annotated[
        str | None,
        Parameter(
            name="--use", help="quality-critical, production, cost-optimized, personal or edge; none: open."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        Parameter(name="--run", help="A run whose search measured this model: its measurements beat priors."),
    ] = None,
    gpu: Gpu = None,
    count: Count = 1,
    trust_remote_code: TrustToRead = False,
    offline: Offline = False,
    json: Json = False,
) -> int:
    """Ordered choices with the rules for and against each, the rules that clash, and what cannot be used.

    What `advisor sensitivity` measured for this task on this model is used, and with --run what a search
    found; nothing is measured here.
    """
    from advisor.cli.output import print_json
    from advisor.machine import read_hardware
    from advisor.recommend import parse_use
    from advisor.recommend import recommend as decide
    from advisor.task_memory import recall
    from profiles.models import read_model
    from profiles.tasks import load_task

    seen, measured_task = measured_in(run) if run is not None else ({}, None)
    if task is not None and measured_task is not None and task != measured_task:
        raise UsageError(
            "the run measured another task",
            where=str(run),
            got=f"--task {task}",
            allowed=measured_task,
            next_step="leave --task or --run out",
        )
    known_use, profile = parse_use(use), load_task(task or measured_task or "generic")
    hardware = read_hardware(gpu, count)
    known = read_model(model, offline=offline, trust_remote_code=trust_remote_code)
    found = decide(
        profile,
        use=known_use,
        hardware=hardware,
        model=known,
        measured=seen,
        sensitivity=recall(known, profile),
    )
    if json:
        print_json(found)
    else:
        _show(found)
    return 0


def measured_in(run: Path) -> tuple[dict[Family, Figure], str]:
    """Perplexity ratios of the uniform plans that a run's search measured on held-out text, and its task.

    Raises:
        UsageError: not a run, or one whose search has not finished.
    """
    from advisor.pipeline.inputs import load_inputs
    from advisor.pipeline.search import load_search
    from advisor.workspace import Workspace
    from profiles.formats import get_format

    workspace = Workspace.read_only(run)
    found, inputs = load_search(workspace), load_inputs(workspace)
    out: dict[Family, Figure] = {}
    for point in found.held_out:
        families = {get_format(name).family for name in point.plan.formats.values()} - {"16-bit"}
        if point.label.startswith("uniform") and len(families) == 1:
            out[families.pop()] = perplexity_ratio(point, found, str(run))
    return out, inputs.task


SPREAD = 0.01
"""Relative half-width for the difference between PyTorch and the engine: it is under 1 %."""


def perplexity_ratio(point: MeasuredPlan, found: SearchResult, where: str) -> Figure:
    """Perplexity of a plan over the original's on held-out text.

    The interval is a bootstrap over the sequences, both models paired, and the difference of the engine in
    quadrature; a search of an earlier version left no samples, its interval is the engine's alone.
    """
    from profiles.provenance import Figure, Provenance
    from tuners.evaluate_schema import bootstrap

    quality = point.quality
    source = f"{where}: {point.label}, {quality.tokens:,} held-out tokens"
    ratio = quality.perplexity / found.perplexity_original
    low = high = 0.0
    if quality.sequence_nll and len(quality.sequence_nll) == len(found.original_sequence_nll):
        pairs = zip(quality.sequence_nll, found.original_sequence_nll, strict=True)
        mean, below, above = bootstrap([q - o for q, o in pairs], quality.sequence_tokens)
        low, high = ratio * (1 - math.exp(below - mean)), ratio * (math.exp(above - mean) - 1)
    return Figure(
        value=ratio,
        low=ratio - math.hypot(low, ratio * SPREAD),
        high=ratio + math.hypot(high, ratio * SPREAD),
        unit="x",
        provenance=Provenance.MEASURED,
        source=source,
    )


def _show(found: Recommendation) -> None:
    from advisor.cli.output import MARKS, console
    from profiles.sizes import size

    out = console()
    name = found.model.name if found.model else "any model"
    kinds = ", ".join(h.value for h in found.hardware) or "no class of the framework"
    out.print(
        f"{name} on {found.device} ({kinds}), task {found.task} "
        f"(sensitivity {found.sensitivity}: {found.sensitivity_source}), "
        f"use {found.use.value if found.use else 'open'}",
        markup=False,
    )
    for choice in found.choices:
        weights = ""
        if choice.weights_bytes is not None:
            mark = "" if MARKS[choice.weights_bytes.provenance] == "exact" else "~"
            weights = f", weights {mark}{size(choice.weights_bytes.value)}"
        out.print(
            f"\n{choice.rank}. {choice.option.title}: {choice.format} by {choice.option.method}, "
            f"{choice.option.engine}{weights}",
            markup=False,
        )
        out.print(f"     KV cache {choice.kv_cache_dtype}: {choice.kv_reason}", markup=False)
        for reason in choice.reasons:
            out.print(
                f"   {SIGNS[reason.stance]} {reason.text} [{reason.rule}, {reason.basis}: {reason.source}]",
                markup=False,
            )
        for note in choice.notes:
            out.print(f"     note: {note}", markup=False)
    if found.decisions:
        out.print("\nWhat decided", markup=False)
    for made in found.decisions:
        out.print(f"  {made.sentence}", markup=False)
    out.print("\nWhat lower precision costs this task, prior into posterior", markup=False)
    for belief in found.beliefs:
        out.print(f"  {belief.sentence}", markup=False)
    if found.conflicts:
        out.print("\nConflicts", markup=False)
        for clash in found.conflicts:
            out.print(f"  {clash.winner} over {clash.loser}: {clash.text}", markup=False)
    if found.dropped:
        out.print("\nRefused", markup=False)
        for item in found.dropped:
            out.print(f"  {item.option.title}: {item.reason} ({item.source})", markup=False)
    if found.notes:
        out.print("", markup=False)
    for text in found.notes:
        out.print(f"note: {text}", markup=False)
