"""Which module can take the inverse of a unit's input scale, for the methods that scale channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from profiles.errors import UsageError
from tuners.events import Emit, Message
from tuners.quantize.schema import QuantizeSpec

Producers = dict[str, str]
"""Unit to the module (norm or linear) whose output channels are the unit's input."""

AFTER_NORM = ("qkv", "gate_up")
"""Roles that SmoothQuant scales: the paper and llm-compressor smooth what follows a norm."""


def find_producers(
    spec: QuantizeSpec, methods: Mapping[str, str], model: Any, tokenizer: Any, emit: Emit
) -> Producers:
    """Producers of the units whose method scales channels, each role tried on the model itself.

    Scales that heads share cannot be written by llm-compressor's modifiers: such units stay unscaled, as
    they do with its own mappings. What stays unscaled is told.
    """
    scaling = {u: m for u, m in methods.items() if m in ("awq", "awq-gptq", "smoothquant")}
    if not scaling:
        return {}
    from tuners.model.host import ModelHost
    from tuners.model.smoothing import absorbers

    units = [u for u in spec.units if u.name in scaling]
    try:
        host = ModelHost(model, tokenizer, spec.units)
    except UsageError as exc:
        emit(Message(stage="quantize", level="warning", text=f"no channel is scaled: {exc.what}"))
        return {}
    found: Producers = {}
    for unit in units:
        if scaling[unit.name] == "smoothquant" and unit.role not in AFTER_NORM:
            continue
        found[unit.name] = ""
    for name, absorber in absorbers(host, [u for u in units if u.name in found]).items():
        shared = absorber.shared is not None and absorber.shared[1] > 1
        found[name] = "" if shared else absorber.module
    kept = {name: module for name, module in found.items() if module}
    text = f"channels of {len(kept)} of {len(units)} units are scaled before rounding"
    emit(Message(stage="quantize", text=text))
    return kept
