"""The Optuna studies of one budget: first over prices, then over the contested units directly.

Measured KL on the search split is the objective of both. All state is in the storage: a study resumes,
several processes may work on it, and `optuna-dashboard` opens it.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.pruners import WilcoxonPruner
from optuna.samplers import TPESampler

from tuners.events import Emit, Message, Ticker
from tuners.plan import PrecisionPlan, Unit
from tuners.search.contested import contested_units, solve_with
from tuners.search.prices import Prices, PriceSpace, scores_of
from tuners.search.residuals import correction
from tuners.search.schema import SearchSettings
from tuners.search.trials import Trials, fail_abandoned, finished, measured_plans
from tuners.sensitivity.table import KL, SensitivityTable
from tuners.solver import solve

STARTUP_TRIALS = 8
"""Random trials before TPE models anything, the enqueued exact solutions included (Optuna's default is
10 for a full-size study; ours starts from solutions that are already good)."""

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
            pruner=WilcoxonPruner(
                p_threshold=self.settings.prune_p, n_startup_steps=self.settings.batch_size
            ),
        )
        if not self.worker:
            fail_abandoned(study)
        self.trials.remember(study)
        return study

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
        return total if total < SMALL_STUDY else total - round(total * self.settings.contested_share)

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
            study.sampler = self._sampler(done)
            trial = study.ask()
            prices = self.space.suggest(trial)
            formats = solve(self.units, self.scores(prices), self.budget_bytes)
            label = str(trial.user_attrs.get("origin", f"prices, trial {trial.number}"))
            self.trials.run(study, trial, formats, self.budget_bytes, label=label)
            ticker(done + 1)

    def seed_trials(self) -> None:
        """Put every signal's exact solution at the head of a new study."""
        if not self.prices.get_trials(deepcopy=False):
            for signal in self.space.signals:
                self.prices.enqueue_trial(
                    self.space.neutral(signal), user_attrs={"origin": f"exact, {signal}"}
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
            self.prices.enqueue_trial(
                self.space.neutral(self.base_signal, residual=1.0),
                user_attrs={"origin": f"exact, corrected by {done} trials"},
            )

    def _learned(self) -> dict[str, dict[str, float]] | None:
        observed = [(f, kl) for f, kl, _ in measured_plans(self.prices)]
        return correction(self.units, self.table.scores(self.base_signal), observed)

    def scores(self, prices: Prices) -> dict[str, dict[str, float]]:
        """The scores of these prices, with what measured trials taught so far."""
        return scores_of(prices, self.units, self.table, self._learned() if prices.residual > 0 else None)

    def best_prices(self) -> Prices:
        """The prices of the best trial of the first stage."""
        best = self.prices.best_trial
        return self.space.suggest(optuna.trial.FixedTrial(best.params))

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
            formats = solve_with(self.units, scores, self.budget_bytes, forced)
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
        """The best distinct plans of both stages by measured KL on the search split."""
        rows = measured_plans(self.prices)
        if self.contested is not None:
            rows += measured_plans(self.contested)
        out: dict[str, PrecisionPlan] = {}
        for formats, _kl, label in sorted(rows, key=lambda r: r[1]):
            plan = PrecisionPlan(formats=formats, label=label)
            out.setdefault(plan.key, plan)
        return list(out.values())[:count]

    def counts(self) -> tuple[int, int, int]:
        """Trials finished, of them pruned, and distinct plans measured to the end."""
        studies = [self.prices] + ([self.contested] if self.contested is not None else [])
        done = [t for s in studies for t in s.get_trials(deepcopy=False)]
        pruned = sum(t.state is optuna.trial.TrialState.PRUNED for t in done)
        return sum(finished(s) for s in studies), pruned, len(self.trials.known)
