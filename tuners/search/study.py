"""The Optuna study: trials set prices, measured KL on the search split is the objective."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.pruners import WilcoxonPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from tuners.evaluate import Evaluator
from tuners.events import Emit, Ticker, TrialFinished
from tuners.plan import PrecisionPlan, Unit
from tuners.search import prices as pricing
from tuners.search.schema import SearchSettings
from tuners.sensitivity.table import SensitivityTable

STARTUP_TRIALS = 8
"""Random trials before TPE models anything, the enqueued exact solutions included (Optuna's default is
10 for a full-size study; ours starts from solutions that are already good)."""


class PriceStudy:
    """One study at one budget; resumable, reproducible by seed, one SQLite file for `optuna-dashboard`."""

    def __init__(
        self,
        units: Sequence[Unit],
        table: SensitivityTable,
        evaluator: Evaluator,
        budget_bytes: int,
        storage: Path,
        settings: SearchSettings,
        emit: Emit,
        name: str,
    ) -> None:
        self.units = units
        self.table = table
        self.evaluator = evaluator
        self.budget_bytes = budget_bytes
        self.settings = settings
        self.emit = emit
        self.roles = sorted({u.role for u in units})
        self.families = sorted({pricing.family_of(f) for u in units for f in u.options} - {"16-bit"})
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage.parent.mkdir(parents=True, exist_ok=True)
        self.study = optuna.create_study(
            storage=f"sqlite:///{storage}",
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            sampler=self._sampler(0),
            pruner=WilcoxonPruner(p_threshold=settings.prune_p, n_startup_steps=settings.batch_size),
        )
        self._fail_abandoned()
        self._known = self._known_plans()

    def _sampler(self, number: int) -> TPESampler:
        """A sampler seeded by study seed and trial number: a resumed study draws what it would have drawn."""
        return TPESampler(
            multivariate=True,
            n_startup_trials=STARTUP_TRIALS,
            seed=self.settings.seed * 100_003 + number,
            constraints_func=_constraints,
        )

    def _fail_abandoned(self) -> None:
        """Trials left running by a killed process are marked failed; their numbers are not reused."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            if "fixed_params" in trial.system_attrs:
                self.study.enqueue_trial(trial.system_attrs["fixed_params"], skip_if_exists=False)

    def _known_plans(self) -> dict[str, tuple[float, tuple[float, ...]]]:
        return {
            t.user_attrs["plan_key"]: (float(t.value), tuple(t.user_attrs["sequence_kl"]))
            for t in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if t.value is not None
        }

    def run(self) -> None:
        """Run until the study holds the number of trials asked for."""
        if not self.study.get_trials(deepcopy=False):
            for signal in pricing.SIGNALS:
                self.study.enqueue_trial(pricing.neutral(self.roles, self.families, signal))
        finished = (TrialState.COMPLETE, TrialState.PRUNED)
        ticker = Ticker(self.emit, "search", self.settings.trials)
        while (done := len(self.study.get_trials(deepcopy=False, states=finished))) < self.settings.trials:
            self.study.sampler = self._sampler(done)
            self._one()
            ticker(done + 1)

    def _one(self) -> None:
        start = time.monotonic()
        trial = self.study.ask()
        prices = pricing.suggest(trial, self.roles, self.families)
        formats = pricing.decode(prices, self.units, self.table, self.budget_bytes)
        plan = PrecisionPlan(formats=formats, label=f"trial {trial.number}")
        used = plan.bytes_of(self.units)
        trial.set_user_attr("plan_key", plan.key)
        trial.set_user_attr("formats", formats)
        trial.set_user_attr("unit_bytes", used)
        trial.set_user_attr("excess_bytes", used - self.budget_bytes)
        state, kl = self._measure(trial, plan)
        best = self._best_value()
        self.emit(
            TrialFinished(
                stage="search",
                number=trial.number,
                label=plan.label,
                state=state,
                kl=kl,
                weight_bytes=used,
                bits_per_weight=plan.bits_per_weight(self.units),
                best_kl=best,
                trials_total=self.settings.trials,
                seconds=time.monotonic() - start,
                formats=formats,
            )
        )

    def _measure(self, trial: optuna.Trial, plan: PrecisionPlan) -> tuple[str, float | None]:
        """Measure batch by batch, report every sequence, stop when the paired test says it is worse."""
        known = self._known.get(plan.key)
        losses: list[float] = []
        if known is not None:
            losses.extend(known[1])
            for step, value in enumerate(losses):
                trial.report(value, step)
        else:
            for batch in self.evaluator.losses(plan.formats):
                for loss in batch:
                    trial.report(loss.kl, len(losses))
                    losses.append(loss.kl)
                if len(losses) < len(self.evaluator.ids) and trial.should_prune():
                    self.study.tell(trial, state=TrialState.PRUNED)
                    return "pruned", sum(losses) / len(losses)
        value = sum(losses) / len(losses)
        trial.set_user_attr("sequence_kl", losses)
        self.study.tell(trial, value)
        self._known[plan.key] = (value, tuple(losses))
        return "complete" if known is None else "known", value

    def _best_value(self) -> float | None:
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return min((t.value for t in done if t.value is not None), default=None)

    def finalists(self, count: int) -> list[PrecisionPlan]:
        """The best distinct plans by measured KL on the search split."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        out: dict[str, PrecisionPlan] = {}
        for trial in sorted(done, key=lambda t: (t.value, t.number)):
            plan = PrecisionPlan(formats=trial.user_attrs["formats"], label=f"trial {trial.number}")
            out.setdefault(plan.key, plan)
        return list(out.values())[:count]

    def counts(self) -> tuple[int, int, int]:
        """Trials finished, of them pruned, and distinct plans measured to the end."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        pruned = sum(t.state is TrialState.PRUNED for t in done)
        return len(done), pruned, len(self._known)


def _constraints(trial: FrozenTrial) -> Sequence[float]:
    """Optuna's convention: above zero is infeasible. The decoder keeps it at or below zero always."""
    return (float(trial.user_attrs.get("excess_bytes", 0)),)
