"""The whole front at once: plans from the smallest to the largest, each measured on the selection split.

Prices carry over from one budget to another, so the best trial's prices, decoded at every other budget,
give a good plan there; the exact solutions of the scores stand beside them. NSGA-II with two objectives (KL,
bytes) adds plans between the grid's budgets.
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
    """A study over (budget, prices) with the objectives KL and bytes, in the same storage."""

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
        self.extra = extra_trials if len(self.budgets) > 1 else 0
        self.study = optuna.create_study(
            storage=search.storage,
            study_name=f"{search.name}-front",
            directions=["minimize", "minimize"],
            load_if_exists=True,
            sampler=self._sampler(0),
        )
        self.study.set_metric_names(["KL", "bytes"])
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
            best = search.prices.best_trial.params
            neutral = search.space.neutral(search.base_signal)
            for budget in self.budgets:
                for params in (best, neutral):
                    self.study.enqueue_trial({**params, "budget_bytes": budget})
        while (done := finished(self.study)) < self.total:
            self.study.sampler = self._sampler(done)
            trial = self.study.ask()
            budget = trial.suggest_int("budget_bytes", low, max(low, high))
            formats = solve(search.units, search.scores(search.space.suggest(trial)), budget)
            plan = PrecisionPlan(formats=formats, label=f"front, trial {trial.number}")
            quality, used = self.measure(plan), plan.bytes_of(search.units)
            trial.set_user_attr("formats", formats)
            trial.set_user_attr("quality", quality.model_dump(mode="json"))
            trial.set_constraint("bytes over the budget", used - budget)
            self.study.tell(trial, [quality.kl, float(used)])
            progress(done + 1)

    def plans(self) -> list[tuple[PrecisionPlan, Quality]]:
        """The plans that no other beats in both KL and bytes, with what was measured."""
        return [
            (
                PrecisionPlan(formats=t.user_attrs["formats"], label=f"front, trial {t.number}"),
                Quality.model_validate(t.user_attrs["quality"]),
            )
            for t in self.study.best_trials
        ]
