"""The search as a child process: variants, sensitivity, study, choice among finalists, held-out report."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import torch

from profiles.tasks.schema import SplitName
from tuners.child import child_main, peak_rss_bytes
from tuners.evaluate import Evaluator, paired_difference
from tuners.events import Emit, FrontPoint, Message, Progress, StageFinished, StageStarted, Ticker
from tuners.model import cache
from tuners.model.calibrate import build_variants
from tuners.model.host import ModelHost
from tuners.model.items import Sequences, task_sequences
from tuners.model.variants import VariantStore
from tuners.plan import PrecisionPlan, uniform
from tuners.search.schema import Comparison, MeasuredPlan, SearchResult, SearchSpec
from tuners.search.study import PriceStudy
from tuners.sensitivity.measure import measure_gdy2, measure_kl
from tuners.sensitivity.table import GDY2, KL, MSE, CellLog, SensitivityTable
from tuners.solver import solve

UNIFORM = ("int4", "int8", "fp8")


def run(spec: SearchSpec, emit: Emit) -> SearchResult:
    """Run or resume a search; every intermediate result is on disk as soon as it exists."""
    return _Search(spec, emit).run()


class _Search:
    def __init__(self, spec: SearchSpec, emit: Emit) -> None:
        self.spec, self.emit, self.set = spec, emit, spec.settings
        emit(StageStarted(stage="load", title="load the model"))
        start = time.monotonic()
        self.host = ModelHost.load(spec.model_path, spec.units, trust_remote_code=spec.trust_remote_code)
        root = spec.cache_dir or spec.run_dir / "cache"
        self.cache = root / self._key()
        cache.touch(self.cache)
        for dropped in cache.trim(root, self.cache, cache.limit_bytes()):
            emit(Message(stage="load", text=f"cache over its limit: {dropped.name} removed"))
        self.store = VariantStore(self.host, self.cache / "variants", self.set.variant_memory_bytes)
        self.calibration = self.host.tokenise(
            spec.task.splits.search,
            seq_len=self.set.seq_len,
            max_sequences=self.set.calibration_sequences,
        )
        self.scored = self._sequences("search", self.set.search_sequences)
        self.search = self._evaluator("search", self.scored)
        self.select = self._evaluator("select", self._sequences("select", self.set.select_sequences))
        self.evaluate = self._evaluator("evaluate", self._sequences("evaluate", self.set.evaluate_sequences))
        # validation measures the same tokens in the engine, so that the two numbers may be compared
        _write(spec.run_dir / "evaluate_ids.json", json.dumps(self.evaluate.ids.tolist()))
        if self.evaluate.weights is not None:
            counted = json.dumps(self.evaluate.weights.tolist())
            _write(spec.run_dir / "evaluate_weights.json", counted)
        emit(StageFinished(stage="load", title="load the model", seconds=time.monotonic() - start))

    def _sequences(self, split: SplitName, count: int) -> Sequences:
        """The task's own sequences; the loss counts its answer tokens where it has answers."""
        found = task_sequences(
            self.host, self.spec.task, split, seq_len=self.set.seq_len, max_sequences=count
        )
        if found.skipped:
            text = f"{found.skipped} {split} item(s) longer than {self.set.seq_len} tokens left out"
            self.emit(Message(stage="load", level="warning", text=text))
        return found

    def _evaluator(self, split: str, found: Sequences) -> Evaluator:
        return Evaluator(
            self.host,
            self.store,
            found.ids,
            self.cache / "reference",
            split,
            batch_size=self.set.batch_size,
            weights=found.weights,
        )

    def _key(self) -> str:
        """Fingerprint of everything the cached variants and references depend on."""
        digest = hashlib.sha256()
        for file in sorted(Path(self.spec.model_path).glob("*.safetensors")):
            stat = file.stat()
            digest.update(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        for text in self.spec.task.splits.search:
            digest.update(text.encode())
        for part in self.spec.task.parts:
            digest.update(f"{part.name}:{part.weight}".encode())
        digest.update(
            f"{self.set.seq_len}:{self.set.calibration_sequences}:{self.set.gptq_damping}:{torch.__version__}".encode()
        )
        return digest.hexdigest()[:16]

    def run(self) -> SearchResult:
        build_variants(
            self.host,
            self.store,
            self.calibration,
            emit=self.emit,
            damping=self.set.gptq_damping,
            batch_size=self.set.batch_size,
        )
        table = self.sensitivity()
        start = time.monotonic()
        study = self.study(table)
        best = self.choose(study, table)
        front = self.front(table, best)
        held_out, original_ppl = self.report(table, best)
        trials, pruned, measured = study.counts()
        result = SearchResult(
            best=best,
            held_out=held_out,
            front=front,
            comparisons=self.comparisons(held_out),
            perplexity_original=original_ppl,
            budget_bytes=self.spec.budget_bytes,
            fixed_bytes=self.spec.fixed_bytes,
            trials=trials,
            trials_pruned=pruned,
            trials_measured=measured,
            sensitivity_seconds=table.seconds,
            search_seconds=time.monotonic() - start,
            signal_correlations={
                f"{s}~kl": c for s in (GDY2, MSE) if (c := table.rank_correlation(KL, s)) is not None
            },
            peak_rss_bytes=peak_rss_bytes(),
        )
        _write(self.spec.run_dir / "search.json", result.model_dump_json(indent=1))
        _write(self.spec.run_dir / "plan.yaml", best.plan.to_yaml())
        return result

    def sensitivity(self) -> SensitivityTable:
        """KL of every cell, then the cheap signals; a stopped run goes on at the next cell."""
        measured = self.scored.head(self.set.sensitivity_sequences)
        ids, weights = measured.ids, measured.weights
        kind = "" if weights is None else "-answers"
        path = self.cache / f"sensitivity{kind}-{len(ids)}.jsonl"
        done = self.cache / f"sensitivity{kind}-{len(ids)}.json"
        wanted = {(u.name, f) for u in self.spec.units for f in u.options if f != "BF16"}
        if done.exists():
            table = SensitivityTable.model_validate_json(done.read_text())
            if wanted <= {(c.unit, c.format) for c in table.cells}:
                self.emit(
                    StageFinished(
                        stage="sensitivity", title="sensitivity", seconds=table.seconds, skipped=True
                    )
                )
                _write(self.spec.run_dir / "sensitivity.json", table.model_dump_json())
                return table
        self.emit(
            StageStarted(
                stage="sensitivity", title="KL of every unit in every format", total=len(wanted), unit="cells"
            )
        )
        log = CellLog(path)
        start = time.monotonic()
        measure_kl(self.host, self.store, ids, log, emit=self.emit, weights=weights)
        fisher = measure_gdy2(
            self.host,
            self.store,
            ids,
            seed=self.set.seed,
            weights=weights,
            progress=lambda n, t: self.emit(
                Progress(stage="sensitivity", done=n, total=t, text="gradient signal, sequences")
            ),
        )
        cells = tuple(
            c.model_copy(update={"gdy2": fisher.get((c.unit, c.format))})
            for c in log.cells.values()
            if (c.unit, c.format) in wanted
        )
        blocks = len(self.host.blocks)
        table = SensitivityTable(
            cells=cells,
            tokens=int(ids.numel()),
            seconds=time.monotonic() - start,
            naive_forwards=len(wanted),
            suffix_forwards=sum(1 - self.host.block_of(u) / blocks for u, _ in wanted),
        )
        _write(done, table.model_dump_json())
        _write(self.spec.run_dir / "sensitivity.json", table.model_dump_json())
        self.emit(
            StageFinished(
                stage="sensitivity",
                title="sensitivity",
                seconds=table.seconds,
                peak_rss_bytes=peak_rss_bytes(),
                summary=f"{len(cells)} cells on {table.tokens} tokens",
            )
        )
        return table

    def study(self, table: SensitivityTable) -> PriceStudy:
        """The Optuna study at the budget."""
        self.emit(
            StageStarted(
                stage="search", title="Optuna over prices", total=float(self.set.trials), unit="trials"
            )
        )
        start = time.monotonic()
        digest = hashlib.sha256(
            (table.model_dump_json() + self.set.model_dump_json(exclude={"trials"})).encode()
        ).hexdigest()[:8]
        study = PriceStudy(
            self.spec.units,
            table,
            self.search,
            self.spec.budget_bytes,
            self.spec.run_dir / "study.db",
            self.set,
            self.emit,
            name=f"budget-{self.spec.budget_bytes}-{digest}",
        )
        study.run()
        trials, pruned, measured = study.counts()
        self.emit(
            StageFinished(
                stage="search",
                title="Optuna over prices",
                seconds=time.monotonic() - start,
                peak_rss_bytes=peak_rss_bytes(),
                summary=f"{trials} trials, {pruned} pruned, {measured} distinct plans measured",
            )
        )
        return study

    def exact(self, table: SensitivityTable, budget_bytes: int) -> PrecisionPlan:
        """The exact additive solution of the measured KL scores."""
        formats = solve(self.spec.units, table.scores(KL), budget_bytes)
        return PrecisionPlan(formats=formats, label="exact additive", model_id=self.spec.model_id)

    def choose(self, study: PriceStudy, table: SensitivityTable) -> MeasuredPlan:
        """The best finalist on the selection split: text that neither scores nor trials have seen."""
        plans = {p.key: p for p in study.finalists(self.set.finalists)}
        exact = self.exact(table, self.spec.budget_bytes)
        plans.setdefault(exact.key, exact)
        self.emit(
            StageStarted(stage="select", title="choose among finalists", total=len(plans), unit="plans")
        )
        start, ticker, measured = time.monotonic(), Ticker(self.emit, "select", len(plans)), []
        for done, plan in enumerate(plans.values(), 1):
            measured.append(self.measure(plan, self.select))
            ticker(done, plan.label)
        best = min(measured, key=lambda m: m.quality.kl)
        self.emit(StageFinished(stage="select", title="choice", seconds=time.monotonic() - start))
        plan = best.plan.model_copy(
            update={
                "label": f"Advisor ({best.label})",
                "model_id": self.spec.model_id,
                "notes": (f"chosen among {len(plans)} finalists by KL on the selection split",),
            }
        )
        return best.model_copy(update={"plan": plan, "label": plan.label})

    def measure(self, plan: PrecisionPlan, evaluator: Evaluator) -> MeasuredPlan:
        """A plan on a split, announced as a point of the front."""
        measured = MeasuredPlan(
            label=plan.label,
            plan=plan,
            unit_bytes=plan.bytes_of(self.spec.units),
            bits_per_weight=plan.bits_per_weight(self.spec.units),
            quality=evaluator.quality(plan.formats),
        )
        self.emit(
            FrontPoint(
                stage="select",
                label=plan.label,
                kl=measured.quality.kl,
                weight_bytes=measured.unit_bytes + self.spec.fixed_bytes,
                bits_per_weight=measured.bits_per_weight,
                split=evaluator.split,
                formats=plan.formats,
            )
        )
        return measured

    def uniforms(self) -> list[PrecisionPlan]:
        """The uniform schemes that the menu allows on every unit."""
        plans = [uniform(self.spec.units, family) for family in UNIFORM]
        return [p for p in plans if "BF16" not in p.formats.values()]

    def front(self, table: SensitivityTable, best: MeasuredPlan) -> tuple[MeasuredPlan, ...]:
        """Uniform schemes and exact solutions at other budgets, measured on the selection split."""
        weights = sum(u.numel for u in self.spec.units)
        smallest = sum(min(u.bytes_as(f) for f in u.options) for u in self.spec.units)
        plans = self.uniforms()
        for bits in self.set.front_bits:
            budget = int(bits * weights / 8)
            if budget >= smallest:
                exact = self.exact(table, budget)
                plans.append(exact.model_copy(update={"label": f"exact additive {bits:g} bits"}))
        self.emit(StageStarted(stage="front", title="the front", total=len(plans), unit="plans"))
        start, ticker, points = time.monotonic(), Ticker(self.emit, "front", len(plans)), [best]
        for done, plan in enumerate(plans, 1):
            points.append(self.measure(plan, self.select))
            ticker(done, plan.label)
        self.emit(StageFinished(stage="front", title="the front", seconds=time.monotonic() - start))
        return tuple(sorted(points, key=lambda p: p.unit_bytes))

    def report(self, table: SensitivityTable, best: MeasuredPlan) -> tuple[tuple[MeasuredPlan, ...], float]:
        """Held-out quality of the plan, the exact solution and the uniform schemes. Chooses nothing."""
        exact = self.exact(table, self.spec.budget_bytes)
        plans = [best.plan, exact, *self.uniforms()]
        self.emit(StageStarted(stage="evaluate", title="held-out text", total=len(plans) + 1, unit="plans"))
        start, ticker = time.monotonic(), Ticker(self.emit, "evaluate", len(plans) + 1)
        original = self.evaluate.quality({u.name: "BF16" for u in self.spec.units})
        ticker(1, "original")
        out: list[MeasuredPlan] = []
        for done, plan in enumerate(plans, 2):
            same = next((m for m in out if m.plan.key == plan.key), None)
            out.append(
                self.measure(plan, self.evaluate)
                if same is None
                else same.model_copy(update={"label": plan.label, "plan": plan})
            )
            ticker(done, plan.label)
        self.emit(StageFinished(stage="evaluate", title="held-out text", seconds=time.monotonic() - start))
        return tuple(out), original.perplexity

    def comparisons(self, held_out: tuple[MeasuredPlan, ...]) -> tuple[Comparison, ...]:
        """Best against each other plan, paired over the held-out sequences."""
        best = held_out[0]
        out = []
        for other in held_out[1:]:
            mean, low, high = paired_difference(
                best.quality.sequence_kl, other.quality.sequence_kl, seed=self.set.seed
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
                    f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]: {verdict}",
                )
            )
        return tuple(out)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    child_main(SearchSpec, run)
