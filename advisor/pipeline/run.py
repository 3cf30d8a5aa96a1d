"""The stages in their order, for the CLI, the terminal interface and tests alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from advisor.journal import Journal
from advisor.pipeline.inputs import RunInputs, save_inputs
from advisor.pipeline.stage import StageContext
from advisor.workspace import Workspace
from tuners.events import Emit
from tuners.plan import PrecisionPlan

StageName = Literal["profile", "footprint", "search", "quantize", "validate", "export"]
STAGES: tuple[StageName, ...] = get_args(StageName)


@contextlib.contextmanager
def opened(
    root: Path, *listeners: Emit, create: bool = True, cancelled: Callable[[], bool] | None = None
) -> Iterator[StageContext]:
    """Own a run directory with its journal open."""
    with Workspace.open(root, create=create) as workspace:
        journal = Journal(workspace.path("events.jsonl"), *listeners)
        try:
            yield StageContext(workspace, journal, cancelled)
        finally:
            journal.close()


def run_through(
    context: StageContext,
    inputs: RunInputs,
    last: StageName,
    *,
    plan: PrecisionPlan | None = None,
    resume: bool = True,
    first: StageName = STAGES[0],
) -> None:
    """Run every stage up to `last`; finished ones whose inputs have not changed are skipped.

    With a `plan` there is no search: the plan given is written into the run and used. Without `resume` the
    stages from `first` on run again, finished or not.
    """
    from advisor.pipeline import export, footprint, latency, profile, quantize, search, validate
    from advisor.workspace import write_text

    until = STAGES.index(last)

    def kept(stage: StageName) -> bool:
        return resume or STAGES.index(stage) < STAGES.index(first)

    save_inputs(context.workspace, inputs)
    facts = profile.profile(context, inputs, resume=kept("profile"))
    if until < STAGES.index("footprint"):
        return
    if plan is None:
        budget = footprint.footprint(context, inputs, facts, resume=kept("footprint"))
        if until < STAGES.index("search"):
            return
        latency.latency(context, inputs, facts, resume=kept("search"))
        search.search(context, inputs, facts, budget.unit_bytes, resume=kept("search"))
        plan = quantize.load_plan(context.workspace)
    else:
        quantize.check_plan(plan, facts)
        write_text(context.workspace.path("plan.yaml"), plan.to_yaml())
    if until >= STAGES.index("quantize"):
        quantize.quantize(context, inputs, facts, plan, resume=kept("quantize"))
    if until >= STAGES.index("validate"):
        validate.validate(context, inputs, facts, plan, resume=kept("validate"))
    if until >= STAGES.index("export"):
        export.export(context, inputs, facts, plan, resume=kept("export"))
