"""Closing the loop: what a measuring engine said at boot corrects later predictions on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from advisor.pipeline.facts import Facts
from advisor.pipeline.footprint import footprint_of
from profiles.errors import AdvisorError
from profiles.footprint.schema import ServingSpec
from tuners.plan import PrecisionPlan

if TYPE_CHECKING:
    from profiles.footprint import BootLog
    from tuners.validate.schema import EngineMeasurement


def learn(
    facts: Facts, plan: PrecisionPlan, serving: ServingSpec, measured: EngineMeasurement, log: Path
) -> str:
    """Keep measured - predicted for (engine version, device, architecture); the words for the journal.

    The prediction is made without earlier residuals, so that corrections do not pile up. A measurement that
    cannot be learned from is said, never an error: the validation itself does not depend on it.
    """
    from profiles.footprint import Residuals
    from profiles.footprint.residuals import key_of, residual_of

    device = facts.hardware.device.name
    try:
        update = {"engine_version": measured.engine_version, "enable_prefix_caching": False}  # as measured
        spec = serving.model_copy(update=update)
        predicted = footprint_of(facts, plan, spec)
        boot = boot_log(facts, measured, log)
        fresh = residual_of(boot, predicted)
        path = Residuals.load().learned(boot, predicted, facts.model.architecture).save()
        key = key_of(measured.engine_version, device, facts.model.architecture)
    except AdvisorError as problem:
        return f"nothing was learned for later predictions: {problem.what}"
    beside = (fresh.activation + fresh.non_torch) / 2**20
    return (
        f"kept for later predictions ({key}): weights {fresh.weights:+.2%}, activation and non-torch "
        f"{beside:+,.0f} MiB, graphs {fresh.cuda_graph / 2**20:+,.0f} MiB against the law, in {path}"
    )


def boot_log(facts: Facts, measured: EngineMeasurement, log: Path) -> BootLog:
    """The child's own log where it prints the lines, completed by what was asked of the engine itself.

    The engine's parameters are measured exactly; its RoPE tables are buffers beside them and are added.
    """
    from profiles.footprint import BootLog, read_boot_log
    from profiles.footprint.facts import facts_of

    try:
        read = read_boot_log(log)
    except AdvisorError:
        read = BootLog()
    width = 4 if measured.dtype == "float32" else 2
    tables = facts_of(facts.model).rope_elements * width
    return read.model_copy(
        update={
            "engine_version": measured.engine_version,
            "weights": read.weights or float(measured.weights_bytes + tables),
            "kv_bytes": read.kv_bytes or float(measured.kv_cache_bytes) or None,
            "kv_tokens": measured.kv_tokens or None,
            "max_concurrency": measured.max_concurrency or None,
            "max_model_len": measured.max_model_len,
        }
    )
