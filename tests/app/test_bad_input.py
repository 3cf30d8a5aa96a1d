"""Bad input: a message with the next step and the right exit code, never a traceback, stdout untouched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles.errors import ExitCode
from tests.app.tiny import write_tiny

Cli = Callable[..., tuple[int, str, str]]


def refused(answer: tuple[int, str, str], code: ExitCode, *words: str) -> None:
    found, out, err = answer
    assert found == code, err
    assert out == ""
    assert err.startswith("error: ")
    assert "next:" in err or "allowed:" in err
    assert "Traceback" not in err
    assert "defect" not in err
    for word in words:
        assert word in err


def test_unknown_command(cli: Cli) -> None:
    refused(cli("tunes"), ExitCode.USAGE, "'tunes'", "tune")


def test_unknown_option(cli: Cli) -> None:
    refused(cli("hardware", "--nope"), ExitCode.USAGE, "--nope", "advisor hardware --help")


def test_missing_argument(cli: Cli) -> None:
    refused(cli("tune"), ExitCode.USAGE, "advisor tune --help")


def test_not_a_number(cli: Cli, tiny: Path) -> None:
    refused(cli("fit", tiny, "--context", "many"), ExitCode.USAGE, "many")


@pytest.mark.parametrize("command", ["inspect", "fit", "tune"])
def test_missing_model(cli: Cli, command: str) -> None:
    refused(cli(command, "/no/such/model", "--json"), ExitCode.USAGE, "/no/such/model")


def test_config_without_weights(cli: Cli, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "bare", weights=False)
    refused(cli("tune", folder, "--budget", "5bits"), ExitCode.USAGE, "bare")


def test_truncated_weights(cli: Cli, tiny: Path) -> None:
    file = tiny / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(cli("inspect", tiny), ExitCode.USAGE, "model.safetensors")


def test_an_unknown_architecture_says_what_is_assumed(cli: Cli, tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config |= {"architectures": ["NobodyKnowsForCausalLM"], "model_type": "nobody"}
    (tiny / "config.json").write_text(json.dumps(config))
    code, out, _ = cli("inspect", tiny)
    assert code == 0
    assert "assumed: architecture NobodyKnowsForCausalLM" in out


def test_an_unanswerable_question_leaves_no_directory(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    cli("tune", tiny, "--budget", "2bits", "--gpu", "rtx-4090")
    assert not (tmp_path / "advisor-runs").exists()


@pytest.mark.parametrize("budget", ["lots", "-3bits", "nanbits", "5", "5 parsecs", ""])
def test_not_a_budget(cli: Cli, tiny: Path, budget: str) -> None:
    refused(cli("tune", tiny, f"--budget={budget}", "--gpu", "rtx-4090"), ExitCode.USAGE, "budget")


def test_budget_below_the_smallest_plan_says_the_minimum(cli: Cli, tiny: Path) -> None:
    answer = cli("tune", tiny, "--budget", "2bits", "--gpu", "rtx-4090")
    refused(answer, ExitCode.INFEASIBLE, "smallest", "at least", "MiB")


def test_budget_above_the_original(cli: Cli, tiny: Path) -> None:
    answer = cli("tune", tiny, "--budget", "1GiB", "--gpu", "rtx-4090")
    refused(answer, ExitCode.USAGE, "nothing needs quantizing")


def test_no_budget_and_no_context(cli: Cli, tiny: Path) -> None:
    refused(cli("tune", tiny, "--gpu", "rtx-4090"), ExitCode.USAGE, "--budget")


def test_unknown_device_names_the_nearest(cli: Cli) -> None:
    refused(cli("hardware", "--gpu", "rtx-4909"), ExitCode.USAGE, "4090")


def test_unknown_format(cli: Cli, tiny: Path) -> None:
    refused(cli("inspect", tiny, "--formats", "W3A16"), ExitCode.USAGE, "W3A16")


def test_serving_out_of_range_names_the_option(cli: Cli, tiny: Path) -> None:
    refused(cli("fit", tiny, "--context", "0"), ExitCode.USAGE, "--context 0")
    refused(cli("fit", tiny, "--kv-cache-dtype", "fp2"), ExitCode.USAGE, "--kv-cache-dtype fp2")
    refused(cli("fit", tiny, "--kv-cache-memory", "much"), ExitCode.USAGE, "much")


@pytest.mark.parametrize("command", ["fit --gpu rtx-4090", "compare --gpu rtx-4090 --gpu h100"])
def test_an_engine_version_that_nobody_knows(cli: Cli, tiny: Path, command: str) -> None:
    asked = (*command.split(), tiny)
    answer = cli(*asked, "--engine-version", "0.99.9", "--json")
    refused(answer, ExitCode.USAGE, "unknown engine version", "0.99.9", "0.33", "advisor ingest LOG")
    answer = cli(*asked, "--engine-version", "newest")
    refused(answer, ExitCode.USAGE, "not an engine version", "newest", "0.8 to 0.33", "next:")
    answer = cli(*asked, "--engine-version", "0.34.0")
    assert answer[0] == 0, answer[2]


def test_trials_out_of_range(cli: Cli, tiny: Path) -> None:
    refused(cli("tune", tiny, "--budget", "5bits", "--trials=-1"), ExitCode.USAGE, "--trials -1")


def test_a_run_that_is_none(cli: Cli, tmp_path: Path) -> None:
    refused(cli("quantize", "--run", tmp_path / "none"), ExitCode.USAGE, "advisor runs")
    refused(cli("validate"), ExitCode.USAGE, "--run DIR")


def test_not_a_plan(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("formats: [1, 2]")
    refused(cli("quantize", "--model", tiny, "--plan", plan), ExitCode.USAGE, "plan.yaml")


@pytest.mark.parametrize(
    ("tokens", "needle"),
    [
        (("tune", "MODEL", "--method", "W4A16=awk"), "did you mean awq?"),
        (("tune", "MODEL", "--method", "W8A8=awq"), "awq cannot make W8A8"),
        (("auto", "MODEL", "--method", "int5=rtn"), "int4"),
        (("tune", "MODEL", "--recover", "-1"), "--recover -1"),
    ],
)
def test_methods_that_do_not_exist_or_do_not_fit(
    cli: Cli, tiny: Path, tokens: tuple[str, ...], needle: str
) -> None:
    refused(cli(*(str(tiny) if t == "MODEL" else t for t in tokens)), ExitCode.USAGE, needle)


def test_a_plan_with_an_unknown_method_is_refused_before_any_work(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    from profiles.hardware import probe_cpu
    from profiles.models import read_model
    from tuners.plan import PrecisionPlan
    from tuners.units import build_units

    units = build_units(read_model(str(tiny)), probe_cpu().device)
    formats = {u.name: u.options[0] for u in units}
    plan = PrecisionPlan(formats=formats, methods={units[0].name: "autoraund"})
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    found = cli("quantize", "--model", tiny, "--plan", tmp_path / "plan.yaml", "--run", tmp_path / "run")
    assert found[0] == ExitCode.USAGE
    assert "did you mean autoround?" in found[2]
    assert "Quantizing" not in found[2]


def test_bench_of_a_planned_device(cli: Cli) -> None:
    refused(cli("hardware", "--gpu", "h100", "--bench"), ExitCode.USAGE, "--bench")


def test_unknown_schema(cli: Cli) -> None:
    refused(cli("schema", "plam"), ExitCode.USAGE, "plan")


def test_errors_go_to_stderr_of_a_real_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "advisor", "inspect", str(tmp_path), "--json"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m advisor schema event | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0
