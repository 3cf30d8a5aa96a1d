"""The Optuna studies of one budget: first over prices, then over the contested units directly.

Measured KL on the search split is the objective of both, predicted time a constraint when a limit is asked
for. When the fastest plan is asked for, time is the objective, measured KL the constraint, and a trial has
one parameter more: the milliseconds within which its prices are decoded. All state is in the storage: a
study resumes, several processes may work on it, and `optuna-dashboard` opens it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import optuna
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from optuna.samplers import TPESampler

from profiles.errors import InfeasibleError
from tuners.events import Emit, Message, Ticker
from tuners.plan import PrecisionPlan, Unit
from tuners.search.contested import contested_units, solve_with
from tuners.search.prices import Prices, PriceSpace, scores_of
from tuners.search.residuals import correction
from tuners.search.schema import SearchSettings
from tuners.search.trials import Trials, fail_abandoned, finished, measured_plans
from tuners.sensitivity.table import KL, SensitivityTable
from tuners.solver_limits import summed

STARTUP_TRIALS = 8
"""Random trials before TPE models anything, the enqueued exact solutions included (Optuna's default is
10 for a full-size study; ours starts from solutions that are already good)."""

LIMIT_MS = "limit_ms"
"""Parameter of a trial when the fastest plan is asked for."""

AIMED_AT = (4, 5, 6, 8)
"""Finished trials after which the next one is aimed at the limit on the KL: the first signals' exact
solutions say by how much, each further one by how much still."""

SMALL_STUDY = 12
"""Below this many trials there is no second stage: too few plans to tell which units are contested."""


class PlanSearch:
    """Both stages at one budget; reproducible by seed when one process works on it."""

    def __init__(
        self,
        units: Sequence[Unit],
        table: SensitivityTable,
        trials: Trials,
        budget_bytes: int,
        storage: optuna.storages.BaseStorage,
        settings: SearchSettings,
        emit: Emit,
        name: str,
        *,
        worker: bool = False,
    ) -> None:
        self.units = units
        self.table = table
        self.trials = trials
        self.pace = trials.pace
        self.budget_bytes = budget_bytes
        self.storage = storage
        self.settings = settings
        self.emit = emit
        self.name = name
        self.worker = worker
        self.space = PriceSpace.of(units, table)
        self.base_signal = KL if KL in self.space.signals else self.space.signals[0]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.prices = self._open(name)
        self.contested: optuna.Study | None = None

    def _open(self, name: str) -> optuna.Study:
        study = optuna.create_study(
            storage=self.storage,
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            sampler=self._sampler(0),
            pruner=self._pruner(),
        )
        if not self.worker:
            fastest = self.pace.goal.objective == "fastest"
            study.set_metric_names(["ms per token" if fastest else "KL"])  # what dashboards call the axis
            fail_abandoned(study)
        self.trials.remember(study)
        return study

    def _pruner(self) -> BasePruner:
        """Paired with the best trial, sequence by sequence; the fastest plan need not be as good as that
        (`Trials` then tests against the limit)."""
        if self.pace.goal.objective == "fastest":
            return NopPruner()
        return WilcoxonPruner(p_threshold=self.settings.prune_p, n_startup_steps=self.settings.batch_size)

    def _sampler(self, number: int) -> TPESampler:
        """A sampler seeded by study seed and trial number: a resumed study draws what it would have drawn."""
        return TPESampler(
            multivariate=True,
            n_startup_trials=STARTUP_TRIALS,
            seed=self.settings.seed * 100_003 + number,
        )

    @property
    def price_trials(self) -> int:
        """Trials of the first stage."""
        total = self.settings.trials
        one_stage = total < SMALL_STUDY or self.pace.goal.objective == "fastest"
        return total if one_stage else total - round(total * self.settings.contested_share)

    def run(self) -> None:
        """Run until the studies hold the number of trials asked for."""
        self.run_prices()
        if not self.worker and self.price_trials < self.settings.trials:
            self.run_contested()

    def run_prices(self) -> None:
        """The first stage: every signal's exact solution, then prices, then what residuals teach."""
        study, ticker = self.prices, Ticker(self.emit, "search", self.settings.trials)
        if not self.worker:
            self.seed_trials()
        while (done := finished(study)) < self.price_trials:
            if self._claimed(study) >= self.price_trials:
                return  # the rest is in other workers' hands
            self._enqueue_correction(done)
            self._enqueue_secant(done)
            study.sampler = self._sampler(done)
            trial = study.ask()
            prices = self.space.suggest(trial)
            formats = self._decode(self.scores(prices), self._limit_ms(trial))
            label = str(trial.user_attrs.get("origin", f"prices, trial {trial.number}"))
            self.trials.run(study, trial, formats, self.budget_bytes, label=label)
            ticker(done + 1)

    def seed_trials(self) -> None:
        """Put every signal's exact solution at the head of a new study."""
        if not self.prices.get_trials(deepcopy=False):
            first = {} if self._ms_range is None else {LIMIT_MS: self._ms_at(self.pace.goal.max_kl)}
            for signal in self.space.signals:
                self.prices.enqueue_trial(
                    {**self.space.neutral(signal), **first}, user_attrs={"origin": f"exact, {signal}"}
                )

    @functools.cached_property
    def _ms_range(self) -> tuple[float, float] | None:
        """Milliseconds of the fastest plan and of the best one, between which the fastest good one lies."""
        if self.pace.goal.objective != "fastest":
            return None
        scores = self.table.scores(self.base_signal)
        least = self.pace.ms(self.pace.fastest(scores, self.budget_bytes))
        best = self.pace.ms(self.pace.decode(self.units, scores, self.budget_bytes))
        return least, max(least * (1 + 1e-6), best)

    def _limit_ms(self, trial: optuna.Trial) -> float | None:
        """The trial's own limit when the fastest plan is asked for."""
        return None if self._ms_range is None else trial.suggest_float(LIMIT_MS, *self._ms_range)

    def _decode(self, scores: dict[str, dict[str, float]], most_ms: float | None) -> dict[str, str]:
        if most_ms is not None:
            most_ms *= 1 + 1e-9  # the least of the range is a plan's own time
        return self.pace.decode(self.units, scores, self.budget_bytes, most_ms)

    def _ms_at(self, most_loss: float | None) -> float:
        """Milliseconds of the fastest plan whose summed scores are at most that; of the best when none is."""
        assert self._ms_range is not None
        low, high = self._ms_range
        try:
            found = self.pace.ms(
                self.pace.fastest(self.table.scores(self.base_signal), self.budget_bytes, most_loss)
            )
        except InfeasibleError:
            return high
        return min(high, max(low, found))

    def _enqueue_secant(self, done: int) -> None:
        """Measured plans say by how much scores mislead: the next trial aims at the limit by that much."""
        mark, most = f"aimed_at_{done}", self.pace.goal.max_kl
        due = done in AIMED_AT or (done > AIMED_AT[-1] and done % self.settings.correct_every == 0)
        if self._ms_range is None or most is None or not due or self.worker or mark in self.prices.user_attrs:
            return
        self.prices.set_user_attr(mark, True)
        plans = [(f, kl) for f, kl, _ in measured_plans(self.prices)]
        if not plans:
            return
        nearest, kl = min(plans, key=lambda p: abs(math.log(max(p[1], 1e-12) / most)))
        predicted = summed(nearest, self.table.scores(self.base_signal))
        if predicted > 0 and kl > 0:
            self.prices.enqueue_trial(
                {
                    **self.space.neutral(self.base_signal),
                    LIMIT_MS: self._ms_at(most * predicted / kl),
                },
                user_attrs={"origin": f"exact, aimed at KL {most:g} after {done} trials"},
            )

    def _claimed(self, study: optuna.Study) -> int:
        running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        return finished(study) + len(running)

    def _enqueue_correction(self, done: int) -> None:
        """Every so often the optimum of the corrected scores is the next trial."""
        every = self.settings.correct_every
        mark = f"corrected_at_{done}"
        if done == 0 or done % every or self.worker or mark in self.prices.user_attrs:
            return
        self.prices.set_user_attr(mark, True)
        if self._learned() is not None:
            limit = {} if self._ms_range is None else {LIMIT_MS: self._ms_at(self.pace.goal.max_kl)}
            self.prices.enqueue_trial(
                {**self.space.neutral(self.base_signal, residual=1.0), **limit},
                user_attrs={"origin": f"exact, corrected by {done} trials"},
            )

    def _learned(self) -> dict[str, dict[str, float]] | None:
        observed = [(f, kl) for f, kl, _ in measured_plans(self.prices)]
        return correction(self.units, self.table.scores(self.base_signal), observed)

    def scores(self, prices: Prices) -> dict[str, dict[str, float]]:
        """The scores of these prices, with what measured trials taught so far."""
        return scores_of(prices, self.units, self.table, self._learned() if prices.residual > 0 else None)

    def best_params(self) -> dict[str, float | int]:
        """Parameters of the best trial of the first stage; the base signal's when none keeps the limits."""
        try:
            return dict(self.prices.best_trial.params)
        except ValueError:  # Optuna's word for: no trial satisfies the constraints
            return self.space.neutral(self.base_signal)

    def best_prices(self) -> Prices:
        """The prices of that trial."""
        return self.space.suggest(optuna.trial.FixedTrial(self.best_params()))

    def run_contested(self) -> None:
        """The second stage: contested units as categoricals, the rest solved within what they leave."""
        plans = [(f, kl) for f, kl, _ in measured_plans(self.prices)]
        options = contested_units(plans, self.settings.contested_max)
        if not options:
            self.emit(Message(stage="search", text="good plans agree on every unit: no second stage"))
            return
        self.contested = study = self._open(f"{self.name}-contested-{finished(self.prices)}")
        study.set_user_attr("contested", {u: list(f) for u, f in options.items()})
        scores = self.scores(self.best_prices())
        if not study.get_trials(deepcopy=False):
            for formats, _ in sorted(plans, key=lambda p: p[1])[:3]:
                study.enqueue_trial({u: formats[u] for u in options}, skip_if_exists=True)
        target = self.settings.trials - self.price_trials
        ticker = Ticker(self.emit, "search", self.settings.trials)
        while (done := finished(study)) < target:
            study.sampler = self._sampler(50_000 + done)
            trial = study.ask()
            forced = {u: str(trial.suggest_categorical(u, list(f))) for u, f in options.items()}
            formats = solve_with(self.units, scores, self.budget_bytes, forced, self.pace.decode)
            self.trials.run(
                study,
                trial,
                formats,
                self.budget_bytes,
                label=f"contested units, trial {self.price_trials + trial.number}",
                before=self.price_trials,
            )
            ticker(self.price_trials + done + 1)

    def finalists(self, count: int) -> list[PrecisionPlan]:
        """The best distinct plans of both stages on the search split: by measured KL, or by time among
        those that keep the limit on the KL, then the others by KL."""
        rows = measured_plans(self.prices)
        if self.contested is not None:
            rows += measured_plans(self.contested)
        out: dict[str, PrecisionPlan] = {}
        most = self.pace.goal.max_kl

        def rank(row: tuple[dict[str, str], float, str]) -> tuple[int, float]:
            formats, kl, _ = row
            if self._ms_range is None or most is None:
                return 0, kl
            return (0, self.pace.ms(formats)) if kl <= most else (1, kl)

        for formats, _kl, label in sorted(rows, key=rank):
            plan = PrecisionPlan(formats=formats, label=label)
            out.setdefault(plan.key, plan)
        return list(out.values())[:count]

    def counts(self) -> tuple[int, int, int]:
        """Trials finished, of them pruned, and distinct plans measured to the end."""
        studies = [self.prices] + ([self.contested] if self.contested is not None else [])
        done = [t for s in studies for t in s.get_trials(deepcopy=False)]
        pruned = sum(t.state is optuna.trial.TrialState.PRUNED for t in done)
        return sum(finished(s) for s in studies), pruned, len(self.trials.known)
