"""What every process of a search loads: the model, its variants, the three splits, the table on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from profiles.errors import UsageError
from profiles.formats import Activations, get_format
from tuners.evaluate import Evaluator
from tuners.events import Emit, Message
from tuners.model import cache
from tuners.model.host import ModelHost
from tuners.model.variants import VERSION, VariantStore
from tuners.search.schema import SearchSpec
from tuners.sensitivity.table import SensitivityTable

IMITATED = (Activations.A16, Activations.INT8_TOKEN, Activations.FP8_TOKEN)
"""Activation roundings that `tuners.model.variants` reproduces."""


class Setup:
    """The model in memory and the cache on disk, keyed by everything the cached files depend on."""

    def __init__(self, spec: SearchSpec, emit: Emit) -> None:
        self.spec, self.settings = spec, spec.settings
        check_searchable(spec)
        self.host = ModelHost.load(spec.model_path, spec.units, trust_remote_code=spec.trust_remote_code)
        root = spec.cache_dir or spec.run_dir / "cache"
        self.cache = root / self._key()
        cache.touch(self.cache)
        for dropped in cache.trim(root, self.cache, cache.limit_bytes()):
            emit(Message(stage="load", text=f"cache over its limit: {dropped.name} removed"))
        self.store = VariantStore(self.host, self.cache / "variants", self.settings.variant_memory_bytes)
        texts, seq = spec.task.splits, self.settings.seq_len
        self.calibration, search = divide(
            self.host.tokenise(
                texts.search,
                seq_len=seq,
                max_sequences=self.settings.calibration_sequences + self.settings.search_sequences,
            ),
            self.settings.search_sequences,
        )
        self.search = self._evaluator("search", search)
        self.select = self._evaluator(
            "select",
            self.host.tokenise(texts.select, seq_len=seq, max_sequences=self.settings.select_sequences),
        )
        self.evaluate = self._evaluator(
            "evaluate",
            self.host.tokenise(texts.evaluate, seq_len=seq, max_sequences=self.settings.evaluate_sequences),
        )

    def _evaluator(self, split: str, ids: torch.Tensor) -> Evaluator:
        folder = self.cache / "reference"
        return Evaluator(self.host, self.store, ids, folder, split, batch_size=self.settings.batch_size)

    def _key(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(Path(self.spec.model_path).glob("*.safetensors")):
            stat = file.stat()
            digest.update(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        for text in self.spec.task.splits.search:
            digest.update(text.encode())
        used = self.settings
        digest.update(
            f"2:{used.seq_len}:{used.calibration_sequences}:{used.search_sequences}:"
            f"{used.gptq_damping}:{torch.__version__}:{VERSION}".encode()
        )
        return digest.hexdigest()[:16]

    @property
    def sensitivity_ids(self) -> torch.Tensor:
        """Sequences that score the cells: spread evenly over the search split."""
        return spread(self.search.ids, self.settings.sensitivity_sequences)

    @property
    def table_path(self) -> Path:
        """Where the finished sensitivity table lies."""
        used = self.settings
        name = f"{used.sensitivity_sequences}-{used.probe_sequences}-{used.probes}-{used.seed}"
        return self.cache / f"sensitivity-{name}.json"

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
            exclude={"trials", "workers", "storage", "front_points", "front_trials"}
        )
        return f"budget-{self.spec.budget_bytes}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check_searchable(spec: SearchSpec) -> None:
    """Refuse formats whose arithmetic the search cannot imitate.

    Raises:
        UsageError: the units offer such a format.
    """
    offered = {f for u in spec.units for f in u.options}
    odd = sorted(f for f in offered if get_format(f).activations not in IMITATED)
    if odd:
        raise UsageError(
            "the search cannot measure this format yet: it does not imitate its arithmetic",
            got=", ".join(odd),
            allowed=", ".join(sorted(offered - set(odd))),
            next_step="leave it out of --formats, or give a plan of your own: advisor export --plan",
        )


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


def spread(ids: torch.Tensor, count: int) -> torch.Tensor:
    """`count` of the sequences at even distances."""
    if count >= len(ids):
        return ids
    return ids[(torch.arange(count) * len(ids)) // count]
