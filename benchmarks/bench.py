"""What all allocators of a benchmark share: one model, one menu, one calibration text, one judge.

Variants, splits and the sensitivity table are those of the product's own search with its default settings
(and come out of its cache when it is given). Every batch that is measured is kept on disk with the seconds
that it took: a stopped run goes on, two allocators that ask for the same plan pay for one measurement, and
each is still charged its full price (`Clock`).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import texts
import torch

from profiles.formats import get_format
from profiles.hardware import probe_cpu
from profiles.models import read_model
from profiles.tasks import load_task
from profiles.tasks.schema import TaskProfile
from tuners.evaluate import Evaluator, compare
from tuners.evaluate_schema import Quality, SequenceLoss
from tuners.events import Event
from tuners.model.calibrate import build_variants
from tuners.model.host import batches
from tuners.plan import PrecisionPlan, Unit
from tuners.search.schema import SearchSettings, SearchSpec
from tuners.search.scoring import score
from tuners.search.setup import Setup
from tuners.sensitivity.table import SensitivityTable
from tuners.units import build_units, fixed_bytes

LIKE_JUDGED = "like-judged"
"""Calibration text of the same kinds as the judging text (`texts.training`) instead of a task's own."""


class OutOfTime(Exception):
    """The burst is over; what is finished is on disk."""


class Clock:
    """Processor time, plus what measurements that came from disk cost when they were made.

    Processor seconds, summed over threads, do not change with what else the machine is doing."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.charged_s = 0.0

    def check(self) -> None:
        """Stop between two steps when the burst is over."""
        if time.monotonic() > self.until:
            raise OutOfTime

    def now(self) -> float:
        """Seconds on a clock that never got anything for free."""
        return time.process_time() + self.charged_s


class Kept(Evaluator):
    """An evaluator whose batches are kept in a file."""

    def keep(self, path: Path, clock: Clock) -> None:
        """Use that file and that clock."""
        self.file, self.clock = path, clock
        self.known: dict[tuple[str, int], dict] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.known[row["key"], row["start"]] = row

    def losses(self, formats: Mapping[str, str]) -> Iterator[list[SequenceLoss]]:
        """The batches of a plan, measured or read."""
        key = PrecisionPlan(formats=dict(formats)).key
        measured = None
        for number, start in enumerate(range(0, len(self.ids), self.batch_size)):
            row = self.known.get((key, start))
            if row is None:
                self.clock.check()
                if measured is None:
                    measured = self._from(formats, number)
                begun = time.process_time()
                batch = next(measured)
                row = {"key": key, "start": start, "losses": [asdict(x) for x in batch]}
                row["seconds"] = time.process_time() - begun
                self.known[key, start] = row
                with self.file.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            else:
                self.clock.charged_s += row["seconds"]
            yield [SequenceLoss(**x) for x in row["losses"]]

    def _from(self, formats: Mapping[str, str], skip: int) -> Iterator[list[SequenceLoss]]:
        """Measured batches after the first `skip`; the weights are put back between them."""
        reference = self.reference()
        for rows in list(batches(len(self.ids), self.batch_size))[skip:]:
            with self.store.installed(formats):
                logits = self.host.logits(self.ids[rows])
            yield compare(logits, torch.from_numpy(reference[self._counted(rows)]), self.ids[rows])


class Bench:
    """One model under one menu."""

    def __init__(self, options: argparse.Namespace, formats: list[str], until: float) -> None:
        self.options, self.clock = options, Clock(until)
        self.out: Path = options.out
        model = read_model(options.model)
        self.units: list[Unit] = build_units(model, probe_cpu().device, formats=formats)
        self.settings = SearchSettings(trials=options.trials)
        self.spec = SearchSpec(
            run_dir=options.out,
            model_path=Path(options.model),
            units=tuple(self.units),
            fixed_bytes=fixed_bytes(model, self.units),
            budget_bytes=0,
            task=self._task(options),
            settings=self.settings,
            cache_dir=options.cache,
        )
        self.setup = Setup(self.spec, self.emit)
        self.host, self.store = self.setup.host, self.setup.store
        self.setup.search = self.kept(self.setup.search)
        self.setup.select = self.kept(self.setup.select)
        held = texts.evaluation(options.data)
        self.held_out = {name: self._held_out(name, items) for name, items in held.items()}

    def _task(self, options: argparse.Namespace) -> TaskProfile:
        """The calibration text of everyone."""
        if options.task != LIKE_JUDGED:
            return load_task(options.task)
        path = self.out / "calibration.jsonl"
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts.training(options.data)))
        return load_task(path)

    def _held_out(self, name: str, items: list[str]) -> Kept:
        some = random.Random(0).sample(items, len(items))
        ids = self.host.tokenise(some, seq_len=128, max_sequences=self.options.held_out)
        return self.kept(Evaluator(self.host, self.store, ids, self.out / "reference", name))

    def kept(self, evaluator: Evaluator) -> Kept:
        """The evaluator with its batches on disk."""
        evaluator.__class__ = Kept
        assert isinstance(evaluator, Kept)
        name = f"{evaluator.path.stem.replace('reference', 'measured')}.jsonl"
        evaluator.keep(self.out / name, self.clock)
        return evaluator

    def emit(self, _event: Event) -> None:
        """Stop between steps when the burst is over."""
        self.clock.check()

    @property
    def numel(self) -> int:
        """Weights of all units."""
        return sum(u.numel for u in self.units)

    def bytes_for(self, bits: float) -> int:
        """A budget in bytes over the units."""
        return int(bits * self.numel / 8)

    def family(self, unit: Unit, family: str) -> str:
        """The unit's format of a family."""
        return next((o for o in unit.options if get_format(o).family == family), "BF16")

    def variants(self) -> None:
        """Every unit in every format, from the cache or made now."""
        build_variants(self.host, self.store, self.setup.calibration, emit=self.emit)

    def table(self) -> SensitivityTable:
        """Variants and sensitivities, from the cache or made now."""
        self.variants()
        return self.setup.load_table() or score(self.setup, self.emit)

    def judge(self, formats: Mapping[str, str]) -> dict[str, Quality]:
        """A plan on the text that nobody calibrated on."""
        return {name: e.quality(formats) for name, e in self.held_out.items()}

    @contextmanager
    def timed(self, into: dict[str, float], name: str) -> Iterator[None]:
        """Seconds at full price."""
        start = self.clock.now()
        yield
        into[name] = self.clock.now() - start
