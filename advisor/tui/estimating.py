"""Asking the footprint about a model: profile and units are kept, so that a stepper costs one estimate."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiles.footprint.schema import Footprint, ServingSpec
    from profiles.hardware import HardwareProfile
    from profiles.models import ModelProfile
    from tuners.plan import PrecisionPlan, Unit

FAMILIES = ("16-bit", "fp8", "int8", "int4")


@dataclass(frozen=True)
class Prepared:
    """A model with a uniform plan for every family that its units can have on a device."""

    model: ModelProfile
    units: tuple[Unit, ...]
    plans: dict[str, PrecisionPlan]


@functools.lru_cache(maxsize=8)
def local_model(name: str) -> ModelProfile:
    """A folder or a Hub model, read once."""
    from profiles.models import read_model

    return read_model(name)


@functools.lru_cache(maxsize=512)
def _prepared(name: str, hardware_json: str, tp: int) -> Prepared:
    from profiles.hardware import HardwareProfile
    from profiles.models import catalogue_index, catalogue_model
    from tuners.plan import uniform
    from tuners.units import build_units

    hardware = HardwareProfile.model_validate_json(hardware_json)
    known = {e.id for e in catalogue_index()}
    model = catalogue_model(name) if name in known else local_model(name)
    units = tuple(build_units(model, hardware.device, tp=tp))
    plans = {"16-bit": uniform(units, "16-bit")}
    for family in FAMILIES[1:]:
        plan = uniform(units, family)
        if any(f != "BF16" for f in plan.formats.values()):
            plans[family] = plan
    return Prepared(model, units, plans)


def prepared(name: str, hardware: HardwareProfile, tp: int) -> Prepared:
    """The model of that name with its plans on this hardware.

    Raises:
        AdvisorError: it cannot be read, or nothing in it can be quantized.
    """
    return _prepared(name, hardware.model_dump_json(exclude={"notes"}), tp)


def estimated(found: Prepared, hardware: HardwareProfile, spec: ServingSpec, family: str) -> Footprint:
    """The predicted boot log of one uniform plan; 16-bit when the family is not available."""
    from profiles.footprint import estimate

    plan = found.plans.get(family) or found.plans["16-bit"]
    return estimate(found.model, hardware, spec, plan.by_linear(found.units), plan.label)
