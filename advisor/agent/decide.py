"""The agent's decisions: pure functions of limits, measured scores and earlier attempts; nothing runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from advisor.agent.diagnose import Cause, best_attempt, diagnose, failed_gates
from advisor.agent.groups import Wider
from advisor.agent.layers import corrected, outliers, worst_in_words
from advisor.agent.replan import estimated_ratio, exact_plan, in_words, promotions, smallest_plan, without
from advisor.agent.schema import Action, Attempt, Decision, Limits, Outcome, Settings, Status
from tuners.plan import PrecisionPlan, Unit
from tuners.solver import Scores, predicted_loss

GAIN = 0.02
"""A new plan in the same budget must promise this much less summed KL: scores are noisier than that."""

SMALL_GAP = 0.15
"""Share of log(ratio) that more search or more calibration may win back. On the demo model the search beat
the exact additive plan by 0 to 5 % of the KL; three times that is worth a try, more is not."""

MARGIN = 0.85
"""Aim below the floor by this factor of log(floor): the estimate is first-order."""

QUALITY_TARGET = 0.7
"""Share of the present loss to aim at when answers degenerate or the task's score is lost: no floor says how
much is needed."""


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
        """The latest attempt."""
        return self.attempts[-1]

    @property
    def tried(self) -> set[str]:
        """Keys of the plans that were measured."""
        return {a.outcome.plan.key for a in self.attempts if a.outcome.plan is not None}

    def done(self, action: Action) -> bool:
        """Whether that was tried already."""
        return any(a.decision.action is action for a in self.attempts)


def decide(now: Situation) -> Decision:
    """The next step: an attempt that changes one thing, or the end with its status and reason."""
    if not now.attempts:
        return Decision(
            number=1, action=Action.START, settings=now.start,
            reason=f"search a plan within {_mib(now, now.limits.budget_bytes)} and validate it; a perplexity "
            f"of at most {now.limits.floor:g} times the original's is accepted",
        )  # fmt: skip
    cause = diagnose(now.last.outcome)
    if cause is Cause.NONE:
        return _stop(now, "accepted", "every gate passed in the engine", "")
    if len(now.attempts) >= now.limits.attempts:
        return _stop(
            now, "not reached", f"{len(now.attempts)} attempts were allowed and none passed ({cause.value})",
            "the same command with more --attempts goes on",
        )  # fmt: skip
    if now.last.outcome.blamed:
        now = replace(now, table=now.scores, scores=corrected(now.scores, now.last.outcome.blamed))
    match cause:
        case Cause.FLOOR:
            return _floor(now)
        case Cause.ACCURACY | Cause.GENERATIONS:
            return _better(now, QUALITY_TARGET, cause.value)
        case Cause.KERNELS:
            return _reformat(now)
        case Cause.AGREEMENT:
            return _agreement(now)
        case Cause.MEMORY:
            return _memory(now)
        case _:
            return _stop(
                now, "unrepairable", f"{cause.value}; no other plan repairs that: {_why(now.last.outcome)}",
                "advisor ingest LOG --save keeps a real boot log for the predictions"
                if cause is Cause.PREDICTION
                else "read logs/ in the run directory, then run the same command again",
            )  # fmt: skip


def _floor(now: Situation) -> Decision:
    """The floor is missed: by how much decides what is worth trying."""
    floor, ratio = now.limits.floor, now.last.outcome.ratio
    best = best_attempt(now.attempts)
    reached = best.outcome.ratio if best is not None else None
    if floor < 1:
        found = "" if reached is None else f"; the best plan found measured {reached:.4f}"
        return _stop(
            now, "impossible",
            f"a floor of {floor:g} asks for less perplexity than the original has, which no lower precision "
            f"can be planned to give{found}",
            "ask for a floor of 1 or more, such as --floor 1.05",
        )  # fmt: skip
    assert ratio is not None  # a failed floor was measured
    needed = math.log(floor) / math.log(ratio) if ratio > 1 else 1.0
    why = f"perplexity is {ratio:.4f} times the original's, {floor:g} is accepted"
    return _better(now, needed * MARGIN, why, gap=1 - needed)


def _better(now: Situation, share: float, why: str, gap: float = 1.0) -> Decision:
    """Lower the loss to `share` of what it is, by the first means that is left."""
    outcome, settings = now.last.outcome, now.last.decision.settings
    plan = outcome.plan
    assert plan is not None
    budget = settings.budget_bytes
    exact = exact_plan(now.units, now.scores, budget, "exact additive", now.model_id)
    here, there = predicted_loss(plan.formats, now.scores), predicted_loss(exact.formats, now.scores)
    if exact.key not in now.tried and there < here * (1 - GAIN):
        changed = promotions(now.units, now.scores, plan, exact)
        return _next(
            now, Action.PROMOTE,
            f"{why}; within the same budget the measured scores promise {1 - there / here:.0%} less loss by "
            f"promoting {len(changed)} units",
            in_words(changed), settings, exact,
        )  # fmt: skip
    if gap <= SMALL_GAP:
        small = _small_step(now, why, gap)
        if small is not None:
            return small
    if gap <= SMALL_GAP or budget >= now.limits.max_budget_bytes:
        other = _groups(now, why, plan) or _wider_cache(now, why, plan)
        if other is not None:
            return other
    if budget < now.limits.max_budget_bytes:
        return _grow(now, share, why, plan, here)
    return _out_of_means(now, share, why, gap, here)


def _groups(now: Situation, why: str, plan: PrecisionPlan) -> Decision | None:
    """Smaller INT4 groups where they are worth their scales, once, within the same budget."""
    if now.wider is None or now.done(Action.GROUP):
        return None
    settings = now.last.decision.settings
    scores = {
        unit: {**row, **now.scores.get(unit, {})} for unit, row in now.wider.scores.items()
    }  # measured and corrected values stay, what is new is estimated
    found = exact_plan(now.wider.units, scores, settings.budget_bytes, "other groups", now.model_id)
    here, there = predicted_loss(plan.formats, scores), predicted_loss(found.formats, scores)
    if found.key in now.tried or there >= here * (1 - GAIN):
        return None
    changed = [u for u, f in found.formats.items() if f != plan.formats[u]]
    finer = [
        u for u in changed if found.formats[u] not in now.scores.get(u, {}) and found.formats[u] != "BF16"
    ]
    if not finer:
        return None
    return _next(
        now, Action.GROUP,
        f"{why}; smaller groups for {len(finer)} INT4 units within the same budget: {1 - there / here:.0%} "
        "less loss, estimated (measured KL times the ratio of the weights' rounding errors)",
        tuple(f"{u}: {plan.formats[u]} -> {found.formats[u]}" for u in finer[:4]), settings, found,
    )  # fmt: skip


def _wider_cache(now: Situation, why: str, plan: PrecisionPlan) -> Decision | None:
    """A KV cache that was asked in few bits, in the model's own dtype: once, if the user's context allows."""
    settings = now.last.decision.settings
    if settings.kv_cache_dtype == "auto" or "auto" not in now.limits.kv_dtypes or now.done(Action.KV_DTYPE):
        return None
    return _next(
        now, Action.KV_DTYPE, f"{why}; the KV cache in the model's own dtype instead of "
        f"{settings.kv_cache_dtype}, which the budget for weights does not pay", (),
        settings.model_copy(update={"kv_cache_dtype": "auto"}), _with_kv(plan, "auto"),
    )  # fmt: skip


def _small_step(now: Situation, why: str, gap: float) -> Decision | None:
    """More trials, then more calibration: what may close a small gap without a byte more."""
    settings = now.last.decision.settings
    missing = f"{why}: {gap:.0%} of the loss is missing"
    if settings.trials < now.limits.max_trials and not now.last.outcome.repeated:
        more = min(now.limits.max_trials, max(8, settings.trials * 2))
        return _next(
            now, Action.TRIALS, f"{missing}; {more} trials instead of {settings.trials}", (),
            settings.model_copy(update={"trials": more}), None,
        )  # fmt: skip
    best = best_attempt(now.attempts)
    more = min(now.limits.max_calibration_samples, settings.calibration_samples * 4)
    if best is not None and more > settings.calibration_samples:
        return _next(
            now, Action.CALIBRATION,
            f"{missing}; the best plan again, with {more} calibration texts instead of "
            f"{settings.calibration_samples}",
            (), settings.model_copy(update={"calibration_samples": more}), best.outcome.plan,
        )  # fmt: skip
    return None


def _grow(now: Situation, share: float, why: str, plan: PrecisionPlan, here: float) -> Decision:
    """The smallest larger budget that the estimate accepts, at most what the user allowed."""
    settings = now.last.decision.settings
    larger = smallest_plan(
        now.units, now.scores, here * share, settings.budget_bytes, now.limits.max_budget_bytes,
        "promoted", now.model_id,
    )  # fmt: skip
    nbytes = larger.bytes_of(now.units)
    if larger.key in now.tried or nbytes <= plan.bytes_of(now.units):
        larger = exact_plan(now.units, now.scores, now.limits.max_budget_bytes, "promoted", now.model_id)
        nbytes = larger.bytes_of(now.units)
        if larger.key in now.tried:
            return _out_of_means(now, share, why, 1.0, here)
    ratio = now.last.outcome.ratio
    estimate = "" if ratio is None else f", {estimated_ratio(ratio, plan, larger, now.scores):.3f} estimated"
    changed = promotions(now.units, now.scores, plan, larger)
    return _next(
        now, Action.BUDGET,
        f"{why}; {_mib(now, nbytes)} instead of {_mib(now, plan.bytes_of(now.units))} (at most "
        f"{_mib(now, now.limits.max_budget_bytes)} is allowed) promotes {len(changed)} units{estimate}",
        in_words(changed), settings.model_copy(update={"budget_bytes": nbytes}), larger,
    )  # fmt: skip


def _out_of_means(now: Situation, share: float, why: str, gap: float, here: float) -> Decision:
    """Nothing left that may be changed: say what would be needed, as an estimate."""
    largest = sum(u.bytes_as("BF16") for u in now.units)
    needed = smallest_plan(
        now.units, now.scores, here * share, now.limits.max_budget_bytes, largest - 1, "needed"
    )
    size = (needed.bytes_of(now.units) + now.limits.fixed_bytes) / 2**20
    advice = f"--max-budget {math.ceil(size)}MiB would be enough (estimated), or a looser --floor"
    if predicted_loss(needed.formats, now.scores) > here * share:
        advice = "no quantized plan is estimated to reach it: serve the original, or ask a looser --floor"
    means = "the budget may not grow, and more search or calibration cannot close that gap"
    if gap <= SMALL_GAP:
        means = "the budget may not grow, and more search and calibration did not close the gap"
    return _stop(
        now, "not reached", f"{why}; {means}", advice
    )  # fmt: skip


def _reformat(now: Situation) -> Decision:
    """Give the units whose kernel was another than planned a format that is not the mismatched one."""
    banned = {
        (unit, a.outcome.plan.formats[unit])
        for a in now.attempts
        if a.outcome.plan is not None
        for unit in a.outcome.mismatched
    }
    settings = now.last.decision.settings
    units = without(now.units, banned)
    smallest = sum(min(u.bytes_as(f) for f in u.options) for u in units)
    if smallest > settings.budget_bytes:
        return _stop(
            now, "unrepairable", f"without the formats whose kernel is missing, {_mib(now, smallest)} is the "
            f"least, more than the budget: {_why(now.last.outcome)}", "advisor hardware --formats",
        )  # fmt: skip
    plan = exact_plan(units, now.scores, settings.budget_bytes, "exact, other kernels", now.model_id)
    if plan.key in now.tried:
        return _stop(now, "unrepairable", _why(now.last.outcome), "advisor hardware --formats")
    words = tuple(f"{u}: not {f}" for u, f in sorted(banned)[:4])
    return _next(
        now, Action.REFORMAT, f"{len(banned)} units run on another kernel than planned: other formats for "
        "them, within the budget", words, settings, plan,
    )  # fmt: skip


def _agreement(now: Situation) -> Decision:
    """Torch and engine differ: units that the engine computes worse get other formats; without such units
    the checkpoint is made again with more calibration, once."""
    settings, plan = now.last.decision.settings, now.last.outcome.plan
    odd = outliers(now.table, now.last.outcome.blamed)
    if odd and plan is not None:
        other = exact_plan(
            now.units, now.scores, settings.budget_bytes, "exact, engine's scores", now.model_id
        )
        if other.key not in now.tried:
            return _next(
                now, Action.PROMOTE, f"{Cause.AGREEMENT.value}: {len(odd)} units cost more in the engine "
                "than in torch; a plan by what the engine showed, within the budget",
                in_words(promotions(now.units, now.scores, plan, other)), settings, other,
            )  # fmt: skip
    more = min(now.limits.max_calibration_samples, settings.calibration_samples * 4)
    if now.done(Action.CALIBRATION) or more <= settings.calibration_samples or plan is None:
        return _stop(
            now, "unrepairable", f"{Cause.AGREEMENT.value}: {_why(now.last.outcome)}",
            "compare the layers: logs/ in the run directory, advisor doctor",
        )  # fmt: skip
    return _next(
        now, Action.CALIBRATION, f"{Cause.AGREEMENT.value}; the same plan, quantized with {more} calibration "
        f"texts instead of {settings.calibration_samples}", failed_gates(now.last.outcome),
        settings.model_copy(update={"calibration_samples": more}), plan,
    )  # fmt: skip


def _memory(now: Situation) -> Decision:
    """The cache does not fit: another cache dtype, then a shorter context where that was allowed."""
    settings, plan = now.last.decision.settings, now.last.outcome.plan
    error = now.last.outcome.error or {}
    said = (str(error.get("got") or error.get("what") or ""),)
    for dtype in now.limits.kv_dtypes:
        if dtype != "auto" and settings.kv_cache_dtype == "auto":
            changed = settings.model_copy(update={"kv_cache_dtype": dtype})
            return _next(now, Action.KV_DTYPE, f"{Cause.MEMORY.value}; a cache in {dtype} takes half", said,
                         changed, _with_kv(plan, dtype))  # fmt: skip
    lowest = now.limits.min_context
    if settings.context is not None and lowest is not None and settings.context > lowest:
        shorter = max(lowest, settings.context // 2)
        return _next(
            now, Action.CONTEXT, f"{Cause.MEMORY.value}; a context of {shorter:,} instead of "
            f"{settings.context:,} (--min-context allows {lowest:,})", said,
            settings.model_copy(update={"context": shorter}), plan,
        )  # fmt: skip
    return _stop(
        now, "not reached", f"{Cause.MEMORY.value}, and the context may not shrink",
        "allow a shorter one with --min-context, or a smaller --budget; advisor fit shows levers",
    )  # fmt: skip


def _with_kv(plan: PrecisionPlan | None, dtype: str) -> PrecisionPlan | None:
    return plan.model_copy(update={"kv_cache_dtype": dtype}) if plan is not None else None


def _next(
    now: Situation,
    action: Action,
    reason: str,
    evidence: tuple[str, ...],
    settings: Settings,
    plan: PrecisionPlan | None,
) -> Decision:
    blamed = worst_in_words(now.table, now.last.outcome.blamed) if now.attempts else ()
    return Decision(
        number=len(now.attempts) + 1, action=action, reason=reason, evidence=(*evidence, *blamed),
        settings=settings, plan=plan,
    )  # fmt: skip


def _stop(now: Situation, status: Status, reason: str, next_step: str) -> Decision:
    return Decision(
        number=len(now.attempts) + 1, action=Action.STOP, reason=reason, status=status, next_step=next_step,
        settings=now.last.decision.settings, evidence=failed_gates(now.last.outcome),
    )  # fmt: skip


def _why(outcome: Outcome) -> str:
    if outcome.error is not None:
        return str(outcome.error.get("what") or outcome.error.get("got") or "an error without words")
    return "; ".join(failed_gates(outcome)) or "no gate was measured"


def _mib(now: Situation, unit_bytes: int) -> str:
    """Units and the rest of the checkpoint together, as the user counts them."""
    return f"{(unit_bytes + now.limits.fixed_bytes) / 2**20:,.1f} MiB"
