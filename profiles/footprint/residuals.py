"""What real boot logs taught: residuals per engine version, GPU and architecture, kept on this machine."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import platformdirs
from pydantic import Field, ValidationError

from profiles.errors import EnvironmentProblem, UsageError
from profiles.footprint.core import Extra
from profiles.footprint.ingest import BootLog
from profiles.footprint.schema import Footprint
from profiles.footprint.version import Version, parse_version
from profiles.provenance import Contract

MAX_SHARE = 0.5
"""A relative residual of the weights beyond it is another model's log, not a correction."""

SMALL_WEIGHTS = 32 << 20
"""A difference of the weights below it teaches nothing: logs print hundredths of a GiB, and fixed buffers
(about 10 MiB of 0.26's second runner on an H100) are no share of another model's weights."""

MAX_BYTES = 64 << 30


class Residual(Contract):
    """Mean of measured - predicted over `count` logs: weights relative, the others in bytes per rank."""

    count: int = Field(ge=1, le=1_000_000)
    weights: float = Field(default=0.0, ge=-MAX_SHARE, le=MAX_SHARE)
    activation: float = Field(default=0.0, ge=-MAX_BYTES, le=MAX_BYTES)
    non_torch: float = Field(default=0.0, ge=-MAX_BYTES, le=MAX_BYTES)
    cuda_graph: float = Field(default=0.0, ge=-MAX_BYTES, le=MAX_BYTES)


def residuals_path() -> Path:
    """The file in the user's configuration directory."""
    return platformdirs.user_config_path("advisor") / "residuals.json"


def key_of(engine_version: str, gpu: str, architecture: str) -> str:
    """One bucket of residuals: minor version, device, architecture."""
    major, minor = parse_version(engine_version)
    return f"{major}.{minor} | {gpu} | {architecture}"


class Residuals(Contract):
    """All buckets; immutable, `learned` returns a new one."""

    buckets: dict[str, Residual] = {}

    @property
    def versions(self) -> set[Version]:
        """Engine versions that boot logs taught."""
        return {parse_version(key.partition(" | ")[0]) for key in self.buckets}

    @classmethod
    def load(cls, path: Path | None = None) -> Residuals:
        """The stored residuals; none when nothing was ingested yet.

        Raises:
            UsageError: the file is not what `save` writes.
        """
        where = path or residuals_path()
        if not where.exists():
            return cls()
        try:
            return cls.model_validate_json(where.read_bytes())
        except (OSError, ValidationError, ValueError) as exc:
            raise UsageError(
                "the stored residuals are not readable",
                where=str(where),
                got=str(exc).splitlines()[0],
                next_step="delete the file and ingest the logs again",
            ) from exc

    def save(self, path: Path | None = None) -> Path:
        """Write the file, all or nothing.

        Raises:
            EnvironmentProblem: the directory cannot be written.
        """
        where = path or residuals_path()
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
        try:
            where.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=where.parent, prefix=".residuals-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, where)
        except OSError as exc:
            raise EnvironmentProblem("cannot store the residuals", where=str(where), got=str(exc)) from exc
        return where

    def learned(self, log: BootLog, predicted: Footprint, architecture: str) -> Residuals:
        """These residuals with one more log; `predicted` must be made *without* residuals.

        Raises:
            UsageError: the log has nothing to learn from, or is another model's.
        """
        fresh = residual_of(log, predicted)
        key = key_of(log.engine_version or predicted.spec.engine_version, predicted.device_name, architecture)
        old = self.buckets.get(key)
        if old is not None:
            n = old.count
            mixed = {
                name: (getattr(old, name) * n + getattr(fresh, name)) / (n + 1)
                for name in ("weights", "activation", "non_torch", "cuda_graph")
            }
            fresh = Residual(count=n + 1, **mixed)
        return Residuals(buckets={**self.buckets, key: fresh})

    def applied(self, extra: Extra, engine_version: str, gpu: str, architecture: str) -> tuple[Extra, str]:
        """The corrections for one prediction, and the words for its provenance ("" when there are none)."""
        key = key_of(engine_version, gpu, architecture)
        found = self.buckets.get(key)
        if found is None:
            return extra, ""
        logs = "1 boot log" if found.count == 1 else f"{found.count} boot logs"
        changed = extra._replace(
            residual_weights=found.weights,
            residual_activation=found.activation,
            residual_non_torch=found.non_torch,
            residual_graph=found.cuda_graph,
        )
        return changed, f"law corrected by {logs} ingested here ({key})"


def residual_of(log: BootLog, predicted: Footprint) -> Residual:
    """Measured - predicted of one log.

    Logs of 0.9 and newer print no activation or non-torch line; what is left of the budget after weights
    and KV cache is their sum, and the whole difference is booked on the activation.

    Raises:
        UsageError: no usable line, or weights so far off that the log is another model's.
    """
    if log.weights is None and log.kv_bytes is None and log.activation is None:
        raise UsageError("the log has no memory line to learn from", allowed="weights or KV cache memory")
    weights = 0.0
    if log.weights is not None:
        weights = log.weights / predicted.weights.value - 1 if predicted.weights.value else 0.0
        if abs(weights) > 0.2:
            raise UsageError(
                "the log's weights are not this model's",
                got=f"{log.weights / 2**30:.2f} GiB measured, "
                f"{predicted.weights.value / 2**30:.2f} predicted",
                next_step="name the model, plan and parallel sizes that the log was made with",
            )
        if abs(log.weights - predicted.weights.value) < SMALL_WEIGHTS:
            weights = 0.0
    activation = non_torch = graph = 0.0
    inside = "CUDA graphs" in (predicted.kv_bytes.formula or "")
    if inside and log.graph_estimate is not None:
        graph = log.graph_estimate - predicted.cuda_graph.value
    elif not inside and log.graph_actual is not None:
        graph = log.graph_actual - predicted.cuda_graph.value
    if log.activation is not None and log.non_torch is not None:
        activation = log.activation - predicted.activation.value
        non_torch = log.non_torch - predicted.non_torch.value
    elif (
        log.kv_bytes is not None and log.weights is not None and predicted.spec.kv_cache_memory_bytes is None
    ):
        left = predicted.budget.value - log.weights - log.kv_bytes
        law = predicted.activation.value + predicted.non_torch.value
        if inside:
            law += predicted.cuda_graph.value + graph
        activation = left - law
    limit = MAX_BYTES
    if max(map(abs, (activation, non_torch, graph))) > limit:
        raise UsageError("the log does not belong to this device", got="overheads beyond 64 GiB apart")
    return Residual(count=1, weights=weights, activation=activation, non_torch=non_torch, cuda_graph=graph)
