"""The profile of one task: uniform formats, units and scores, in chunks until the decision stands.

The KL of a uniform format is measured. Each unit's share of it is apportioned by the second-order KL of
answers.py, or measured one by one with `exact`: additivity holds well from 4 to 8 bits (uniform INT4
measured 0.434, sum of single units 0.443), and the second-order signal ranks units like measured KL
(Spearman 0.97). A handful of cells is measured every time to check that this holds on the model at hand.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from profiles.formats import get_format
from profiles.provenance import Figure, Provenance
from profiles.tasks.schema import TaskProfile
from tuners.evaluate import compare, paired_difference
from tuners.evaluate_schema import SequenceLoss, token_mean
from tuners.events import Message, Progress
from tuners.model.items import Sequences
from tuners.plan import Unit
from tuners.sensitivity import stopping
from tuners.sensitivity.answers import fisher_row
from tuners.sensitivity.bench import STAGE, Bench
from tuners.sensitivity.scoring import Skipped, score_items
from tuners.sensitivity.task_schema import FamilyName, Stopped, TaskSensitivity, UniformLoss, UnitLoss


class OneTask:
    """Measures one task on the bench, chunk by chunk."""

    def __init__(self, bench: Bench, task: TaskProfile) -> None:
        self.bench, self.task, self.set = bench, task, bench.set
        length = min(task.seq_len, bench.context)
        self.step = max(2, self.set.chunk_tokens // length)
        self.all = bench.sequences(task, "search", self.step * self.set.most_chunks)
        self.samples: dict[tuple[str, str], list[float]] = {}
        self.measured: dict[str, list[SequenceLoss]] = {f: [] for f in ("original", *bench.uniforms)}
        self.scores: dict[str, list[float]] = {f: [] for f in ("original", *bench.uniforms)}
        self.skipped: Counter[Skipped] = Counter()
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
            plan, sure = self.decide(self.apportioned())
            why = stopping.why_stopped(
                sure=sure,
                confidence=self.set.confidence,
                undecided=[f for f in self.bench.uniforms if self.verdict(f) == "undecided"],
                chunks=chunks,
                most=self.set.most_chunks,
                exhausted=self.done >= len(self.all) < self.step * self.set.most_chunks,
            )
            self.say(
                f"{self.task.name}: {self.done} sequences, {sure:.0%} sure" + (f": {why}" if why else "")
            )
        score_note = self.score()
        check = self.check()
        if self.set.exact:
            plan, sure = self.decide({**self.apportioned(), **self.exact})
        return self.result(plan, sure, why, check, score_note, time.monotonic() - start)

    def decide(self, samples: stopping.Samples) -> tuple[dict[str, str], float]:
        """The plan at the budget, and how sure it is."""
        return stopping.plan_certainty(
            self.bench.spec.units,
            samples,
            self.tokens,
            self.bench.spec.budget_bytes,
            tolerance=self.set.tolerance,
            bootstraps=self.set.bootstraps,
            seed=self.set.seed,
        )

    @property
    def done(self) -> int:
        return len(self.measured["original"])

    @property
    def tokens(self) -> tuple[int, ...]:
        """Counted tokens of each sequence that is done: what it weighs."""
        return tuple(x.tokens for x in self.measured["original"])

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
            totals[family] = totals.get(family, 0.0) + token_mean(values, self.tokens)
        out = {}
        for (unit, fmt), values in self.samples.items():
            family = get_format(fmt).family
            losses = self.measured.get(family)
            scale = 1.0
            if losses and totals[family] > 0:
                scale = max(token_mean([x.kl for x in losses], self.tokens), 1e-12) / totals[family]
            out[unit, fmt] = [value * scale for value in values]
        return out

    def ratio(self, family: str) -> tuple[float, float, float]:
        """Perplexity of the format over the original's on the counted tokens, with its interval."""
        pairs = zip(self.measured[family], self.measured["original"], strict=True)
        return stopping.interval(
            [f.nll - o.nll for f, o in pairs], self.tokens, seed=self.set.seed, of=math.exp
        )

    def verdict(self, family: str) -> str:
        if self.done < stopping.LEAST_SEQUENCES:
            return "undecided"
        return stopping.floor_verdict(self.ratio(family), self.task.quality_floor_ppl_ratio)

    def score(self) -> str | None:
        """Score items with the original and every uniform format until the paired intervals are narrow."""
        items = self.task.items[: self.set.most_scored]
        if not items:
            return "the task has no items to score"
        formats = {"original": dict[str, str]()} | {f: p.formats for f, p in self.bench.uniforms.items()}
        for start in range(0, len(items), self.set.score_chunk):
            chunk = items[start : start + self.set.score_chunk]
            found: dict[str, list[float | Skipped]] = {}
            drafts: dict[int, list[int]] | None = None  # of the original, which comes first
            for name, plan in formats.items():
                with self.bench.store.installed(plan):
                    found[name], written = score_items(self.bench.host, chunk, self.bench.context, drafts)
                drafts = written if drafts is None else drafts
            for i in range(len(chunk)):
                row = {name: scores[i] for name, scores in found.items()}
                failed = [value for value in row.values() if isinstance(value, Skipped)]
                if failed:
                    self.skipped[failed[0]] += 1
                    continue
                for name, value in row.items():
                    self.scores[name].append(float(value))
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

    def scored(self, name: str) -> Figure | None:
        """Mean score of the items with the original's weights or a format's."""
        found = self.scores[name]
        if not found:
            return None
        interval = stopping.interval(found, seed=self.set.seed)
        return _figure(*interval, "score", f"{len(found)} held-out items")

    def change(self, family: str) -> Figure | None:
        """Score with the format minus the original's, paired by item."""
        if len(self.scores["original"]) < 2:
            return None
        mean, low, high = paired_difference(self.scores[family], self.scores["original"], seed=self.set.seed)
        return _figure(mean, low, high, "score", f"{len(self.scores[family])} held-out items, paired")

    def check(self) -> float | None:
        """KL of some cells one by one (with `exact`: of all, on all sequences), and how the ranks agree."""
        cells = self.cells_to_measure()
        if not cells:
            return None
        last = self.done if self.set.exact else min(self.step, self.done)
        for first in range(0, last, self.step):
            self.measure_cells(cells, slice(first, min(first + self.step, last)))
        shares = self.apportioned()
        return stopping.rank_correlation(
            [token_mean(self.exact[c], self.tokens) for c in cells],
            [token_mean(shares[c][: len(self.exact[c])], self.tokens) for c in cells],
        )

    def measure_cells(self, cells: list[tuple[str, str]], rows: slice) -> None:
        """KL with one unit changed, by suffix evaluation from the block inputs of these sequences."""
        weights = None if self.all.weights is None else self.all.weights[rows]
        ids, host = self.all.ids[rows], self.bench.host
        inputs, logits = host.capture(ids)
        reference = torch.log_softmax(logits, -1)
        for done, (unit, fmt) in enumerate(cells, 1):
            with self.bench.store.installed({unit: fmt}):
                out = host.logits_from(host.block_of(unit), ids, inputs)
            found = [x.kl for x in compare(out, reference, ids, weights)]
            self.exact.setdefault((unit, fmt), []).extend(found)
            self.bench.emit(Progress(stage=STAGE, done=done, total=len(cells), text="cells, one by one"))

    def cells_to_measure(self) -> list[tuple[str, str]]:
        cells = [c for c in self.samples if self.set.exact or get_format(c[1]).family == "int4"]
        if self.set.exact or len(cells) <= self.set.exact_cells:
            return cells
        if self.set.exact_cells == 0:
            return []
        return [cells[(i * len(cells)) // self.set.exact_cells] for i in range(self.set.exact_cells)]

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
            cells.append(
                UnitLoss(
                    unit=name, role=units[name].role, block=units[name].block, format=fmt,
                    kl=token_mean(chosen, self.tokens), error=standard_error(chosen, self.tokens),
                    how="measured" if known is not None else "apportioned",
                )
            )  # fmt: skip
        lowest = lowest_formats(self.bench.spec.units)
        notes = [note] if note else []
        if self.done < stopping.LEAST_SEQUENCES:
            notes.append(f"only {self.done} sequence(s) of text: nothing here is sure, give more items")
        notes += [f"{count} item(s) skipped {why}" for why, count in self.skipped.items()]
        if self.all.skipped:
            most = self.all.ids.shape[1]
            notes.append(f"{self.all.skipped} text(s) skipped: longer than a sequence of {most} tokens")
        return TaskSensitivity(
            task=self.task.name,
            title=self.task.title,
            model_id=self.bench.spec.model_id,
            original_score=self.scored("original"),
            scorer=", ".join(sorted({i.scorer for i in self.task.items})) or "none",
            uniform=tuple(self.uniform_row(f) for f in self.bench.uniforms),
            units=tuple(cells),
            stopped=Stopped(
                sequences=self.done, tokens=sum(self.tokens), items=len(self.scores["original"]),
                skipped=self.skipped.total() + self.all.skipped, sure=sure, why=why,
            ),
            check=check,
            reliability=stopping.half_correlation(shares, self.tokens, lowest),
            plan=plan,
            seconds=seconds,
            notes=(*self.task.notes, *notes),
        )  # fmt: skip

    def uniform_row(self, family: FamilyName) -> UniformLoss:
        losses = self.measured[family]
        where = f"{len(losses)} sequences of the task's search text"
        kl = stopping.interval([x.kl for x in losses], self.tokens, seed=self.set.seed)
        top1 = stopping.interval([x.top1 for x in losses], self.tokens, seed=self.set.seed)
        return UniformLoss.model_validate(
            {
                "family": family,
                "kl": _figure(*kl, "nats per token", where),
                "top1": _figure(*top1, "share", where),
                "perplexity_ratio": _figure(*self.ratio(family), "x original perplexity", where),
                "score": self.scored(family),
                "score_change": self.change(family),
                "verdict": self.verdict(family),
            }
        )


def standard_error(values: Sequence[float], tokens: Sequence[int]) -> float:
    """Of a mean over tokens, sequences being what is drawn (linearised ratio estimator, Cochran 1977, 2.11);
    0 for a single sequence."""
    count = len(values)
    if count < 2:
        return 0.0
    weight = np.asarray(tokens[:count], dtype=float)
    off = weight * (np.asarray(values) - token_mean(values, tokens))
    return float(math.sqrt(np.square(off).sum() * count / (count - 1)) / weight.sum())


def lowest_formats(units: Sequence[Unit]) -> dict[str, str]:
    """Each unit's cheapest format: where units differ most."""
    return {u.name: min(u.options, key=u.bytes_as) for u in units}


def _figure(value: float, low: float, high: float, unit: str, source: str) -> Figure:
    return Figure(value=value, low=low, high=high, unit=unit, provenance=Provenance.MEASURED, source=source)
