"""What a decision is made from, and the two forms that it takes: another attempt, or the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from advisor.agent.diagnose import best_attempt, failed_gates
from advisor.agent.groups import Wider
from advisor.agent.layers import worst_in_words
from advisor.agent.schema import Action, Attempt, Decision, Limits, Outcome, Settings, Status
from tuners.plan import PrecisionPlan, Unit
from tuners.solver import Scores

TRIES = frozenset({Action.RECOVER, Action.METHOD, Action.GROUP})
"""Means that a model or a machine may not allow (training needs memory): the loop goes on without them."""


@dataclass(frozen=True)
class Situation:
    """All that a decision is made from."""

    limits: Limits
    start: Settings
    units: Sequence[Unit]
    scores: Scores
    attempts: tuple[Attempt, ...]
    model_id: str = ""
    wider: Wider | None = None
    table: Scores = field(default_factory=dict)  # the scores before the engine's outputs corrected them

    @property
    def last(self) -> Attempt:
        """The latest attempt, but no mere try (TRIES) that could not be carried out."""
        tries = (a for a in reversed(self.attempts)
                 if a.outcome.error is None or a.decision.action not in TRIES)  # fmt: skip
        return next(tries, self.attempts[-1])

    @property
    def settings(self) -> Settings:
        """The latest attempt's, with the way of quantizing that the best one had: what did not help goes."""
        latest, best = self.last.decision.settings, best_attempt(self.attempts)
        if best is None:
            return latest
        kept = ("methods", "recover_steps")
        return latest.model_copy(update={name: getattr(best.decision.settings, name) for name in kept})

    @property
    def tried(self) -> set[str]:
        """Keys of the plans that were measured."""
        return {a.outcome.plan.key for a in self.attempts if a.outcome.plan is not None}

    def done(self, action: Action) -> bool:
        """Whether that was tried already."""
        return any(a.decision.action is action for a in self.attempts)


def next_attempt(
    now: Situation,
    action: Action,
    reason: str,
    evidence: tuple[str, ...],
    settings: Settings,
    plan: PrecisionPlan | None,
) -> Decision:
    """An attempt with the one thing that it changes, and the units that the last one's layers blame."""
    blamed = worst_in_words(now.table, now.last.outcome.blamed) if now.attempts else ()
    return Decision(
        number=len(now.attempts) + 1, action=action, reason=reason, evidence=(*evidence, *blamed),
        settings=settings, plan=plan,
    )  # fmt: skip


def stop(now: Situation, status: Status, reason: str, next_step: str) -> Decision:
    """The end, with the gates that are left."""
    return Decision(
        number=len(now.attempts) + 1, action=Action.STOP, reason=reason, status=status, next_step=next_step,
        settings=now.last.decision.settings, evidence=failed_gates(now.last.outcome),
    )  # fmt: skip


def why_failed(outcome: Outcome) -> str:
    """The error's or the gates' own words."""
    if outcome.error is not None:
        return str(outcome.error.get("what") or outcome.error.get("got") or "an error without words")
    return "; ".join(failed_gates(outcome)) or "no gate was measured"


def mib(now: Situation, unit_bytes: int) -> str:
    """Units and the rest of the checkpoint together, as the user counts them."""
    return f"{(unit_bytes + now.limits.fixed_bytes) / 2**20:,.1f} MiB"


def with_kv(plan: PrecisionPlan | None, dtype: str) -> PrecisionPlan | None:
    """The plan with another cache dtype."""
    return plan.model_copy(update={"kv_cache_dtype": dtype}) if plan is not None else None
