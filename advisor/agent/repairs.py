"""What may lower the loss without a byte more: one thing at a time, each once."""

from __future__ import annotations

from collections.abc import Callable

from advisor.agent.diagnose import best_attempt
from advisor.agent.replan import GAIN, exact_plan
from advisor.agent.schema import Action, Decision, Settings
from advisor.agent.situation import Situation, next_attempt, with_kv
from profiles.formats import get_format
from profiles.formats.kv_cache import EXACT
from tuners.plan import PrecisionPlan
from tuners.solver import predicted_loss

SMALL_GAP = 0.15
"""Share of log(ratio) that more search, more calibration, or another way of rounding may win back. On the
demo model the search beat the exact additive plan by 0 to 5 % of the KL; three times that is worth a try,
more is not."""

RECOVER_GAP = 0.4
"""The same for training, which wins more than a better rounding (benchmarks/recover.py)."""


def without_bytes(now: Situation, why: str, gap: float, *, last_means: bool) -> Decision | None:
    """The next of these that was not tried. A gap that is not small is tried by them only where bytes may not
    grow: training and other roundings take longer than another plan."""
    means: list[Callable[[Situation, str], Decision | None]] = []
    if gap <= SMALL_GAP or last_means:
        means.append(measure)
    if gap <= SMALL_GAP or (last_means and gap <= RECOVER_GAP):
        means.append(recover)
    if gap <= SMALL_GAP or last_means:
        means += [method, groups, wider_cache]
    if gap <= SMALL_GAP:
        means += [trials, calibration]
    missing = f"{why}: {gap:.0%} of the loss is missing" if gap <= RECOVER_GAP else why
    return next((found for step in means if (found := step(now, missing)) is not None), None)


def _best(now: Situation) -> tuple[PrecisionPlan, Settings] | None:
    """Plan and settings of the best attempt: what did not help is not kept."""
    found = best_attempt(now.attempts)
    if found is None or found.outcome.plan is None:
        return None
    return found.outcome.plan, found.decision.settings


def measure(now: Situation, why: str) -> Decision | None:
    """After a quick search, one by measured sensitivities, with weights quantized as they will be, and the
    choice among several signals' plans."""
    if now.settings.sensitivity != "quick":
        return None
    return next_attempt(
        now, Action.MEASURE, f"{why}; sensitivities were estimated (--sensitivity quick): a search by "
        "measured ones", (), now.settings.model_copy(update={"sensitivity": "auto"}), None,
    )  # fmt: skip


def recover(now: Situation, why: str) -> Decision | None:
    """The best plan again, then trained for some steps against the original (tuners/quantize/recover.py)."""
    best, steps = _best(now), now.limits.recover_steps
    if best is None or not steps or now.done(Action.RECOVER):
        return None
    plan, settings = best
    return next_attempt(
        now, Action.RECOVER, f"{why}; the best plan again, and {steps} steps of distilling the original into "
        "its scales, norms and codes", (), settings.model_copy(update={"recover_steps": steps}), plan,
    )  # fmt: skip


def method(now: Situation, why: str) -> Decision | None:
    """The best plan again, its INT4 units rounded in another way: same bytes, same kernels."""
    best = _best(now)
    if best is None or not any(get_format(f).family == "int4" for f in best[0].formats.values()):
        return None
    plan, settings = best
    used = {m for a in now.attempts for m in a.decision.settings.methods.values()}
    other = next((m for m in now.limits.methods if m not in used), None)
    if other is None:
        return None
    return next_attempt(
        now, Action.METHOD, f"{why}; the best plan again, its INT4 units by {other} instead of "
        f"{settings.methods.get('int4', 'the default method')}", (),
        settings.model_copy(update={"methods": {**settings.methods, "int4": other}}), plan,
    )  # fmt: skip


def groups(now: Situation, why: str) -> Decision | None:
    """Smaller INT4 groups where they are worth their scales, within the same budget."""
    best = _best(now)
    if now.wider is None or best is None or now.done(Action.GROUP):
        return None
    plan, settings = best
    scores = {unit: {**row, **now.scores.get(unit, {})} for unit, row in now.wider.scores.items()}
    found = exact_plan(now.wider.units, scores, settings.budget_bytes, "other groups", now.model_id)
    here, there = predicted_loss(plan.formats, scores), predicted_loss(found.formats, scores)
    if found.key in now.tried or there >= here * (1 - GAIN):
        return None
    menu = {u.name: u.options for u in now.units}
    finer = [u for u, f in found.formats.items() if f not in menu[u]]
    if not finer:
        return None
    return next_attempt(
        now, Action.GROUP,
        f"{why}; smaller groups for {len(finer)} INT4 units within the same budget: {1 - there / here:.0%} "
        "less loss, estimated (measured KL times the ratio of the weights' rounding errors)",
        tuple(f"{u}: {plan.formats[u]} -> {found.formats[u]}" for u in finer[:4]), settings, found,
    )  # fmt: skip


FINER = {"auto": "the model's own dtype", "int8": "int8, scaled per token and head by the engine"}
"""Cache dtypes that round less than FP8 (tests/tuners/test_kv_cache.py), the least first."""


def wider_cache(now: Situation, why: str) -> Decision | None:
    """The best plan again with a KV cache that rounds less than its own: the model's dtype, then INT8."""
    best = _best(now)
    if best is None or best[1].kv_cache_dtype in EXACT:
        return None
    plan, settings = best
    used = {a.decision.settings.kv_cache_dtype for a in now.attempts}
    allowed = [d for d in FINER if d in now.limits.kv_dtypes and d not in used]
    if not allowed:
        return None
    dtype = allowed[0]
    return next_attempt(
        now, Action.KV_DTYPE, f"{why}; the KV cache in {FINER[dtype]} instead of "
        f"{settings.kv_cache_dtype}, which the budget for weights does not pay", (),
        settings.model_copy(update={"kv_cache_dtype": dtype}), with_kv(plan, dtype),
    )  # fmt: skip


def trials(now: Situation, why: str) -> Decision | None:
    """Go on with the search."""
    known = max(a.decision.settings.trials for a in now.attempts)
    if known >= now.limits.max_trials or now.last.outcome.repeated:
        return None
    more = min(now.limits.max_trials, max(8, known * 2))
    return next_attempt(
        now, Action.TRIALS, f"{why}; {more} trials instead of {known}", (),
        now.settings.model_copy(update={"trials": more}), None,
    )  # fmt: skip


def calibration(now: Situation, why: str) -> Decision | None:
    """The best plan again, quantized with more text."""
    best = _best(now)
    if best is None:
        return None
    plan, settings = best
    known = max(a.decision.settings.calibration_samples for a in now.attempts)
    more = min(now.limits.max_calibration_samples, known * 4)
    if more <= known:
        return None
    return next_attempt(
        now, Action.CALIBRATION,
        f"{why}; the best plan again, with {more} calibration texts instead of {known}", (),
        settings.model_copy(update={"calibration_samples": more}), plan,
    )  # fmt: skip
