"""A measured front answers a changed budget: the best measured plan that it holds, in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from profiles.errors import InfeasibleError, UsageError
from profiles.sizes import size
from tuners.budget import Budget
from tuners.latency.speed import Clockwork
from tuners.nats import nats
from tuners.search.schema import Front, MeasuredPlan


def efficient(points: Iterable[MeasuredPlan]) -> tuple[MeasuredPlan, ...]:
    """The points by rising bytes, without those that another equals or beats in bytes, KL and, when all have
    one, predicted time per token."""
    known = sorted(points, key=lambda p: (p.unit_bytes, p.quality.kl, _ms(p)))
    timed = all(p.speed is not None for p in known)
    out: list[MeasuredPlan] = []
    for point in known:  # whatever beats a point comes before it
        if not any(
            other.quality.kl <= point.quality.kl and (not timed or _ms(other) <= _ms(point)) for other in out
        ):
            out.append(point)
    return tuple(out)


def _ms(point: MeasuredPlan) -> float:
    return 0.0 if point.speed is None else point.speed.decode_ms.value


def nearest_below(front: Front, budget: Budget, max_ms: float | None = None) -> MeasuredPlan:
    """The best measured plan that the budget holds and that is predicted to take at most `max_ms` per token.

    Raises:
        InfeasibleError: there is none; the message says what there is.
    """
    fitting = [p for p in front.points if p.unit_bytes <= budget.unit_bytes]
    if not fitting:
        least = min(p.unit_bytes for p in front.points)
        raise InfeasibleError(
            "no measured plan is that small",
            got=f"{budget.text} = {size(budget.total_bytes, 3)}",
            allowed=f"at least {size(least + front.fixed_bytes, 3)}",
            next_step=f"advisor tune MODEL --budget {budget.text} searches at this budget",
        )
    if max_ms is not None:
        _check_timed(front)
        least_ms = min(map(_ms, fitting))
        fitting = [p for p in fitting if _ms(p) <= max_ms]
        if not fitting:
            raise InfeasibleError(
                "no measured plan within the budget is predicted to be that fast",
                got=f"{max_ms:g} ms per token",
                allowed=f"{least_ms:.4g} ms or more",
                next_step=f"advisor tune MODEL --max-ms-per-token {max_ms:g} searches for one",
            )
    return min(fitting, key=lambda p: p.quality.kl)


def fastest_below(front: Front, budget: Budget, max_kl: float) -> MeasuredPlan:
    """The measured plan of least predicted time that the budget holds, with a KL of at most `max_kl`.

    Raises:
        InfeasibleError: there is none; the message says the least KL.
    """
    _check_timed(front)
    best = nearest_below(front, budget)
    if best.quality.kl > max_kl:
        raise InfeasibleError(
            "no measured plan within the budget keeps the limit on the KL",
            got=f"KL {nats(best.quality.kl)} at {best.bits_per_weight:.3f} bits per weight",
            allowed=f"at most {max_kl:g}",
            next_step=f"a larger budget, or advisor tune MODEL --objective fastest --max-kl {max_kl:g}",
        )
    fitting = [p for p in front.points if p.unit_bytes <= budget.unit_bytes and p.quality.kl <= max_kl]
    return min(fitting, key=lambda p: (_ms(p), p.quality.kl))


def _check_timed(front: Front) -> None:
    if any(p.speed is None for p in front.points):
        raise UsageError(
            "the plans of this front have no predicted times",
            next_step="advisor tune MODEL on a device with known rates makes a front with them "
            "(advisor hardware --bench measures this machine)",
        )


def timed(front: Front, clock: Clockwork | None) -> Front:
    """The front with times of the column as it is now known: a speed measured since then calibrates it."""
    if clock is None or clock.times(1) is None:
        return front
    points = (p.model_copy(update={"speed": clock.speed(p.plan)}) for p in front.points)
    return front.model_copy(update={"points": tuple(points)})


def load_front(path: Path) -> Front:
    """Read front.json.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    try:
        return Front.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise UsageError(
            "this run has no measured front",
            where=str(path),
            got=str(exc).splitlines()[0],
            next_step="advisor tune MODEL --budget 5.5bits makes one",
        ) from exc
