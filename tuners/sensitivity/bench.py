"""The model with every quantized variant at hand, for measuring tasks on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from profiles.tasks.schema import SplitName, TaskProfile
from tuners.evaluate import compare
from tuners.evaluate_schema import SequenceLoss
from tuners.events import Emit, StageStarted
from tuners.model import cache, versions
from tuners.model.calibrate import build_variants
from tuners.model.host import ModelHost
from tuners.model.items import Sequences, task_sequences
from tuners.model.variants import VariantStore
from tuners.plan import PrecisionPlan, uniform
from tuners.sensitivity.task_schema import FAMILIES, FamilyName, TasksSpec

STAGE = "sensitivity"


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
        digest = hashlib.sha256(f"{versions.VARIANTS}:{torch.__version__}".encode())
        for file in sorted(self.spec.model_path.glob("*.safetensors")):
            stat = file.stat()
            digest.update(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        digest.update(calibration.numpy().tobytes())
        return digest.hexdigest()[:16]

    def sequences(self, task: TaskProfile, split: SplitName, count: int) -> Sequences:
        """Sequences of a split of the task."""
        length = min(task.seq_len, self.context)
        return task_sequences(self.host, task, split, seq_len=length, max_sequences=count)

    def losses(self, chunk: Sequences, reference: Tensor, formats: Mapping[str, str]) -> list[SequenceLoss]:
        """Losses of a plan on a few sequences against the original's log-probabilities."""
        with self.store.installed(formats):
            found: list[SequenceLoss] = compare(
                self.host.logits(chunk.ids), reference, chunk.ids, chunk.weights
            )
        return found

    def reference(self, chunk: Sequences) -> Tensor:
        """Log-probabilities of the original."""
        return torch.log_softmax(self.host.logits(chunk.ids), -1)
