"""The agent's decisions: pure functions of limits, measured scores and earlier attempts; nothing runs."""

from __future__ import annotations

import math
from dataclasses import replace

from advisor.agent.diagnose import Cause, best_attempt, diagnose, failed_gates
from advisor.agent.layers import corrected, outliers
from advisor.agent.repairs import SMALL_GAP, without_bytes
from advisor.agent.replan import (
    GAIN,
    estimated_ratio,
    exact_plan,
    in_words,
    promotions,
    smallest_plan,
    without,
)
from advisor.agent.schema import Action, Decision
from advisor.agent.situation import Situation, mib, next_attempt, stop, why_failed, with_kv
from tuners.plan import PrecisionPlan
from tuners.solver import predicted_loss

MARGIN = 0.7
"""Aim below the floor by this factor of log(floor): the estimate is first-order. On the demo model larger
budgets measured 0.8 to 1.8 times the log ratio estimated for them (1.0309 for 1.024, 1.0352 for 1.020, 1.0158
for 1.019)."""

PROMISE = 0.25
"""Share of the loss to be removed that promotions at equal bytes must promise while the budget may still
grow: each attempt costs minutes, and on the demo two that promised 2 and 3 % where half was asked earned
nothing. Chosen, not measured."""

QUALITY_TARGET = 0.7
"""Share of the present loss to aim at when answers degenerate or the task's score is lost: no floor says how
much is needed."""


def decide(now: Situation) -> Decision:
    """The next step: an attempt that changes one thing, or the end with its status and reason."""
    if not now.attempts:
        return Decision(
            number=1, action=Action.START, settings=now.start,
            reason=f"search a plan within {mib(now, now.limits.budget_bytes)} and validate it; a perplexity "
            f"of at most {now.limits.floor:g} times the original's is accepted",
        )  # fmt: skip
    cause = diagnose(now.last.outcome)
    if cause is Cause.NONE:
        unsure = [g.name for g in now.last.outcome.gates if not g.conclusive]
        words = f"; too little to tell: {', '.join(unsure)}" if unsure else ""
        return stop(now, "accepted", f"every gate passed in the engine{words}", "")
    if len(now.attempts) >= now.limits.attempts:
        return stop(
            now, "not reached", f"{len(now.attempts)} attempts were allowed and none passed ({cause.value})",
            "the same command with more --attempts goes on",
        )  # fmt: skip
    if now.wider is not None and now.done(Action.GROUP):
        wide = {unit: {**row, **now.scores.get(unit, {})} for unit, row in now.wider.scores.items()}
        now = replace(now, units=now.wider.units, scores=wide)
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
            words = why_failed(now.last.outcome)
            return stop(
                now, "unrepairable", f"{cause.value}; no other plan repairs that: {words}",
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
        return stop(
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
    outcome, settings = now.last.outcome, now.settings
    plan = outcome.plan
    assert plan is not None
    budget = settings.budget_bytes
    exact = exact_plan(now.units, now.scores, budget, "exact additive", now.model_id)
    here, there = predicted_loss(plan.formats, now.scores), predicted_loss(exact.formats, now.scores)
    grows = budget < now.limits.max_budget_bytes
    enough = max(GAIN, PROMISE * min(gap, 1 - share)) if grows else GAIN
    if exact.key not in now.tried and there < here * (1 - enough):
        changed = promotions(now.units, now.scores, plan, exact)
        known = "estimated" if settings.sensitivity == "quick" else "measured"
        return next_attempt(
            now, Action.PROMOTE,
            f"{why}; within the same budget the {known} scores promise {1 - there / here:.0%} less loss by "
            f"promoting {len(changed)} units",
            in_words(changed), settings, exact,
        )  # fmt: skip
    if grows and now.last.decision.action is Action.BUDGET:
        grown = _grow(now, share, why, plan, here)
        if (
            grown.action is Action.BUDGET
        ):  # the rest of the bytes is surest; without it the free means are left
            return grown
    free = without_bytes(now, why, gap, last_means=not grows)
    if free is not None:
        return free
    if grows:
        return _grow(now, share, why, plan, here)
    return _out_of_means(now, share, why, gap, here)


def _grow(now: Situation, share: float, why: str, plan: PrecisionPlan, here: float) -> Decision:
    """The smallest larger budget that the estimate accepts, at most what the user allowed."""
    settings = now.settings
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
    return next_attempt(
        now, Action.BUDGET,
        f"{why}; {mib(now, nbytes)} instead of {mib(now, plan.bytes_of(now.units))} (at most "
        f"{mib(now, now.limits.max_budget_bytes)} is allowed) promotes {len(changed)} units{estimate}",
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
    means = "the budget may not grow, and what costs no byte cannot close that gap"
    if gap <= SMALL_GAP:
        means = "the budget may not grow, and what costs no byte did not close the gap"
    return stop(
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
        return stop(
            now, "unrepairable", f"without the formats whose kernel is missing, {mib(now, smallest)} is the "
            f"least, more than the budget: {why_failed(now.last.outcome)}", "advisor hardware --formats",
        )  # fmt: skip
    plan = exact_plan(units, now.scores, settings.budget_bytes, "exact, other kernels", now.model_id)
    if plan.key in now.tried:
        return stop(now, "unrepairable", why_failed(now.last.outcome), "advisor hardware --formats")
    words = tuple(f"{u}: not {f}" for u, f in sorted(banned)[:4])
    return next_attempt(
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
            return next_attempt(
                now, Action.PROMOTE, f"{Cause.AGREEMENT.value}: {len(odd)} units cost more in the engine "
                "than in torch; a plan by what the engine showed, within the budget",
                in_words(promotions(now.units, now.scores, plan, other)), settings, other,
            )  # fmt: skip
    more = min(now.limits.max_calibration_samples, settings.calibration_samples * 4)
    if now.done(Action.CALIBRATION) or more <= settings.calibration_samples or plan is None:
        return stop(
            now, "unrepairable", f"{Cause.AGREEMENT.value}: {why_failed(now.last.outcome)}",
            "compare the layers: logs/ in the run directory, advisor doctor",
        )  # fmt: skip
    return next_attempt(
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
            return next_attempt(
                now, Action.KV_DTYPE, f"{Cause.MEMORY.value}; a cache in {dtype} takes half", said, changed,
                with_kv(plan, dtype),
            )  # fmt: skip
    lowest = now.limits.min_context
    if settings.context is not None and lowest is not None and settings.context > lowest:
        shorter = max(lowest, settings.context // 2)
        return next_attempt(
            now, Action.CONTEXT, f"{Cause.MEMORY.value}; a context of {shorter:,} instead of "
            f"{settings.context:,} (--min-context allows {lowest:,})", said,
            settings.model_copy(update={"context": shorter}), plan,
        )  # fmt: skip
    return stop(
        now, "not reached", f"{Cause.MEMORY.value}, and the context may not shrink",
        "allow a shorter one with --min-context, or a smaller --budget; advisor fit shows levers",
    )  # fmt: skip
