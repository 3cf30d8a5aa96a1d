"""No held-out item of any task reaches the quantizer that writes the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.pipeline.facts import gather
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.quantize import quantize_spec
from advisor.workspace import Workspace
from profiles.tasks import list_tasks
from profiles.tasks.split import fingerprint
from tuners.plan import uniform

NAMES = [*(task.name for task in list_tasks()), "code:0.7,chat:0.3"]


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_is_calibrated_on_the_search_split_alone(
    name: str, tiny: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    root.mkdir()
    inputs = RunInputs(model=str(tiny), task=name, gpu="rtx-4090")
    facts = gather(inputs)
    spec = quantize_spec(Workspace.read_only(root), inputs, facts, uniform(facts.units, "int8"))
    used = {fingerprint(text) for text in spec.calibration_texts}

    assert len(used) >= 64
    assert used <= facts.task.splits.fingerprints("search")
    for held_out in ("select", "evaluate"):
        assert not used & facts.task.splits.fingerprints(held_out)
