"""Task profiles as a child process: uniform formats, units and scores, until the decision stands.

The KL of a uniform format is measured. Each unit's share of it is apportioned by the second-order KL of
answers.py, or measured one by one with `exact`: additivity holds well from 4 to 8 bits (uniform INT4
measured 0.434, sum of single units 0.443), and the second-order signal ranks units like measured KL
(Spearman 0.97). A handful of cells is measured every time to check that this holds on the model at hand.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from profiles.formats import get_format
from profiles.provenance import Figure, Provenance
from profiles.tasks.schema import TaskProfile
from tuners.child import child_main
from tuners.evaluate import compare, paired_difference
from tuners.evaluate_schema import SequenceLoss
from tuners.events import Emit, Message, Progress, StageFinished, StageStarted
from tuners.model import cache
from tuners.model.calibrate import build_variants
from tuners.model.host import ModelHost
from tuners.model.items import Sequences, task_sequences
from tuners.model.variants import VariantStore
from tuners.plan import PrecisionPlan, uniform
from tuners.sensitivity import stopping
from tuners.sensitivity.answers import fisher_row
from tuners.sensitivity.crossing import conclude, correlate, crossings
from tuners.sensitivity.scoring import score_items
from tuners.sensitivity.task_schema import (
    FAMILIES,
    FamilyName,
    Stopped,
    TaskSensitivity,
    TasksResult,
    TasksSpec,
    UniformLoss,
    UnitLoss,
)

STAGE = "sensitivity"
VERSION = 1
"""Changes when a cached profile would no longer mean the same."""


def run(spec: TasksSpec, emit: Emit) -> TasksResult:
    """Profile every task that is not in the cache, then compare them."""
    start = time.monotonic()
    bench = Bench(spec, emit)
    profiles = [bench.profile(task) for task in spec.tasks]
    weights = sum(u.numel for u in spec.units)
    crossed = crossings(bench, spec.tasks, profiles) if len(profiles) > 1 else ()
    correlations = correlate(profiles, spec.units)
    return TasksResult(
        model_id=spec.model_id,
        budget_bits=spec.budget_bytes * 8 / weights,
        tasks=tuple(profiles),
        correlations=correlations,
        crossings=crossed,
        conclusion=conclude(profiles, correlations, crossed),
        seconds=time.monotonic() - start,
    )


class Bench:
    """The model with every variant at hand."""

    def __init__(self, spec: TasksSpec, emit: Emit) -> None:
        self.spec, self.emit, self.set = spec, emit, spec.settings
        emit(StageStarted(stage=STAGE, title="task profiles"))
        self.host = ModelHost.load(spec.model_path, spec.units, trust_remote_code=spec.trust_remote_code)
        self.context = int(getattr(self.host.model.config, "max_position_embeddings", 2**20))
        calibration = self.host.tokenise(
            spec.calibration.splits.search,
            seq_len=self.set.calibration_len,
            max_sequences=self.set.calibration_sequences,
        )
        self.folder = spec.cache_dir / self._key(calibration)
        cache.touch(self.folder)
        cache.trim(spec.cache_dir, self.folder, cache.limit_bytes())
        self.store = VariantStore(self.host, self.folder / "variants", 4 * 2**30)
        build_variants(self.host, self.store, calibration, emit=emit)
        self.uniforms: dict[FamilyName, PrecisionPlan] = {
            family: plan
            for family in FAMILIES
            if "BF16" not in (plan := uniform(spec.units, family)).formats.values()
        }

    def _key(self, calibration: Tensor) -> str:
        digest = hashlib.sha256(f"{VERSION}:{torch.__version__}".encode())
        for file in sorted(self.spec.model_path.glob("*.safetensors")):
            stat = file.stat()
            digest.update(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        digest.update(calibration.numpy().tobytes())
        return digest.hexdigest()[:16]

    def profile(self, task: TaskProfile) -> TaskSensitivity:
        """The profile of one task, from the cache when the task and the settings are the same."""
        units = hashlib.sha256("".join(u.model_dump_json() for u in self.spec.units).encode()).hexdigest()
        question = json.dumps(
            [task.model_dump(mode="json"), self.set.model_dump(mode="json"), self.spec.budget_bytes, units]
        )
        path = self.folder / f"profile-{hashlib.sha256(question.encode()).hexdigest()[:16]}.json"
        if path.exists():
            self.emit(StageFinished(stage=STAGE, title=task.title, seconds=0, skipped=True))
            return TaskSensitivity.model_validate_json(path.read_text())
        found = _OneTask(self, task).run()
        partial = path.with_suffix(".partial")
        partial.write_text(found.model_dump_json())
        partial.replace(path)
        self.emit(
            StageFinished(stage=STAGE, title=task.title, seconds=found.seconds, summary=found.stopped.why)
        )
        return found

    def sequences(self, task: TaskProfile, split: str, count: int) -> Sequences:
        """Sequences of a split of the task."""
        length = min(task.seq_len, self.context)
        return task_sequences(self.host, task, split, seq_len=length, max_sequences=count)  # type: ignore[arg-type]

    def losses(self, chunk: Sequences, reference: Tensor, formats: Mapping[str, str]) -> list[SequenceLoss]:
        """Losses of a plan on a few sequences against the original's log-probabilities."""
        with self.store.installed(formats):
            return compare(self.host.logits(chunk.ids), reference, chunk.ids, chunk.weights)

    def reference(self, chunk: Sequences) -> Tensor:
        """Log-probabilities of the original."""
        return torch.log_softmax(self.host.logits(chunk.ids), -1)


