"""Measured quality against the task's floor: it decides before any prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from advisor.recommend.engine import FAMILY_BITS
from advisor.recommend.schema import Conflict, Family, Rule
from profiles.provenance import Figure
from profiles.tasks import TaskProfile

Verdict = Literal["passes", "fails", "undecided"]


def verdict(ratio: Figure, floor: float) -> Verdict:
    """Whether a perplexity ratio stays under the floor with its whole interval, exceeds it, or straddles."""
    if ratio.high <= floor:
        return "passes"
    return "fails" if ratio.low > floor else "undecided"


def measured_rules(task: TaskProfile, measured: Mapping[Family, Figure]) -> list[Rule]:
    """One rule for each family that was measured; a family that fails is avoided before all else, and with it
    those that nobody measured and that can hardly do better: fewer bits, or FP4 beside INT4."""
    rules = []
    for family, ratio in measured.items():
        floor = task.quality_floor_ppl_ratio
        outcome = verdict(ratio, floor)
        alike = _no_better(family, measured) if outcome == "fails" else ()
        also = f"; {' and '.join(alike)}, not measured, can hardly do better" if alike else ""
        rules.append(
            Rule(
                id=f"measured-{family}",
                tier="measured",
                avoid=(family, *alike) if outcome == "fails" else (),
                says=f"{family} measured at {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) times "
                f"the original's perplexity: it {_words(outcome)} the floor of {floor:g}{also}",
                source=ratio.source,
            )
        )
    return rules


def _no_better(family: Family, measured: Mapping[Family, Figure]) -> tuple[Family, ...]:
    bits = FAMILY_BITS[family]
    return tuple(
        other
        for other, fewer in FAMILY_BITS.items()
        if other not in measured and (fewer < bits or (family == "int4" and other == "fp4"))
    )


def _words(outcome: Verdict) -> str:
    return {"passes": "passes", "fails": "fails", "undecided": "cannot be told from"}[outcome]


def override_priors(
    fired: list[Rule], task: TaskProfile, measured: Mapping[Family, Figure]
) -> tuple[list[Rule], list[Conflict]]:
    """Task rules without what a measurement has decided, and the disagreements that this settles."""
    verdicts = {family: verdict(ratio, task.quality_floor_ppl_ratio) for family, ratio in measured.items()}
    rules: list[Rule] = []
    conflicts: list[Conflict] = []
    for rule in fired:
        if rule.tier != "task":
            rules.append(rule)
            continue
        freed = [f for f, outcome in verdicts.items() if outcome == "passes" and f in rule.avoid]
        failed = [f for f, outcome in verdicts.items() if outcome == "fails" and f in ("int4", "fp4")]
        if failed and not rule.avoid:
            conflicts.extend(_settled(f, rule, "fails the floor") for f in failed)
        conflicts.extend(_settled(f, rule, "passes the floor") for f in freed)
        rules.append(rule.model_copy(update={"avoid": tuple(s for s in rule.avoid if s not in freed)}))
    return rules, conflicts


def _settled(family: Family, rule: Rule, found: str) -> Conflict:
    return Conflict(
        winner=f"measured-{family}",
        loser=rule.id,
        text=f"{rule.id} says: {rule.says}; measured here, {family} {found}: "
        "the measurement wins over the prior",
    )
