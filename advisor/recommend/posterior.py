"""Prior into posterior: what others published about a task, combined with what was measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from profiles.provenance import Contract, Figure, Provenance
from profiles.tasks import PriorLoss, Sensitivity, TaskProfile

if TYPE_CHECKING:
    from tuners.sensitivity.task_schema import TaskSensitivity

FamilyName = Literal["int4", "int8", "fp8"]
FAMILIES: tuple[FamilyName, ...] = ("int4", "int8", "fp8")
UNIT = "% of the 16-bit score"

FRAMEWORK: dict[Sensitivity, dict[FamilyName, tuple[float, float]]] = {
    "low": {"int4": (1.0, 2.0), "int8": (0.2, 1.0), "fp8": (0.2, 1.0)},
    "medium": {"int4": (2.5, 3.0), "int8": (0.5, 1.5), "fp8": (0.5, 1.5)},
    "high": {"int4": (5.0, 5.0), "int8": (0.7, 2.0), "fp8": (0.7, 2.0)},
}
"""Loss and its standard deviation where nothing is published for the task and format: this project's
reading of the framework's low, medium and high, kept wide so that a measurement soon outweighs it."""

BETWEEN_MODELS = 2.0
"""Standard deviation between models, in per cent of the score, added to every published loss: the same
method lost 0.2 % of MMLU on a 405B model and 2.1 % on an 8B one (Neural Magic model cards)."""

LEAST_SCORE = 0.1
"""Below this score of the original a change in per cent says nothing: the model cannot do the task."""


class Belief(Contract):
    """Loss of one uniform format on a task: prior, measurement, both combined, and which one decided."""

    family: FamilyName
    prior: Figure
    measured: Figure | None
    posterior: Figure
    decided_by: Literal["prior", "measured"]
    sentence: str


def beliefs(
    task: TaskProfile, found: TaskSensitivity | None, ratios: Mapping[str, Figure] | None = None
) -> tuple[Belief, ...]:
    """One belief for each uniform format; without a measured score the prior stands alone.

    `ratios`: perplexity ratios that were measured (by family). They decide against the floor, not here: how
    much of a score a perplexity costs is not known.
    """
    return tuple(_belief(family, task, found, (ratios or {}).get(family)) for family in FAMILIES)


def _belief(
    family: FamilyName, task: TaskProfile, found: TaskSensitivity | None, ratio: Figure | None
) -> Belief:
    mean, deviation, source = prior_of(task, family)
    prior = _figure(mean, deviation, Provenance.ESTIMATED, source)
    seen = None if found is None else measured_loss(found, family)
    if seen is None:
        return Belief(
            family=family, prior=prior, measured=None, posterior=prior, decided_by="prior",
            sentence=f"{family}: the prior decided: {_words(prior)} ({source}); {_why_not(found, ratio)}",
        )  # fmt: skip
    value, error, where = seen
    weight = deviation**2 / (deviation**2 + error**2)  # of the measurement: precision-weighted normal means
    combined = weight * value + (1 - weight) * mean
    decided: Literal["prior", "measured"] = "measured" if weight >= 0.5 else "prior"
    known = Provenance.MEASURED if decided == "measured" else Provenance.ESTIMATED
    posterior = _figure(combined, math.sqrt(weight) * error, known, f"prior ({source}) and {where}")
    measured = _figure(value, error, Provenance.MEASURED, where)
    winner = "the measurement decided" if decided == "measured" else "the prior decided"
    return Belief(
        family=family, prior=prior, measured=measured, posterior=posterior, decided_by=decided,
        sentence=f"{family}: {winner} (weight of the measurement {weight:.0%}): {_words(posterior)}; "
        f"prior {_words(prior)} from {source}, measured {_words(measured)} on {where}",
    )  # fmt: skip


def prior_of(task: TaskProfile, family: FamilyName) -> tuple[float, float, str]:
    """Mean, standard deviation and source of the loss in per cent, before anything is measured."""
    published = [p for p in task.prior_losses if p.family == family]
    if not published:
        mean, deviation = FRAMEWORK[task.prior][family]
        return mean, deviation, f"the framework's {task.prior} sensitivity"
    values = [p.loss.value for p in published]
    mean = sum(values) / len(values)
    own = sum(((p.loss.high - p.loss.low) / 2 / 1.96) ** 2 for p in published) / len(published) ** 2
    spread = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
    deviation = math.sqrt(own + spread + BETWEEN_MODELS**2)
    return mean, deviation, _sources(published)


def _sources(published: Sequence[PriorLoss]) -> str:
    return "; ".join(dict.fromkeys(p.loss.source for p in published))


def measured_loss(found: TaskSensitivity, family: FamilyName) -> tuple[float, float, str] | None:
    """Loss in per cent of the original's score with its standard error; None when nothing can be said."""
    row = next((u for u in found.uniform if u.family == family), None)
    score = found.original_score
    if row is None or row.score_change is None or score is None or score.value < LEAST_SCORE:
        return None
    change = row.score_change
    # a change of nothing at all on n items still leaves room for one item in n (rule of three / 1.96)
    error = max((change.high - change.low) / 3.92, 1.5 / max(1, found.stopped.items) / 1.96)
    return -100 * change.value / score.value, 100 * error / score.value, change.source


def _why_not(found: TaskSensitivity | None, ratio: Figure | None) -> str:
    if found is None and ratio is not None:
        return (
            f"its perplexity was measured ({ratio.value:.3f} x the original's, held against the floor), its "
            "score on the task was not: advisor sensitivity MODEL --task NAME"
        )
    if found is None:
        return "nothing was measured: advisor sensitivity MODEL --task NAME"
    score = found.original_score
    if score is not None and score.value < LEAST_SCORE:
        return f"the original itself scores {score.value:.2f}, too low for a change to say anything"
    return "no score was measured for this format"


def _figure(mean: float, deviation: float, provenance: Provenance, source: str) -> Figure:
    return Figure(
        value=mean, low=mean - 1.96 * deviation, high=mean + 1.96 * deviation, unit=UNIT,
        provenance=provenance, source=source,
    )  # fmt: skip


def _words(figure: Figure) -> str:
    return f"{figure.value:.1f} % lost ({figure.low:.1f} to {figure.high:.1f})"