class _OneTask:
    def __init__(self, bench: Bench, task: TaskProfile) -> None:
        self.bench, self.task, self.set = bench, task, bench.set
        length = min(task.seq_len, bench.context)
        self.step = max(2, self.set.chunk_tokens // length)
        self.all = bench.sequences(task, "search", self.step * self.set.most_chunks)
        self.samples: dict[tuple[str, str], list[float]] = {}
        self.measured: dict[str, list[SequenceLoss]] = {f: [] for f in ("original", *bench.uniforms)}
        self.scores: dict[str, list[float]] = {f: [] for f in ("original", *bench.uniforms)}
        self.skipped_items = 0
        self.exact: dict[tuple[str, str], list[float]] = {}

    def run(self) -> TaskSensitivity:
        """Chunks until the decision stands, then scores, then the check."""
        start = time.monotonic()
        self.say(f"{self.task.name}: {len(self.all)} sequences of {self.all.ids.shape[1]} tokens at most")
        rng = torch.Generator().manual_seed(self.set.seed)
        chunks, why, sure, plan = 0, None, 0.0, dict[str, str]()
        while why is None:
            self.chunk(chunks * self.step, rng)
            chunks += 1
            if chunks < self.set.least_chunks and self.done < len(self.all):
                continue
            plan, sure = stopping.plan_certainty(
                self.bench.spec.units,
                self.apportioned(),
                self.bench.spec.budget_bytes,
                tolerance=self.set.tolerance,
                bootstraps=self.set.bootstraps,
                seed=self.set.seed,
            )
            why = stopping.why_stopped(
                sure=sure,
                confidence=self.set.confidence,
                undecided=[f for f in self.bench.uniforms if self.verdict(f) == "undecided"],
                chunks=chunks,
                most=self.set.most_chunks,
                exhausted=self.done >= len(self.all),
            )
            self.say(
                f"{self.task.name}: {self.done} sequences, {sure:.0%} sure" + (f": {why}" if why else "")
            )
        score_note = self.score()
        check = self.check()
        if self.set.exact:
            plan, sure = stopping.plan_certainty(
                self.bench.spec.units, {**self.apportioned(), **self.exact}, self.bench.spec.budget_bytes,
                tolerance=self.set.tolerance, bootstraps=self.set.bootstraps, seed=self.set.seed,
            ) if self.exact_is_paired() else (plan, sure)  # fmt: skip
        return self.result(plan, sure, why, check, score_note, time.monotonic() - start)

    @property
    def done(self) -> int:
        return len(self.measured["original"])

    def say(self, text: str) -> None:
        self.bench.emit(Message(stage=STAGE, text=text))

    def chunk(self, first: int, rng: torch.Generator) -> None:
        """A few more sequences: uniform formats, and one backward pass each for all units."""
        rows = slice(first, first + self.step)
        weights = None if self.all.weights is None else self.all.weights[rows]
        chunk = Sequences(self.all.ids[rows], weights)
        reference = self.bench.reference(chunk)
        self.measured["original"] += compare(reference, reference, chunk.ids, chunk.weights)
        for family, plan in self.bench.uniforms.items():
            self.measured[family] += self.bench.losses(chunk, reference, plan.formats)
        for row in range(len(chunk)):
            counted = None if weights is None else weights[row]
            values = fisher_row(self.bench.host, self.bench.store, chunk.ids[row], counted, rng)
            for cell, value in values.items():
                self.samples.setdefault(cell, []).append(value)
            self.bench.emit(
                Progress(stage=STAGE, done=first + row + 1, total=len(self.all), text=self.task.name)
            )

    def apportioned(self) -> dict[tuple[str, str], list[float]]:
        """Samples scaled so that the cells of a family sum to the measured KL of the uniform format."""
        totals: dict[str, float] = {}
        for (_, fmt), values in self.samples.items():
            family = get_format(fmt).family
            totals[family] = totals.get(family, 0.0) + float(np.mean(values))
        out = {}
        for (unit, fmt), values in self.samples.items():
            family = get_format(fmt).family
            losses = self.measured.get(family)
            scale = 1.0
            if losses and totals[family] > 0:
                scale = max(float(np.mean([x.kl for x in losses])), 1e-12) / totals[family]
            out[unit, fmt] = [value * scale for value in values]
        return out

    def ratio(self, family: str) -> tuple[float, float, float]:
        """Perplexity of the format over the original's on the counted tokens, with its interval."""
        pairs = zip(self.measured[family], self.measured["original"], strict=True)
        return stopping.interval([f.nll - o.nll for f, o in pairs], seed=self.set.seed, of=math.exp)

    def verdict(self, family: str) -> str:
        return stopping.floor_verdict(self.ratio(family), self.task.quality_floor_ppl_ratio)

    def score(self) -> str | None:
        """Score items with the original and every uniform format until the paired intervals are narrow."""
        items = self.task.items[: self.set.most_scored]
        if not items:
            return "the task has no items to score"
        formats = {"original": dict[str, str]()} | {f: p.formats for f, p in self.bench.uniforms.items()}
        for start in range(0, len(items), self.set.score_chunk):
            chunk = items[start : start + self.set.score_chunk]
            found: dict[str, list[float | None]] = {}
            for name, plan in formats.items():
                with self.bench.store.installed(plan):
                    found[name] = score_items(self.bench.host, chunk, self.bench.context)
            for i in range(len(chunk)):
                row = {name: scores[i] for name, scores in found.items()}
                known = {name: value for name, value in row.items() if value is not None}
                if len(known) < len(row):
                    self.skipped_items += 1
                    continue
                for name, value in known.items():
                    self.scores[name].append(value)
            self.say(f"{self.task.name}: {len(self.scores['original'])} items scored")
            if self.scores_are_narrow():
                break
        if not self.scores["original"]:
            return "no item could be scored"
        return None

    def scores_are_narrow(self) -> bool:
        if len(self.scores["original"]) < self.set.score_chunk:
            return False
        changes = [self.change(f) for f in self.bench.uniforms]
        return all(c is not None and (c.high - c.low) / 2 <= self.set.score_width for c in changes)

    def change(self, family: str) -> Figure | None:
        """Score with the format minus the original's, paired by item."""
        if len(self.scores["original"]) < 2:
            return None
        mean, low, high = paired_difference(self.scores[family], self.scores["original"], seed=self.set.seed)
        return _figure(mean, low, high, "score", f"{len(self.scores[family])} held-out items, paired")

    def check(self) -> float | None:
        """Measure the KL of some cells one by one (all with `exact`) and compare the ranks."""
        few = Sequences(
            self.all.ids[: self.step], None if self.all.weights is None else self.all.weights[: self.step]
        )
        cells = self.cells_to_measure()
        if not cells:
            return None
        inputs, logits = self.bench.host.capture(few.ids)
        reference = torch.log_softmax(logits, -1)
        for done, (unit, fmt) in enumerate(cells, 1):
            with self.bench.store.installed({unit: fmt}):
                out = self.bench.host.logits_from(self.bench.host.block_of(unit), few.ids, inputs)
            self.exact[unit, fmt] = [x.kl for x in compare(out, reference, few.ids, few.weights)]
            self.bench.emit(
                Progress(stage=STAGE, done=done, total=len(cells), text="cells measured one by one")
            )
        shares = self.apportioned()
        return stopping.rank_correlation(
            [float(np.mean(self.exact[c])) for c in cells],
            [float(np.mean(shares[c][: len(self.exact[c])])) for c in cells],
        )

    def cells_to_measure(self) -> list[tuple[str, str]]:
        cells = [c for c in self.samples if self.set.exact or get_format(c[1]).family == "int4"]
        if self.set.exact or len(cells) <= self.set.exact_cells:
            return cells
        if self.set.exact_cells == 0:
            return []
        return [cells[(i * len(cells)) // self.set.exact_cells] for i in range(self.set.exact_cells)]

    def exact_is_paired(self) -> bool:
        """Whether every measured cell has as many sequences as the apportioned ones."""
        return all(len(v) == self.done for v in self.exact.values())

    def result(
        self,
        plan: dict[str, str],
        sure: float,
        why: str,
        check: float | None,
        note: str | None,
        seconds: float,
    ) -> TaskSensitivity:
        units = {u.name: u for u in self.bench.spec.units}
        shares = self.apportioned()
        cells = []
        for (name, fmt), values in shares.items():
            known = self.exact.get((name, fmt))
            chosen = known if known is not None else values
            error = float(np.std(chosen, ddof=1) / math.sqrt(len(chosen))) if len(chosen) > 1 else 0.0
            cells.append(
                UnitLoss(
                    unit=name, role=units[name].role, block=units[name].block, format=fmt,
                    kl=float(np.mean(chosen)), error=error,
                    how="measured" if known is not None else "apportioned",
                )
            )  # fmt: skip
        lowest = lowest_formats(self.bench.spec.units)
        counted = self.all.weights
        tokens = (
            self.all.ids[: self.done].numel() if counted is None else int((counted[: self.done] > 0).sum())
        )
        notes = [note] if note else []
        if self.skipped_items:
            notes.append(
                f"{self.skipped_items} items skipped: too long for the model, or their scorer failed"
            )
        if self.all.skipped:
            notes.append(f"{self.all.skipped} texts skipped: longer than {self.task.seq_len} tokens")
        original = self.scores["original"]
        score = None
        if original:
            scored = stopping.interval(original, seed=self.set.seed)
            score = _figure(*scored, "score", f"{len(original)} held-out items")
        return TaskSensitivity(
            task=self.task.name,
            title=self.task.title,
            model_id=self.bench.spec.model_id,
            original_score=score,
            scorer=", ".join(sorted({i.scorer for i in self.task.items})) or "none",
            uniform=tuple(self.uniform_row(f) for f in self.bench.uniforms),
            units=tuple(cells),
            stopped=Stopped(
                sequences=self.done, tokens=tokens, items=len(original),
                skipped=self.skipped_items + self.all.skipped, sure=sure, why=why,
            ),
            check=check,
            reliability=stopping.half_correlation(shares, lowest),
            plan=plan,
            seconds=seconds,
            notes=(*self.task.notes, *notes),
        )  # fmt: skip

    def uniform_row(self, family: FamilyName) -> UniformLoss:
        losses = self.measured[family]
        where = f"{len(losses)} sequences of the task's search text"
        kl = stopping.interval([x.kl for x in losses], seed=self.set.seed)
        top1 = stopping.interval([x.top1 for x in losses], seed=self.set.seed)
        return UniformLoss.model_validate(
            {
                "family": family,
                "kl": _figure(*kl, "nats per token", where),
                "top1": _figure(*top1, "share", where),
                "perplexity_ratio": _figure(*self.ratio(family), "x original perplexity", where),
                "score_change": self.change(family),
                "verdict": self.verdict(family),
            }
        )


def lowest_formats(units: object) -> dict[str, str]:
    """Each unit's cheapest format: where units differ most."""
    return {u.name: min(u.options, key=u.bytes_as) for u in units}  # type: ignore[attr-defined]


def _figure(value: float, low: float, high: float, unit: str, source: str) -> Figure:
    return Figure(value=value, low=low, high=high, unit=unit, provenance=Provenance.MEASURED, source=source)


if __name__ == "__main__":
    child_main(TasksSpec, run)
