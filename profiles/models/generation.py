"""How a checkpoint asks to be sampled."""

from __future__ import annotations

import json
from pathlib import Path


def named_temperature(checkpoint: Path) -> float | None:
    """What its generation_config.json asks for, which the engine applies by itself; None when it names none
    (or cannot be read): the engine then draws at 1, at which small models ramble."""
    try:
        return float(json.loads((checkpoint / "generation_config.json").read_text("utf-8"))["temperature"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
