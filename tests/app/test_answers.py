"""What the light commands answer: data that parses back into the contracts, text with provenance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiles.footprint.schema import Footprint
from profiles.hardware.schema import HardwareProfile
from profiles.models.schema import ModelProfile
from tuners.plan import Unit

Cli = Callable[..., tuple[int, str, str]]
CliJson = Callable[..., Any]


def test_hardware_is_a_hardware_profile(cli_json: CliJson) -> None:
    here = HardwareProfile.model_validate(cli_json("hardware"))
    assert here.origin == "probe"
    planned = HardwareProfile.model_validate(cli_json("hardware", "--gpu", "rtx-4090", "--count", "2"))
    assert (planned.origin, len(planned.devices)) == ("catalogue", 2)


def test_hardware_says_what_runs_each_format_and_why_not(cli: Cli, cli_json: CliJson) -> None:
    answer = cli_json("hardware", "--gpu", "rtx-3090", "--formats")["formats"]
    assert answer["W4A16_G128"]["kernel"] == "MarlinLinearKernel"
    assert not answer["FP8_DYNAMIC"]["native"]
    code, out, _ = cli("hardware", "--gpu", "rtx-3090", "--formats")
    assert code == 0
    assert "MarlinLinearKernel" in out
    assert "memory" in out
    assert "known from" in out


def test_inspect_lists_every_tensor_byte_once_and_every_unit(cli: Cli, cli_json: CliJson, tiny: Path) -> None:
    answer = cli_json("inspect", tiny, "--gpu", "rtx-4090")
    model = ModelProfile.model_validate(answer["model"])
    units = [Unit.model_validate(u) for u in answer["units"]]
    assert sum(role["bytes"] for role in answer["roles"].values()) == sum(t.nbytes for t in model.tensors)
    assert len(units) == 8
    assert {u.role for u in units} == {"qkv", "o", "gate_up", "down"}
    code, out, _ = cli("inspect", tiny, "--gpu", "rtx-4090", "--units")
    assert code == 0
    assert "model.layers.1.self_attn.qkv_proj" in out


def test_inspect_says_why_a_format_is_left_out(cli: Cli, tiny: Path) -> None:
    code, out, _ = cli("inspect", tiny, "--gpu", "rtx-5090", "--formats", "W8A8")
    assert code == 0
    assert "left out: W8A8 (8 units)" in out
    assert "Blackwell" in out


def test_fit_answers_every_uniform_format(cli_json: CliJson, tiny: Path) -> None:
    answer = cli_json("fit", tiny, "--gpu", "rtx-4090", "--context", "256")
    plans = {label: Footprint.model_validate(found) for label, found in answer["plans"].items()}
    assert next(iter(plans)) == "uniform 16-bit"
    assert {f"uniform {f}" for f in ("fp8", "int8", "w8a16", "int4", "fp4", "mxfp4")} == set(list(plans)[1:])
    assert answer["runs"]["uniform fp8"]["how"] == "native"
    assert answer["runs"]["uniform int4"]["how"] == "weight-only"
    assert "16-bit" in answer["runs"]["uniform int4"]["cost"]
    assert answer["quantize"]["uniform int4"]["method"] == "gptq"
    assert plans["uniform int4"].weights.value < plans["uniform 16-bit"].weights.value
    assert all(found.spec.max_model_len == 256 for found in plans.values())


def test_fit_shows_provenance_and_on_request_the_formulas(cli: Cli, tiny: Path) -> None:
    code, out, _ = cli("fit", tiny, "--gpu", "rtx-4090")
    _, explained, _ = cli("fit", tiny, "--gpu", "rtx-4090", "--explain")
    assert code == 0
    assert "exact" in out
    assert "weights" in out
    assert explained.count(" = ") + explained.count("= ") > out.count("= ")


def test_dry_run_says_what_would_be_done_and_writes_nothing(
    cli: Cli, cli_json: CliJson, tiny: Path, tmp_path: Path
) -> None:
    answer = cli_json("tune", tiny, "--gpu", "rtx-4090", "--budget", "8bits", "--dry-run")
    assert answer["units"] == 8
    assert answer["bits_per_weight"] == pytest.approx(8, abs=0.01)
    assert answer["sensitivity_cells"] == 8 * 3
    code, out, _ = cli("tune", tiny, "--gpu", "rtx-4090", "--budget", "8bits", "--dry-run")
    assert code == 0
    assert "nothing was written" in out
    assert not (tmp_path / "advisor-runs").exists()


def test_a_derived_budget_comes_from_the_device(cli_json: CliJson, tiny: Path) -> None:
    # 40 KiB of KV cache would do for this model: a device so full that little is left for weights
    # does not exist in the catalogue, so the original fits and the answer is to say so.
    from advisor.pipeline.facts import gather
    from advisor.pipeline.footprint import derived_budget_bytes
    from advisor.pipeline.inputs import RunInputs
    from profiles.footprint.schema import ServingSpec

    def budget(context: int, concurrency: int) -> int:
        spec = ServingSpec(max_model_len=context, concurrency=concurrency)
        facts = gather(RunInputs(model=str(tiny), gpu="rtx-4090", task="generic", serving=spec))
        return derived_budget_bytes(facts, spec)[0]

    assert budget(512, 8) < budget(512, 1)
    assert budget(512, 4) <= budget(128, 4)
    assert budget(512, 1) < 24 * 2**30


def test_through_footprint_writes_a_run_that_resumes(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    command = (
        "tune",
        tiny,
        "--gpu",
        "rtx-4090",
        "--budget",
        "8bits",
        "--through",
        "footprint",
        "--run",
        root,
    )
    code, _, err = cli(*command)
    assert code == 0, err
    assert {"inputs.yaml", "hardware.json", "model.json", "units.json", "footprint.json", "budget.json"} <= {
        p.name for p in root.iterdir()
    }
    before = (root / "footprint.json").stat().st_mtime_ns
    code, _, err = cli(*command)
    assert code == 0
    assert "footprint: unchanged, skipped" in err
    assert (root / "footprint.json").stat().st_mtime_ns == before


def test_another_question_in_the_same_directory_is_refused(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    command = ("tune", tiny, "--gpu", "rtx-4090", "--through", "footprint", "--run", tmp_path / "run")
    assert cli(*command, "--budget", "8bits")[0] == 0
    code, out, err = cli(*command, "--budget", "7bits")
    assert (code, out) == (2, "")
    assert "budget: 8bits -> 7bits" in err


def test_a_changed_checkpoint_is_read_again(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    import os

    command = ("tune", tiny, "--gpu", "rtx-4090", "--budget", "8bits", "--through", "footprint")
    assert cli(*command, "--run", tmp_path / "run")[0] == 0
    os.utime(tiny / "model.safetensors", (1, 1))
    _, _, err = cli(*command, "--run", tmp_path / "run")
    assert "profile: done" in err


def test_runs_lists_what_there_is(cli: Cli, cli_json: CliJson, tiny: Path, tmp_path: Path) -> None:
    assert cli_json("runs") == []
    code, out, _ = cli("runs")
    assert code == 0
    assert "no runs" in out
    cli("tune", tiny, "--gpu", "rtx-4090", "--budget", "8bits", "--through", "footprint")
    (tmp_path / "advisor-runs" / "broken").mkdir()
    (tmp_path / "advisor-runs" / "broken" / "inputs.yaml").write_text("model: [")
    found = {Path(r["run"]).name: r for r in cli_json("runs")}
    assert found["broken"]["model"].startswith("unreadable")
    (ours,) = [r for name, r in found.items() if name != "broken"]
    assert ours["stages"] == ["profile", "footprint"]


def test_a_plan_for_another_model_is_refused(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("formats: {model.layers.9.self_attn.qkv_proj: W8A8}")
    code, out, err = cli("quantize", "--model", tiny, "--plan", plan)
    assert (code, out) == (2, "")
    assert "8 units without a format" in err
    assert "model.layers.9.self_attn.qkv_proj" in err
