"""After the study: the choice on the selection split, the front, and the held-out report."""

from __future__ import annotations

import time
from collections.abc import Sequence

from profiles.errors import InfeasibleError
from profiles.formats.kv_cache import ROUNDED
from tuners.evaluate import Evaluator, paired_difference
from tuners.evaluate_schema import Quality
from tuners.events import Emit, FrontPoint, Message, StageFinished, StageStarted, Ticker
from tuners.model.kv_cache import kv_spans, rounded_cache
from tuners.nats import nats, signed
from tuners.plan import PrecisionPlan, uniform
from tuners.search.front import efficient
from tuners.search.front_study import FrontStudy
from tuners.search.schema import Comparison, Front, KvCost, MeasuredPlan
from tuners.search.setup import Setup
from tuners.search.study import PlanSearch
from tuners.sensitivity.table import SensitivityTable

UNIFORM = ("int4", "int8", "fp8")


class Reporter:
    """Measures finished plans; a plan measured on a split once is not measured again."""

    def __init__(self, setup: Setup, table: SensitivityTable, emit: Emit) -> None:
        self.setup, self.table, self.emit = setup, table, emit
        self.units = setup.spec.units
        self.pace = setup.pace()
        self._seen: dict[tuple[str, str], Quality] = {}
        self._finalists: list[MeasuredPlan] = []

    def exact(self, signal: str, budget_bytes: int) -> PrecisionPlan:
        """The exact additive solution of one signal's scores, within the goal's time where it has one."""
        formats = self.pace.decode(self.units, self.table.scores(signal), budget_bytes)
        return PrecisionPlan(
            formats=formats, label=f"exact additive ({signal})", model_id=self.setup.spec.model_id
        )

    def uniforms(self) -> list[PrecisionPlan]:
        """The uniform schemes that the menu allows on every unit."""
        plans = [uniform(self.units, family) for family in UNIFORM]
        quantizable = [u.name for u in self.units if u.role != "lm_head"]
        return [p for p in plans if all(p.formats[name] != "BF16" for name in quantizable)]

    def kv_cost(self, best: MeasuredPlan, dtype: str) -> KvCost | None:
        """What a KV cache of that dtype costs the plan on held-out text; None for one that rounds nothing."""
        if dtype not in ROUNDED:
            return None
        setup, on = self.setup, self.setup.held_out
        without = self.quality(best.plan, on)
        spans = kv_spans(setup.host, setup.calibration, setup.settings.batch_size)
        with rounded_cache(setup.host, dtype, spans):
            rounded = on.quality(best.plan.formats)
        mean, low, high = paired_difference(
            rounded.sequence_kl, without.sequence_kl, tokens=rounded.sequence_tokens
        )
        return KvCost(
            dtype=dtype,
            kl_without=without.kl,
            kl_with=rounded.kl,
            difference=mean,
            low=low,
            high=high,
            perplexity_with=rounded.perplexity,
            top1_with=rounded.top1,
            tokens=rounded.tokens,
        )

    def quality(self, plan: PrecisionPlan, evaluator: Evaluator) -> Quality:
        """What the plan loses on the split."""
        key = evaluator.split, plan.key
        if key not in self._seen:
            self._seen[key] = evaluator.quality(plan.formats)
        return self._seen[key]

    def measure(self, plan: PrecisionPlan, evaluator: Evaluator) -> MeasuredPlan:
        """A plan on a split, announced as a point of the front."""
        quality = self.quality(plan, evaluator)
        measured = MeasuredPlan(
            label=plan.label,
            plan=plan,
            unit_bytes=plan.bytes_of(self.units),
            bits_per_weight=plan.bits_per_weight(self.units),
            quality=quality,
            speed=self.pace.speed(plan),
        )
        self.emit(
            FrontPoint(
                stage="select",
                label=plan.label,
                kl=quality.kl,
                weight_bytes=measured.unit_bytes + self.setup.spec.fixed_bytes,
                bits_per_weight=measured.bits_per_weight,
                split=evaluator.split,
                formats=plan.formats,
                decode_ms=measured.speed.decode_ms.value if measured.speed else None,
            )
        )
        return measured

    def _stage(
        self, stage: str, title: str, plans: Sequence[PrecisionPlan], on: Evaluator
    ) -> list[MeasuredPlan]:
        self.emit(StageStarted(stage=stage, title=title, total=len(plans), unit="plans"))
        start, ticker, out = time.monotonic(), Ticker(self.emit, stage, len(plans)), []
        for done, plan in enumerate(plans, 1):
            out.append(self.measure(plan, on))
            ticker(done, plan.label)
        self.emit(StageFinished(stage=stage, title=title, seconds=time.monotonic() - start))
        if on is self.setup.select:
            self._finalists += out
        return out

    def choose(self, search: PlanSearch) -> MeasuredPlan:
        """The best of the best trials and of every signal's exact solution, by KL on the selection split,
        which neither scores nor trials have seen.

        The least KL of many is partly luck: unless it beats the exact solution of the best signal beyond the
        paired interval, that one is taken.
        """
        if self.pace.goal.objective == "fastest":
            return self._fastest(search)
        signals = self.table.signals()
        exact = [self.exact(signal, self.setup.spec.budget_bytes) for signal in signals]
        plans = {p.key: p for p in [*search.finalists(self.setup.settings.finalists), *exact]}
        measured = self._stage("select", "choose among finalists", list(plans.values()), self.setup.select)
        of_exact = {p.key for p in exact}
        base = min((m for m in measured if m.plan.key in of_exact), key=lambda m: m.quality.kl)
        best = preferred(min(measured, key=lambda m: m.quality.kl), base, self.setup.settings.seed)
        return self._named(best, f"chosen among {len(plans)} finalists by KL on the selection split")

    def _named(self, best: MeasuredPlan, note: str) -> MeasuredPlan:
        label = f"Advisor ({best.label})"
        update = {"label": label, "model_id": self.setup.spec.model_id, "notes": (note,)}
        return best.model_copy(update={"plan": best.plan.model_copy(update=update), "label": label})

    def _fastest(self, search: PlanSearch) -> MeasuredPlan:
        """The fastest finalist whose KL on the selection split keeps the limit; finalists are measured from
        the fastest on until enough of them do.

        Raises:
            InfeasibleError: no measured plan does; the message says the least KL.
        """
        most, wanted = self.pace.goal.max_kl, self.setup.settings.finalists
        assert most is not None
        good: list[MeasuredPlan] = []
        measured: list[MeasuredPlan] = []
        plans = search.finalists(self.setup.settings.trials)
        if not plans:  # every trial was pruned, or broke the limit
            plans = [self.exact(self.table.signals()[0], self.setup.spec.budget_bytes)]
        while plans and len(good) < wanted and len(measured) < 3 * wanted:
            batch, plans = plans[:wanted], plans[wanted:]
            measured += self._stage("select", "choose among finalists", batch, self.setup.select)
            good = [m for m in measured if m.quality.kl <= most]
        if not good:
            least = min(measured, key=lambda m: m.quality.kl)
            raise InfeasibleError(
                "no measured plan within the budget keeps the limit on the KL",
                got=f"KL {nats(least.quality.kl)} on the selection split, {least.bits_per_weight:.3f} bits",
                allowed=f"at most {most:g}",
                next_step="a higher --max-kl, a larger --budget, or more --trials",
            )
        best = min(good, key=lambda m: self.pace.ms(m.plan.formats))
        return self._named(
            best,
            f"the fastest by prediction of {len(measured)} finalists whose KL on the selection split is at "
            f"most {most:g}",
        )

    def goal_notes(self, best: MeasuredPlan) -> tuple[str, ...]:
        """How the held-out text and the predicted time stand to what was asked."""
        goal, notes = self.pace.goal, []
        ms = self.pace.ms(best.plan.formats) if self.pace.known else None
        if goal.is_timed and ms is not None:
            asked = f", at most {goal.max_ms:g} were asked for" if goal.max_ms is not None else ""
            notes.append(f"predicted: {ms:.4g} ms per token at batch {goal.batch}{asked}")
        if goal.max_kl is not None:
            kept = "within" if best.quality.kl <= goal.max_kl else "ABOVE"
            notes.append(f"held-out KL {nats(best.quality.kl)}: {kept} the {goal.max_kl:g} asked for")
        return tuple(notes)

    def front(self, search: PlanSearch, best: MeasuredPlan) -> Front:
        """Uniform schemes and the front study's plans, measured on the selection split; after a quick search
        the finalists alone."""
        settings, select = self.setup.settings, self.setup.select
        if settings.is_quick:
            return self._front_of([best, *self._finalists])
        study = FrontStudy(
            search, lambda plan: self.quality(plan, select), settings.front_points, settings.front_trials
        )
        self.emit(StageStarted(stage="front", title="the front", total=study.total, unit="plans"))
        start, ticker = time.monotonic(), Ticker(self.emit, "front", study.total)
        study.run(ticker)
        measured = [best, *(self.measure(plan, select) for plan in self.uniforms())]
        for plan, quality in study.plans():
            self._seen[select.split, plan.key] = quality
            measured.append(self.measure(plan, select))
        self.emit(StageFinished(stage="front", title="the front", seconds=time.monotonic() - start))
        return self._front_of(measured)

    def _front_of(self, measured: Sequence[MeasuredPlan]) -> Front:
        return Front(
            points=efficient(measured),
            fixed_bytes=self.setup.spec.fixed_bytes,
            weights=sum(u.numel for u in self.units),
            smallest_bytes=sum(min(u.bytes_as(f) for f in u.options) for u in self.units),
            largest_bytes=sum(u.bytes_as("BF16") for u in self.units),
        )

    def held_out(self, best: MeasuredPlan) -> tuple[tuple[MeasuredPlan, ...], Quality]:
        """On text that chose nothing: the plan, the exact solution, the uniform schemes; and the original.
        Of a quick search without trials the plan alone."""
        settings, on = self.setup.settings, self.setup.held_out
        base = self.exact(self.table.signals()[0], self.setup.spec.budget_bytes)
        exact = base.model_copy(update={"label": "exact additive"})
        rivals = [exact, *self.uniforms()] if settings.trials or not settings.is_quick else []
        plans = [best.plan, *rivals]
        return tuple(self._stage("evaluate", "held-out text", plans, on)), on.original()

    def comparisons(self, held_out: Sequence[MeasuredPlan]) -> tuple[Comparison, ...]:
        """Best against each other plan, paired over the held-out sequences."""
        best = held_out[0]
        out = []
        for other in held_out[1:]:
            mean, low, high = paired_difference(
                best.quality.sequence_kl,
                other.quality.sequence_kl,
                best.quality.sequence_tokens,
                seed=self.setup.settings.seed,
            )
            verdict = "better" if high < 0 else "worse" if low > 0 else "no measurable difference"
            if best.plan.key == other.plan.key:
                verdict = "the same plan"
            out.append(Comparison(other=other.label, difference=mean, low=low, high=high, verdict=verdict))
            self.emit(
                Message(
                    stage="evaluate",
                    text=f"held-out KL at {best.bits_per_weight:.2f} bits against {other.label} "
                    f"at {other.bits_per_weight:.2f}: "
                    f"{signed(mean)} [{signed(low)}, {signed(high)}]: {verdict}",
                )
            )
        return tuple(out)


def preferred(best: MeasuredPlan, base: MeasuredPlan, seed: int) -> MeasuredPlan:
    """`best` when it beats `base` beyond the paired 95 % interval over the sequences, else `base`."""
    if best.plan.key == base.plan.key:
        return base
    ours, tokens = best.quality.sequence_kl, best.quality.sequence_tokens
    _, _, high = paired_difference(ours, base.quality.sequence_kl, tokens, seed=seed)
    return best if high < 0 else base
