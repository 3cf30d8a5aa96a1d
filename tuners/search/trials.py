"""One trial of any study of the search: a plan, measured on growing samples, told to Optuna, announced."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from profiles.errors import UsageError
from tuners.evaluate import Evaluator
from tuners.evaluate_schema import token_mean
from tuners.events import Emit, TrialFinished
from tuners.plan import PrecisionPlan, Unit
from tuners.search.pace import Pace
from tuners.search.schema import SearchSettings

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_storage(text: str | None, run_dir: Path) -> optuna.storages.BaseStorage:
    """The storage of all studies of a search: `study.db` of the run, or what the user names.

    `text` is a database URL (sqlite:///..., postgresql://...) or `journal:FILE`; workers on several
    machines need one that they all reach.

    Raises:
        UsageError: Optuna cannot open it.
    """
    from optuna.storages.journal import JournalFileBackend

    try:
        if text and text.startswith("journal:"):
            return optuna.storages.JournalStorage(JournalFileBackend(text.removeprefix("journal:")))
        url = text or f"sqlite:///{run_dir / 'study.db'}"
        arguments = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        run_dir.mkdir(parents=True, exist_ok=True)
        return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
    except Exception as exc:  # SQLAlchemy's and the drivers' own, whatever they are
        raise UsageError(
            "cannot open the storage of the study",
            got=f"{text or run_dir / 'study.db'}: {str(exc).splitlines()[0]}",
            allowed="a database URL as Optuna takes it, or journal:FILE",
        ) from exc


class Trials:
    """Measures the plans of trials on the search split; a plan seen before costs nothing."""

    def __init__(
        self,
        units: Sequence[Unit],
        evaluator: Evaluator,
        settings: SearchSettings,
        emit: Emit,
        pace: Pace | None = None,
    ) -> None:
        self.units = units
        self.pace = pace or Pace(units)
        self.evaluator = evaluator
        self.settings = settings
        self.emit = emit
        self.known: dict[str, tuple[float, ...]] = {}
        self.best: float | None = None

    def remember(self, study: optuna.Study) -> None:
        """Take over what a study has measured already."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if "sequence_kl" in trial.user_attrs:
                self._keep(trial.user_attrs["plan_key"], tuple(trial.user_attrs["sequence_kl"]))

    def run(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        formats: dict[str, str],
        budget_bytes: int,
        *,
        label: str,
        before: int = 0,
    ) -> None:
        """Measure the plan, tell the study, send the event; `before` counts the trials of earlier stages.

        The study is told the KL, or for the fastest plan its milliseconds, with the KL as a constraint.
        """
        start = time.monotonic()
        plan = PrecisionPlan(formats=formats, label=label)
        used = plan.bytes_of(self.units)
        for key, value in {
            "plan_key": plan.key,
            "formats": formats,
            "label": label,
            "unit_bytes": used,
            "excess_bytes": used - budget_bytes,
            **self.pace.attributes(plan),
        }.items():
            trial.set_user_attr(key, value)
        trial.set_constraint("bytes over the budget", used - budget_bytes)  # the decoder keeps it at most 0
        goal, ms = self.pace.goal, self.pace.ms(formats) if self.pace.known else None
        if goal.max_ms is not None and ms is not None:
            trial.set_constraint("ms over the limit", ms - goal.max_ms)
        state, losses = self._measure(trial, plan)
        kl = token_mean(losses, self.evaluator.sequence_tokens)
        trial.set_user_attr("kl", kl)
        if goal.max_kl is not None:
            trial.set_constraint("KL over the limit", kl - goal.max_kl)
        if state == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("sequence_kl", list(losses))
            study.tell(trial, ms if goal.objective == "fastest" and ms is not None else kl)
            self._keep(plan.key, losses)
            self.best = kl if self.best is None else min(self.best, kl)
        self.emit(
            TrialFinished(
                stage="search",
                number=before + trial.number,
                label=label,
                state=state,
                kl=kl,
                weight_bytes=used,
                bits_per_weight=plan.bits_per_weight(self.units),
                best_kl=self.best,
                trials_total=self.settings.trials,
                seconds=time.monotonic() - start,
                formats=formats,
                decode_ms=ms,
            )
        )

    def _keep(self, key: str, losses: tuple[float, ...]) -> None:
        if len(losses) == len(self.evaluator.ids):
            self.known[key] = losses

    def _measure(self, trial: optuna.Trial, plan: PrecisionPlan) -> tuple[str, tuple[float, ...]]:
        """Report sequence by sequence; at each rung stop when the paired test says it is worse."""
        losses: list[float] = list(self.known.get(plan.key, ()))
        if losses:
            for step, value in enumerate(losses):
                trial.report(value, step)
            return "known", tuple(losses)
        total = len(self.evaluator.ids)
        rungs = iter(sorted({max(1, round(share * total)) for share in self.settings.rungs}))
        rung = next(rungs, total)
        for batch in self.evaluator.losses(plan.formats):
            for loss in batch:
                trial.report(loss.kl, len(losses))
                losses.append(loss.kl)
            if rung <= len(losses) < total:
                if trial.should_prune() or self._hopeless(losses):
                    return "pruned", tuple(losses)
                rung = next((r for r in rungs if r > len(losses)), total)
        return "complete", tuple(losses)

    def _hopeless(self, losses: Sequence[float]) -> bool:
        """Whether the KL so far exceeds the goal's limit at the level of the pruning test (Student's t over
        sequences): the fastest plan has no incumbent that it could be compared with pairwise."""
        from scipy.stats import ttest_1samp

        most = self.pace.goal.max_kl
        if most is None or len(losses) < 2 or min(losses) == max(losses):
            return False
        found = ttest_1samp(losses, most, alternative="greater")
        return bool(found.pvalue < self.settings.prune_p / 2)


def fail_abandoned(study: optuna.Study) -> None:
    """Trials left running by a killed process are marked failed; their numbers are not reused."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if "fixed_params" in trial.system_attrs:
            origin = {k: v for k, v in trial.user_attrs.items() if k == "origin"}
            study.enqueue_trial(trial.system_attrs["fixed_params"], user_attrs=origin)


def finished(study: optuna.Study) -> int:
    """Trials that count."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def measured_plans(study: optuna.Study) -> list[tuple[dict[str, str], float, str]]:
    """Formats, KL and label of every trial measured on the whole split, the least KL first."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    rows = [
        (t.user_attrs["formats"], float(t.user_attrs.get("kl", t.values[0])), t.user_attrs["label"], t.number)
        for t in done
    ]
    return [(f, kl, label) for f, kl, label, _ in sorted(rows, key=lambda r: (r[1], r[3]))]
