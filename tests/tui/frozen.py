"""Facts as they were recorded, so that a picture does not change with the machine or with better figures.

`python -m tests.tui.frozen` records them anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tui.conftest import RECORDED

FACTS = Path(__file__).parent / "recorded-facts.json"
DEVICE, MODEL, MODELS = "rtx-4090", "Qwen/Qwen3-8B", 14


def freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fact that the screens ask for comes from the record."""
    from advisor.recommend.schema import Recommendation
    from profiles.footprint import Ranked
    from profiles.footprint.schema import Footprint, Verdict
    from profiles.hardware import DeviceLive, HardwareProfile
    from profiles.models import CatalogueEntry

    found = json.loads(FACTS.read_text(encoding="utf-8"))
    hardware = HardwareProfile.model_validate(found["hardware"])
    tasks = [SimpleNamespace(**t) for t in found["tasks"]]
    formats = {name: SimpleNamespace(**row) for name, row in found["formats"].items()}
    entries = [CatalogueEntry.model_validate(e) for e in found["catalogue"]]
    answers = {
        row["model_id"]: Ranked(**{**row, "verdict": Verdict(row["verdict"]), "tags": tuple(row["tags"])})
        for row in found["ranking"]
    }
    footprint = Footprint.model_validate(found["footprint"])
    advice = Recommendation.model_validate(found["recommendation"])
    model = SimpleNamespace(**found["model"])
    plans = dict.fromkeys(("16-bit", "fp8", "int8", "int4"))
    live = [DeviceLive.model_validate(found["live"])]
    for name, value in {
        "advisor.machine.read_hardware": lambda *_: hardware,
        "profiles.hardware.live": lambda: live,
        "profiles.formats.kernels.supported_formats": lambda _: formats,
        "profiles.models.catalogue_index": lambda: entries,
        "profiles.tasks.list_tasks": lambda: tasks,
        "advisor.tui.ranking.best_answers": lambda *_: answers,
        "advisor.tui.estimating.prepared": lambda *_: SimpleNamespace(model=model, plans=plans),
        "advisor.tui.estimating.estimated": lambda *_: footprint,
        "advisor.recommend.recommend": lambda *_, **__: advice,
    }.items():
        monkeypatch.setattr(name, value)
    # One look at the devices: the history of the load would grow with time.
    monkeypatch.setattr("advisor.tui.screens.hardware.LOOK_GAP_S", 3600.0)


def record() -> dict[str, Any]:
    """The same facts from the real functions."""
    from advisor.machine import read_hardware
    from advisor.recommend import recommend
    from advisor.tui.estimating import estimated, prepared
    from advisor.tui.ranking import best_answers
    from advisor.tui.session import Session
    from profiles.formats.kernels import supported_formats
    from profiles.hardware import DeviceLive
    from profiles.models import catalogue_index
    from profiles.tasks import list_tasks

    hardware, spec = read_hardware(DEVICE, 1), Session().spec()
    found = prepared(MODEL, hardware, 1)
    entries = [e for e in catalogue_index() if e.id.startswith(("Qwen/Qwen3", "google/gemma-3"))][:MODELS]
    answers = best_answers(hardware, spec)
    shown = ("architecture", "num_layers", "hidden_size", "num_key_value_heads", "head_dim",
             "max_position_embeddings", "license", "source")  # fmt: skip
    live = DeviceLive.model_validate(
        {
            "kind": "cuda", "name": hardware.device.name, "index": 0, "used_bytes": 7 * 2**30,
            "total_bytes": 24 * 2**30, "utilization_percent": 43, "temperature_c": 61, "power_w": 212,
            "power_limit_w": 450, "processes": [{"pid": 4242, "name": "python", "used_bytes": 6 * 2**30}],
        }
    )  # fmt: skip
    return {
        "hardware": hardware.model_dump(mode="json"),
        "live": live.model_dump(mode="json"),
        "formats": {
            name: {k: getattr(s, k) for k in ("runs", "slow", "native", "reason", "kernel")}
            for name, s in supported_formats(hardware.device).items()
        },
        "catalogue": [e.model_dump(mode="json") for e in entries],
        "ranking": [answers[e.id]._asdict() for e in entries],
        "model": {name: getattr(found.model, name) for name in shown},
        "footprint": estimated(found, hardware, spec, "16-bit").model_dump(mode="json"),
        "recommendation": recommend("generic", hardware=hardware, model=found.model).model_dump(mode="json"),
        "tasks": [
            {k: getattr(t, k) for k in ("name", "title", "prior", "quality_floor_ppl_ratio")}
            for t in list_tasks()
        ],
    }


if __name__ == "__main__":
    FACTS.write_text(json.dumps(record(), indent=1, default=str) + "\n", encoding="utf-8")
    print(FACTS, FACTS.stat().st_size, "bytes; the run is", RECORDED)
