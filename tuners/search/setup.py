"""What every process of a search loads: the model, its variants, the three splits, the table on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from profiles.errors import UsageError
from profiles.hardware.host import host_memory
from profiles.models.headers import read_tensors
from profiles.tasks.schema import SplitName
from tuners.evaluate import Evaluator
from tuners.events import Emit, Message
from tuners.model import cache, versions, written
from tuners.model.host import ModelHost
from tuners.model.items import Sequences, task_sequences
from tuners.model.variants import VariantStore
from tuners.search.memory import memory_text, require, search_memory
from tuners.search.own_text import OwnText
from tuners.search.pace import Pace
from tuners.search.schema import SearchMemory, SearchSpec
from tuners.sensitivity.quick import RoundedStore
from tuners.sensitivity.table import SensitivityTable


class Setup:
    """The model in memory and the cache on disk, keyed by everything the cached files depend on."""

    def __init__(self, spec: SearchSpec, emit: Emit) -> None:
        self.spec, self.settings = spec, spec.settings
        self.memory = memory_of(spec)
        self.streamed = self.memory.mode == "streamed"
        emit(Message(stage="load", text=memory_text(self.memory)))
        self.host = ModelHost.load(
            spec.model_path,
            spec.units,
            trust_remote_code=spec.trust_remote_code,
            streamed=self.streamed,
            dtype=getattr(torch, self.memory.compute),
        )
        self.cache = (spec.cache_dir or spec.run_dir / "cache") / self._key()
        cache.touch(self.cache)
        self.trim_cache(emit)
        self.calibration, scored = self._search_texts(emit)
        self.own_text = OwnText(self.host, self.cache, self.settings.seed, self.settings.batch_size, emit)
        self.excess = self.own_text.excess(scored.ids) if self._may_write() else None
        self.scored = self._half_written("search", scored)
        self.store = self._store()
        self.search = self._evaluator("search", self.scored)
        chosen = self._sequences("select", self.settings.select_sequences, emit)
        self.select = self._evaluator("select", self._half_written("select", chosen))
        self.evaluate = self._evaluator(
            "evaluate", self._sequences("evaluate", self.settings.evaluate_sequences, emit)
        )

    def trim_cache(self, emit: Emit) -> None:
        """Remove the least recently used folders of other searches while the cache is over its limit."""
        for dropped in cache.trim(self.cache.parent, self.cache, cache.limit_bytes()):
            emit(Message(stage="load", text=f"cache over its limit: {dropped.name} removed"))

    def _store(self) -> VariantStore:
        used, rounds = self.settings, self.spec.rounds
        if used.is_quick:
            return RoundedStore(self.host, self.quick_sequences.ids, used.variant_memory_bytes, rounds)
        dense_bytes = 0 if self.streamed else used.variant_memory_bytes
        return VariantStore(self.host, self.cache / "variants", dense_bytes, rounds)

    def _search_texts(self, emit: Emit) -> tuple[torch.Tensor, Sequences]:
        """(calibration, search) of split A: apart from each other when it is plain text and long enough.

        A task with answers is scored on its packed items, and calibrated on the same split's text.
        """
        used = self.settings
        plain = self.host.tokenise(
            self.spec.task.splits.search,
            seq_len=used.seq_len,
            max_sequences=used.calibration_sequences + used.search_sequences,
        )
        scored = self._sequences("search", used.search_sequences, emit)
        if scored.weights is not None:
            return plain[: used.calibration_sequences], scored
        calibration, search = divide(plain, used.search_sequences)
        return calibration, Sequences(search)

    def _may_write(self) -> bool:
        """Whether the model may write beside the texts: where they stand for any, and it can. A task's own
        are measured as they are; a quick plan has no time for it."""
        used = self.settings
        general = self.spec.task.general and used.written and not used.is_quick
        long_enough = used.seq_len > written.PREFIX
        return general and long_enough and not self.streamed and written.can_write(self.host.model)

    def _half_written(self, split: SplitName, found: Sequences) -> Sequences:
        """These sequences, half of them the model's own where the texts are foreign to it."""
        return Sequences(self.own_text.half(split, found.ids)) if self.half_written else found

    def _sequences(self, split: SplitName, count: int, emit: Emit) -> Sequences:
        """The task's own sequences; the loss counts its answer tokens where it has answers."""
        seq_len = self.settings.seq_len
        found = task_sequences(self.host, self.spec.task, split, seq_len=seq_len, max_sequences=count)
        if found.skipped:
            text = f"{found.skipped} {split} item(s) longer than {seq_len} tokens left out"
            emit(Message(stage="load", level="warning", text=text))
        return found

    def _evaluator(self, split: str, found: Sequences) -> Evaluator:
        return Evaluator(
            self.host,
            self.store,
            found.ids,
            self.cache / "reference",
            split,
            batch_size=self.settings.batch_size,
            weights=found.weights,
        )

    def _key(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(Path(self.spec.model_path).glob("*.safetensors")):
            stat = file.stat()
            digest.update(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        for text in self.spec.task.splits.search:
            digest.update(text.encode())
        for part in self.spec.task.parts:
            digest.update(f"{part.name}:{part.weight}".encode())
        for name, kind in sorted(self.spec.rounds.items()):
            digest.update(f"{name}:{kind}".encode())
        if self.memory.compute != "float32":
            digest.update(self.memory.compute.encode())
        used = self.settings
        digest.update(
            f"2:{used.seq_len}:{used.calibration_sequences}:{used.search_sequences}:"
            f"{used.gptq_damping}:{torch.__version__}:{versions.VARIANTS}".encode()
        )
        return digest.hexdigest()[:16]

    @property
    def cell_sequences(self) -> Sequences:
        """Sequences that score the cells: spread evenly over the search split."""
        return self.scored.spread(self.settings.sensitivity_sequences)

    @property
    def quick_sequences(self) -> Sequences:
        """Sequences of a quick plan's backward passes, likewise; their first tokens, unless answers count."""
        found = self.scored.spread(self.settings.quick_sequences)
        if found.weights is not None:
            return found
        return Sequences(found.ids[:, : self.settings.quick_tokens])

    @property
    def held_out(self) -> Evaluator:
        """What the plan is reported on. Without trials a quick plan has no rivals: the selection split chose
        nothing then, and one measurement serves for both."""
        return self.select if self.settings.is_quick and not self.settings.trials else self.evaluate

    @property
    def half_written(self) -> bool:
        """Whether half of the search and selection text is the model's own."""
        return self.excess is not None and self.excess.is_foreign

    @property
    def text_kind(self) -> str:
        """What the scored sequences are, as part of the names of files that rest on them."""
        if self.half_written:
            return f"written-{self.settings.seed}-"
        return "" if self.scored.weights is None else "answers-"

    @property
    def table_path(self) -> Path:
        """Where the finished sensitivity table lies; a quick one has a name of its own."""
        used = self.settings
        kind = self.text_kind
        if used.is_quick:
            name = f"{kind}{used.quick_sequences}x{used.quick_tokens}-{used.seed}"
            return self.cache / f"sensitivity-expected-{name}.json"
        name = f"{kind}{used.sensitivity_sequences}-{used.probe_sequences}-{used.probes}-{used.seed}"
        return self.cache / f"sensitivity-tokens-{name}.json"

    def load_table(self) -> SensitivityTable | None:
        """The table of an earlier run when it has every cell of these units."""
        if not self.table_path.exists():
            return None
        table = SensitivityTable.model_validate_json(self.table_path.read_text())
        known = {(c.unit, c.format): c for c in table.cells}
        wanted = [(u.name, f) for u in self.spec.units for f in u.options if f != "BF16"]
        if any(key not in known for key in wanted):
            return None
        return table.model_copy(update={"cells": tuple(known[key] for key in wanted)})

    def study_name(self, table: SensitivityTable) -> str:
        """Name of the study: the budget, and everything that decides what its trials mean."""
        text = table.model_dump_json() + self.settings.model_dump_json(
            exclude={
                "trials",
                "workers",
                "storage",
                "front_points",
                "front_trials",
                "memory",
                "memory_bytes",
            }
        )
        if self.spec.goal.is_timed:  # else times are only told, and nothing depends on them
            text += self.spec.goal.model_dump_json() + (
                self.spec.latency.model_dump_json() if self.spec.latency else ""
            )
        return f"budget-{self.spec.budget_bytes}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def pace(self) -> Pace:
        """Predicted times of plans."""
        spec = self.spec
        return Pace(spec.units, spec.goal, spec.latency, spec.experts_per_token)


def memory_of(spec: SearchSpec) -> SearchMemory:
    """The memory that the search will need on the device that computes here, and how it holds the model.

    Raises:
        EnvironmentProblem: not even one block at a time fits.
    """
    if torch.cuda.is_available():
        available, _ = torch.cuda.mem_get_info()
    else:
        available = host_memory().available_bytes
    try:
        tensors = read_tensors(spec.model_path)
    except (OSError, UsageError) as exc:
        raise UsageError(
            "cannot load this model",
            where=str(spec.model_path),
            got=str(exc).splitlines()[0],
            next_step="advisor inspect shows what the files contain",
        ) from exc
    found = search_memory(tensors, spec.units, spec.settings, available, on_gpu=torch.cuda.is_available())
    require(found)
    return found


def divide(ids: torch.Tensor, search_sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(calibration, search): disjoint sequences taken in turn from the whole text when there are enough.

    KL on the very text that GPTQ calibrated on flatters its formats. With too little text for both, the
    search takes its share and the quantizer calibrates on everything.
    """
    count = len(ids)
    if count < 2 * search_sequences:
        return ids, ids[: min(count, search_sequences)]
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[(torch.arange(search_sequences) * count) // search_sequences] = True
    return ids[~chosen], ids[chosen]
