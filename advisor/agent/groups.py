"""Smaller INT4 groups than the run's menu has, and what they would cost by the weights themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advisor.pipeline.facts import Facts
from advisor.pipeline.inputs import RunInputs
from profiles.formats import get_format
from tuners.plan import Unit
from tuners.solver import Scores

ROWS = 32
"""Rows of each weight, at even distances, whose rounding error decides the ratio."""


@dataclass(frozen=True)
class Wider:
    """The units with the additional options, and scores for those (estimated) beside the measured ones."""

    units: tuple[Unit, ...]
    scores: Scores


def wider_menu(inputs: RunInputs, facts: Facts, scores: Scores) -> Wider | None:
    """The menu with every smaller symmetric group that the engine takes; None when there is none.

    The KL of a unit is taken as proportional to the squared rounding error of its weights (second order), so
    the measured KL times the ratio of errors between the two groups estimates the other.
    """
    from tuners.gguf.source import Checkpoint
    from tuners.units import build_units

    names = sorted({o for u in facts.units for o in u.options} - {"BF16"})
    groups = {g for o in names if (g := _group(o)) is not None}
    if not groups:
        return None
    more = [f"W4A16_G{g}" for g in (32, 64) if g < max(groups)]
    tp = inputs.serving.tensor_parallel_size
    built = build_units(facts.model, facts.hardware.device, formats=tuple({*names, *more}), tp=tp)
    options = {u.name: u.options for u in built}
    source = Checkpoint(Path(facts.model_path))
    units: list[Unit] = []
    estimated: dict[str, dict[str, float]] = {}
    for unit in facts.units:
        row = dict(scores.get(unit.name, {}))
        new = _finer(unit, options.get(unit.name, ()), row)
        if new:
            known = next(o for o in unit.options if _group(o) is not None)
            sample = _sample(source, unit)
            for name in new:
                row[name] = row[known] * _error(sample, _group(name)) / _error(sample, _group(known))
        units.append(unit.model_copy(update={"options": (*unit.options, *new)}))
        estimated[unit.name] = row
    if all(u.options == v.options for u, v in zip(units, facts.units, strict=True)):
        return None
    return Wider(tuple(units), estimated)


def _group(name: str) -> int | None:
    fmt = get_format(name)
    return fmt.group_size if fmt.family == "int4" and fmt.name.startswith("W4A16_G") else None


def _finer(unit: Unit, options: Sequence[str], row: dict[str, float]) -> tuple[str, ...]:
    """New options with smaller groups than the unit's own measured one."""
    own = [g for o in unit.options if (g := _group(o)) is not None and o in row]
    if not own:
        return ()
    return tuple(
        o for o in options if (g := _group(o)) is not None and g < min(own) and o not in unit.options
    )


def _sample(source: object, unit: Unit) -> npt.NDArray[np.float32]:
    rows = []
    for linear in unit.linears:
        weight = source.read(f"{linear.name}.weight")  # type: ignore[attr-defined]
        rows.append(weight[:: max(1, len(weight) // ROWS)][:ROWS])
    return np.concatenate(rows)


def _error(weight: npt.NDArray[np.float32], group: int | None) -> float:
    """Squared error of symmetric rounding to 4 bits in groups, over the rows."""
    assert group is not None
    blocks = weight.reshape(len(weight), -1, group)
    scale = np.maximum(np.abs(blocks).max(axis=2, keepdims=True) / 7.5, 1e-12)
    rounded = np.clip(np.rint(blocks / scale), -8, 7) * scale
    return max(float(np.square(rounded - blocks, dtype=np.float64).sum()), 1e-30)
