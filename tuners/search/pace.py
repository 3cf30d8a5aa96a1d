"""How fast plans are: the latency column as costs for the solver, and as figures for what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from profiles.errors import InfeasibleError, UsageError
from tuners.latency.schema import Latency, PlanSpeed
from tuners.latency.speed import Clockwork
from tuners.plan import PrecisionPlan, Unit
from tuners.search.schema import Goal
from tuners.solver import Scores, solve
from tuners.solver_limits import fastest, solve_within_ms, summed


class Pace:
    """Milliseconds of one decoding step at the goal's batch; without a column only untimed goals work."""

    def __init__(
        self,
        units: Sequence[Unit],
        goal: Goal = Goal(),
        latency: Latency | None = None,
        experts_per_token: int = 0,
    ) -> None:
        self.units, self.goal = units, goal
        self.clock = None if latency is None else Clockwork(latency, units, experts_per_token)
        times = None if self.clock is None else self.clock.times(goal.batch)
        self.costs: dict[str, dict[str, float]] = {}
        self.rest_ms = 0.0
        if times is not None and self.clock is not None:
            self.costs = {u: {f: s.value for f, s in row.items()} for u, row in times.items()}
            self.rest_ms = self.clock.rest_ms(goal.batch).value
        elif goal.is_timed:
            raise UsageError(
                "no plan can be timed here: the device's rates are not known",
                next_step="advisor hardware --bench measures this machine; or leave the time limit out",
            )

    @property
    def known(self) -> bool:
        """Whether every unit has a time in every format."""
        return bool(self.costs)

    def ms(self, formats: Mapping[str, str]) -> float:
        """Predicted milliseconds per token."""
        return self.rest_ms + summed(formats, self.costs)

    def decode(
        self, units: Sequence[Unit], scores: Scores, budget_bytes: int, most_ms: float | None = None
    ) -> dict[str, str]:
        """The exact solution within the budget and `most_ms` per token, or the goal's own limit.

        Raises:
            InfeasibleError: no plan is that small, or that fast.
        """
        limit = self.goal.max_ms if most_ms is None else most_ms
        if limit is None:
            return solve(units, scores, budget_bytes)
        return solve_within_ms(units, scores, budget_bytes, self.costs, limit - self.rest_ms)

    def fastest(self, scores: Scores, budget_bytes: int, most_loss: float | None = None) -> dict[str, str]:
        """The fastest plan within the budget that is predicted to lose at most `most_loss`.

        Raises:
            InfeasibleError: no plan is that small, or loses so little.
        """
        return fastest(self.units, scores, budget_bytes, self.costs, most_loss)

    def check(self, budget_bytes: int) -> None:
        """See to it that some plan within the budget keeps the goal's limit on time.

        Raises:
            InfeasibleError: none does; the message says what is possible.
        """
        if self.goal.max_ms is None:
            return
        least = self.ms(self.fastest({}, budget_bytes))
        if least > self.goal.max_ms:
            anywhere = self.ms(self.fastest({}, self.whole_bytes))
            raise InfeasibleError(
                "no plan within the budget is predicted to be that fast",
                got=f"{self.goal.max_ms:.4g} ms per token at batch {self.goal.batch}",
                allowed=f"{least:.4g} ms within the budget, {anywhere:.4g} ms at any size; "
                f"{self.rest_ms:.4g} ms of it are beside the quantizable layers",
                next_step="a larger --budget, a higher --max-ms-per-token, or other --formats",
            )

    @property
    def whole_bytes(self) -> int:
        """Bytes at which no budget binds."""
        return sum(max(u.bytes_as(f) for f in u.options) for u in self.units)

    def speed(self, plan: PrecisionPlan) -> PlanSpeed | None:
        """The plan's figures with ranges."""
        return None if self.clock is None or not self.known else self.clock.speed(plan)

    def attributes(self, plan: PrecisionPlan) -> dict[str, float]:
        """What a trial's user attributes say of its plan's predicted speed."""
        found = self.speed(plan)
        if found is None:
            return {}
        return {
            "decode_ms": found.decode_ms.value,
            "decode_16_ms": found.decode_16_ms.value,
            "prefill_ms_per_1k": found.prefill_ms_per_1k.value,
        }
