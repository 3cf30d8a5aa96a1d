"""Input scales folded into the loaded model before anything is quantized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.errors import UsageError
from profiles.formats import get_format
from tuners.events import Emit, Message
from tuners.quantize.schema import QuantizeSpec

if TYPE_CHECKING:
    from torch import Tensor

    from tuners.model.host import ModelHost
    from tuners.model.smoothing import Absorber
    from tuners.plan import Unit

BATCH = 4
"""Calibration sequences per forward pass while scales are sought."""


def scaled_units(spec: QuantizeSpec) -> list[Unit]:
    """Units whose method is this one and whose inputs are rounded per token: those that a scale can help."""
    from tuners.model.smoothing import rounds_inputs

    methods = spec.methods_by_unit()
    return [
        u
        for u in spec.units
        if methods.get(u.name) == "smoothquant-pow2" and rounds_inputs(get_format(spec.plan.formats[u.name]))
    ]


def fold_input_scales(
    spec: QuantizeSpec, model: Any, tokenizer: Any, sequences: list[list[int]], emit: Emit
) -> tuple[str, ...]:
    """Fold the scale of every unit that has one, and return their names.

    The 16-bit model computes what it did before: scales are powers of two, and a role whose fold changes
    the logits is left out (`tuners/model/smoothing.py`). Scales of the search come from roles that it probed
    in its own compute type; in bfloat16 on a GPU a second probe would see rounding alone and refuse them.
    """
    import torch

    from tuners.model.host import ModelHost
    from tuners.model.smoothing import absorber, absorbers, fold

    wanted = scaled_units(spec)
    if not wanted:
        return ()
    try:
        host = ModelHost(model, tokenizer, spec.units)
    except UsageError as exc:
        emit(Message(stage="quantize", level="warning", text=f"inputs are not scaled: {exc.what}"))
        return ()
    if spec.input_scales is not None:
        scales = stored_scales(Path(spec.input_scales), wanted, spec)
        found = {u.name: a for u in wanted if u.name in scales and (a := absorber(host, u)) is not None}
    else:
        found = absorbers(host, wanted)
        scales = _sought(host, [u for u in wanted if u.name in found], spec, found, torch.tensor(sequences))
    scaled = [u for u in wanted if u.name in scales and u.name in found]
    for unit in scaled:
        fold(host, unit, found[unit.name], scales[unit.name])
    emit(Message(stage="quantize", text=f"inputs of {len(scaled)} of {len(wanted)} 8-bit units are scaled"))
    return tuple(u.name for u in scaled)


def stored_scales(path: Path, units: list[Unit], spec: QuantizeSpec) -> dict[str, Tensor]:
    """The search's input scales of these units in the plan's formats.

    Raises:
        UsageError: the file cannot be read.
    """
    import numpy as np
    import torch

    from tuners.model.smoothing import from_exponents

    try:
        with np.load(path) as file:
            keys = {u.name: f"{u.name}--{spec.plan.formats[u.name]}" for u in units}
            return {
                n: from_exponents(torch.from_numpy(file[k].copy()))
                for n, k in keys.items()
                if k in file.files
            }
    except (OSError, ValueError) as exc:
        raise UsageError(
            "cannot read the input scales of the search",
            where=str(path),
            got=str(exc),
            next_step="run advisor tune again: it writes them anew",
        ) from exc


def _sought(
    host: ModelHost, units: list[Unit], spec: QuantizeSpec, found: dict[str, Absorber], ids: Tensor
) -> dict[str, Tensor]:
    from tuners.model.calibrate import input_scales
    from tuners.model.host import model_feed

    todo = [(u, spec.plan.formats[u.name]) for u in units]
    return {
        unit.name: scale
        for unit, _, scale in input_scales(host, todo, found, model_feed(host, ids, BATCH))
        if scale is not None
    }
