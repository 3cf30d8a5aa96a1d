"""Why the decision is what it is: budget, what could not be chosen, what the measurements said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.report.schema import Reason
from profiles.provenance import Provenance
from tuners.nats import nats, signed

if TYPE_CHECKING:
    from advisor.pipeline.facts import Facts
    from advisor.pipeline.inputs import RunInputs
    from tuners.plan import PrecisionPlan
    from tuners.search.schema import SearchResult
    from tuners.sensitivity.table import SensitivityTable

SHOWN = 5
"""How many of the most sensitive units are named."""


def reasons(
    root: Path,
    facts: Facts,
    inputs: RunInputs,
    plan: PrecisionPlan | None,
    found: SearchResult | None,
    table: SensitivityTable | None,
) -> Iterator[Reason]:
    """All reasons, in the order in which the decision was made."""
    yield from _budget(root, inputs)
    yield from _task(facts)
    yield from _excluded(facts)
    if plan is not None and table is not None:
        yield from _worst(facts, plan, table)
    yield from _compared(found)
    if plan is not None:
        for note in plan.notes:
            yield Reason(text=note, provenance=Provenance.MEASURED, source="plan.yaml")
    yield from _journal(root)


def _budget(root: Path, inputs: RunInputs) -> Iterator[Reason]:
    path = root / "budget.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        text = f"Budget: {known['origin']}."
        derived = str(known["origin"]).startswith("derived")
        yield Reason(
            text=text, provenance=Provenance.ESTIMATED if derived else Provenance.EXACT, source="budget.json"
        )
    elif inputs.budget:
        yield Reason(text=f"Asked: {inputs.budget}.", provenance=Provenance.EXACT, source="inputs.yaml")


def _task(facts: Facts) -> Iterator[Reason]:
    task = facts.task
    yield Reason(
        text=f"The task {task.name} has {task.prior} sensitivity to precision; a perplexity of at most "
        f"{task.quality_floor_ppl_ratio:g} times the original's is accepted.",
        provenance=Provenance.ESTIMATED,
        source=task.prior_source,
    )


def _excluded(facts: Facts) -> Iterator[Reason]:
    from tuners.units import excluded_formats

    for reason, names in excluded_formats(facts.units).items():
        yield Reason(
            text=f"Not offered: {', '.join(names)}: {reason}.",
            provenance=Provenance.EXACT,
            source="the engine's kernel and shape rules (units.json)",
        )


def _worst(facts: Facts, plan: PrecisionPlan, table: SensitivityTable) -> Iterator[Reason]:
    scores = table.scores("kl")
    cheapest = {u.name: min(u.options, key=u.bytes_as) for u in facts.units}
    worst = sorted(
        (name for name in scores if name in cheapest and cheapest[name] in scores[name]),
        key=lambda name: -scores[name][cheapest[name]],
    )
    for name in worst[:SHOWN]:
        yield Reason(
            text=f"{name} alone in {cheapest[name]} costs KL {nats(scores[name][cheapest[name]])}: "
            f"the plan gives it {plan.formats.get(name, '-')}.",
            provenance=Provenance.MEASURED,
            source=f"sensitivity.json, {table.tokens:,} tokens",
        )


def _compared(found: SearchResult | None) -> Iterator[Reason]:
    for other in found.comparisons if found else ():
        yield Reason(
            text=f"Against {other.other}: KL {signed(other.difference)} "
            f"(95 % interval {signed(other.low)} to {signed(other.high)}): {other.verdict}.",
            provenance=Provenance.MEASURED,
            source="search.json, paired on held-out text",
        )


def _journal(root: Path) -> Iterator[Reason]:
    """What `advisor auto` decided, when it worked here."""
    from advisor.agent.journal import DECISIONS, read_decisions

    for decision in read_decisions(root / DECISIONS):
        yield Reason(
            text=f"Decision {decision.number}, {decision.action.value}: {decision.reason}",
            provenance=Provenance.MEASURED,
            source=DECISIONS,
        )
