"""`advisor schema`: the JSON Schema of everything that is written or printed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from advisor.cli.output import print_json
from profiles.errors import UsageError, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

CONTRACTS: dict[str, str] = {
    "hardware": "profiles.hardware.schema:HardwareProfile",
    "model": "profiles.models.schema:ModelProfile",
    "task": "profiles.tasks.schema:TaskProfile",
    "serving": "profiles.footprint.schema:ServingSpec",
    "footprint": "profiles.footprint.schema:Footprint",
    "unit": "tuners.plan:Unit",
    "plan": "tuners.plan:PrecisionPlan",
    "front": "tuners.search.schema:Front",
    "sensitivity": "tuners.sensitivity.task_schema:TasksResult",
    "inputs": "advisor.pipeline.inputs:RunInputs",
    "stage": "advisor.workspace:StageRecord",
    "validation": "tuners.validate.schema:ValidationReport",
    "verdict": "advisor.agent.schema:AgentVerdict",
    "report": "advisor.report.schema:RunReport",
    "event": "tuners.events:Event",
}
"""Name of a file or answer to the contract behind it."""


def schema(name: str | None = None, /) -> int:
    """Print a JSON Schema, or the names that there are."""
    if name is None:
        print_json({key: path.partition(":")[2] for key, path in CONTRACTS.items()})
        return 0
    if name not in CONTRACTS:
        raise UsageError(
            f"no schema {name!r}",
            allowed=nearest(name, CONTRACTS),
            next_step="advisor schema lists the names",
        )
    print_json(json_schema(name))
    return 0


def json_schema(name: str) -> dict[str, object]:
    """The schema of one contract; the event stream is a union, the others are objects."""
    from pydantic import TypeAdapter

    module, _, attribute = CONTRACTS[name].partition(":")
    contract: type[BaseModel] = getattr(importlib.import_module(module), attribute)
    return TypeAdapter(contract).json_schema()
