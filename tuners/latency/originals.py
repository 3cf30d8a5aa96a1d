"""Measured speeds of original checkpoints, kept for later predictions on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tuners.latency.schema import OriginalSpeed
from tuners.latency.table import folder
from tuners.microbench import keep

if TYPE_CHECKING:
    from pathlib import Path

    from tuners.validate.schema import EngineMeasurement


def speed_of(measured: EngineMeasurement) -> OriginalSpeed:
    """The speeds out of a validation's measurement."""
    at_once = {point.concurrency: point.itl_ms for point in measured.load}
    return OriginalSpeed(
        engine=measured.engine_version,
        itl_ms=measured.itl_ms,
        itl_16_ms=at_once.get(16),
        prompt_tokens=max(1, round(measured.prefill_tokens_s * measured.ttft_ms / 1e3)),
        prefill_ms=measured.ttft_ms,
    )


def path_of(checkpoint: Mapping[str, Any], device: str, dtype: str) -> Path:
    """The file of a checkpoint (its stamp) on a device in a dtype."""
    text = json.dumps([checkpoint, device, dtype], sort_keys=True, default=str)
    return folder() / "originals" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def remember(path: Path, measured: EngineMeasurement) -> None:
    """Keep the speeds; a measurement without any teaches nothing."""
    if measured.itl_ms > 0 and measured.ttft_ms > 0:
        keep(speed_of(measured), path)


def remembered(path: Path, engine: str | None) -> OriginalSpeed | None:
    """What was kept with this engine version."""
    try:
        found = OriginalSpeed.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.engine == engine else None
