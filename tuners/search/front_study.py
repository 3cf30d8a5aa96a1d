"""The whole front at once: plans from the smallest to the largest, each measured on the selection split.

Prices carry over from one budget to another, so the best trial's prices, decoded at every other budget,
give a good plan there; the exact solutions of the scores stand beside them. NSGA-II with the objectives KL,
bytes and, where the latency column is known, predicted milliseconds per token adds plans between the grid's
budgets, and faster ones than the best at them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
from optuna.samplers import NSGAIISampler

from tuners.evaluate_schema import Quality
from tuners.plan import PrecisionPlan, Unit
from tuners.search.study import PlanSearch
from tuners.search.trials import fail_abandoned, finished
from tuners.solver import solve

POPULATION = 10


def grid(units: Sequence[Unit], points: int) -> list[int]:
    """Budgets in bytes from the smallest plan to the largest quantized one, in equal ratios."""
    low = sum(min(u.bytes_as(f) for f in u.options) for u in units)
    high = sum(max((u.bytes_as(f) for f in u.options if f != "BF16"), default=0) for u in units)
    if points < 2 or high <= low:
        return [low]
    ratio = (high / low) ** (1 / (points - 1))
    return [low, *(int(low * ratio**i) for i in range(1, points - 1)), high]


class FrontStudy:
    """A study over (budget, prices, haste) with the objectives KL, bytes and milliseconds, in the same
    storage. `haste` is the share of the way from the best plan's time at the budget to the fastest one's."""

    def __init__(
        self,
        search: PlanSearch,
        measure: Callable[[PrecisionPlan], Quality],
        points: int,
        extra_trials: int,
    ) -> None:
        self.search = search
        self.measure = measure
        self.budgets = grid(search.units, points)
        self.timed = search.pace.known
        self.extra = extra_trials if len(self.budgets) > 1 else 0
        metrics = ["KL", "bytes", *(["ms per token"] if self.timed else [])]
        self.study = optuna.create_study(
            storage=search.storage,
            study_name=f"{search.name}-front{'-ms' if self.timed else ''}",
            directions=["minimize"] * len(metrics),
            load_if_exists=True,
            sampler=self._sampler(0),
        )
        self.study.set_metric_names(metrics)
        fail_abandoned(self.study)

    def _sampler(self, number: int) -> NSGAIISampler:
        return NSGAIISampler(population_size=POPULATION, seed=self.search.settings.seed * 100_003 + number)

    @property
    def total(self) -> int:
        """Trials in all."""
        return 2 * len(self.budgets) + self.extra

    def run(self, progress: Callable[[int], None]) -> None:
        """Measure both solutions of every budget of the grid, then what NSGA-II proposes between them."""
        search, low, high = self.search, self.budgets[0], self.budgets[-1]
        if not self.study.get_trials(deepcopy=False):
            best = search.best_params()
            neutral = search.space.neutral(search.base_signal)
            calm = {"haste": 0.0} if self.timed else {}
            for budget in self.budgets:
                for params in (best, neutral):
                    self.study.enqueue_trial({**params, "budget_bytes": budget, **calm})
        while (done := finished(self.study)) < self.total:
            self.study.sampler = self._sampler(done)
            trial = self.study.ask()
            budget = trial.suggest_int("budget_bytes", low, max(low, high))
            scores = search.scores(search.space.suggest(trial))
            formats = self._decode(
                scores, budget, trial.suggest_float("haste", 0.0, 1.0) if self.timed else 0.0
            )
            plan = PrecisionPlan(formats=formats, label=f"front, trial {trial.number}")
            quality, used = self.measure(plan), plan.bytes_of(search.units)
            trial.set_user_attr("formats", formats)
            trial.set_user_attr("quality", quality.model_dump(mode="json"))
            trial.set_constraint("bytes over the budget", used - budget)
            values = [quality.kl, float(used)]
            if self.timed:
                values.append(search.pace.ms(formats))
                for key, value in search.pace.attributes(plan).items():
                    trial.set_user_attr(key, value)
            self.study.tell(trial, values)
            progress(done + 1)

    def _decode(self, scores: dict[str, dict[str, float]], budget: int, haste: float) -> dict[str, str]:
        pace, units = self.search.pace, self.search.units
        best = solve(units, scores, budget)
        if not haste:
            return best
        slow, fast = pace.ms(best), pace.ms(pace.fastest(scores, budget))
        return pace.decode(units, scores, budget, (slow + haste * (fast - slow)) * (1 + 1e-9))

    def plans(self) -> list[tuple[PrecisionPlan, Quality]]:
        """The plans that no other beats in all objectives, with what was measured."""
        return [
            (
                PrecisionPlan(formats=t.user_attrs["formats"], label=f"front, trial {t.number}"),
                Quality.model_validate(t.user_attrs["quality"]),
            )
            for t in self.study.best_trials
        ]
