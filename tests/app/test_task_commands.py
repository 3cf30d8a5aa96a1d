"""`advisor tasks` and `advisor sensitivity`: what they print, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.cli.sensitivity import make_spec, maps, parse_tasks, show, unit_map
from advisor.task_memory import recall, remember
from profiles.errors import ExitCode, UsageError
from profiles.models import read_model
from profiles.tasks import list_tasks, load_task
from tests.app.test_bad_input import refused
from tests.recommend.test_posterior import measured
from tuners.sensitivity.task_schema import Correlation, Crossing, TasksResult, UnitLoss

Cli = Callable[..., tuple[int, str, str]]


def test_list_names_every_task_and_the_format_of_own_files(cli: Cli) -> None:
    code, out, _ = cli("tasks")
    assert code == 0
    assert all(task.name in out for task in list_tasks())
    assert '"prompt": ..., "answer": ...' in out


def test_one_task_shows_priors_with_sources_and_pinned_data(cli: Cli, cli_json: Callable[..., Any]) -> None:
    _, out, _ = cli("tasks", "math")
    assert "GSM8K" in out
    assert "740312add88f781978c0658806c59bc2815b9866" in out
    found = cli_json("tasks", "math")
    assert found["items"]["evaluate"] >= 64
    assert found["answers_weighted"]
    assert set(found["expected_loss"]) == {"int4", "int8", "fp8"}
    assert found["expected_loss"]["int4"]["provenance"] == "estimated"
    assert all(loss["source"] for loss in found["expected_loss"].values())
    assert len(cli_json("tasks")) == len(list_tasks())


def test_a_mixture_and_a_file_are_tasks(cli_json: Callable[..., Any], tmp_path: Path) -> None:
    assert cli_json("tasks", "code:0.7,chat:0.3")["name"] == "code:0.7+generic:0.3"
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": "a"}) + "\n" for i in range(9)))
    assert cli_json("tasks", own)["scorers"] == ["exact"]


def test_unknown_task_names_the_nearest(cli: Cli) -> None:
    refused(cli("tasks", "maths"), ExitCode.USAGE, "math")


@pytest.mark.parametrize("task", ["", "cod", "code,code", "code:0.5,chat", "code:0,chat:1", "/no/such.jsonl"])
def test_sensitivity_refuses_what_is_no_task(cli: Cli, tiny: Path, task: str) -> None:
    refused(cli("sensitivity", tiny, f"--task={task}", "--gpu", "rtx-4090"), ExitCode.USAGE)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "no document"), (b'{"prompt": "q", "answer": "a"}\n', "too few"), (b"caf\xe9\n", "UTF-8")],
)
def test_sensitivity_refuses_bad_files(
    cli: Cli, tiny: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_bytes(content)
    refused(cli("sensitivity", tiny, "--task", own, "--gpu", "rtx-4090"), ExitCode.USAGE, said)


def test_sensitivity_needs_weights_and_a_task(cli: Cli, tiny: Path) -> None:
    refused(cli("sensitivity", tiny), ExitCode.USAGE, "--task")
    refused(cli("sensitivity", "Qwen/Qwen3-8B", "--task", "code", "--offline"), ExitCode.USAGE, "weights")


def test_several_tasks_and_mixtures() -> None:
    assert [t.name for t in parse_tasks(["code,math", "chat"])] == ["code", "math", "generic"]
    assert [t.name for t in parse_tasks(["code:1,math:1"])] == ["code:0.5+math:0.5"]
    with pytest.raises(UsageError, match="once"):
        parse_tasks(["chat", "generic"])


def test_the_default_budget_is_feasible_when_four_bits_are_not(tiny: Path) -> None:
    from advisor.machine import read_hardware
    from tuners.units import build_units

    model = read_model(str(tiny))
    for formats in (None, ("FP8_DYNAMIC",)):
        units = tuple(build_units(model, read_hardware("rtx-4090", 1).device, formats=formats))
        spec = make_spec(model, units, (load_task("code"),), None, exact=False, trust_remote_code=False)
        assert spec.budget_bytes >= sum(min(u.bytes_as(f) for f in u.options) for u in units)


def result() -> TasksResult:
    cells = tuple(
        UnitLoss(
            unit=f"model.layers.{b}.{r}", role=r, block=b, format="W4A16_G64", kl=0.01 * (b + 1),
            error=0.001, how="apportioned",
        )
        for b in range(3)
        for r in ("qkv", "o")
    )  # fmt: skip
    tasks = tuple(measured(n).model_copy(update={"units": cells, "check": 0.9}) for n in ("code", "math"))
    cross = [
        Crossing(plan_for=a, measured_on=b, kl=0.02, own_kl=0.02, difference=0, low=0, high=0,
                 verdict="own plan" if a == b else "no measurable difference")
        for b in ("code", "math") for a in ("code", "math")
    ]  # fmt: skip
    return TasksResult(
        model_id="m", budget_bits=5, tasks=tasks, conclusion="these tasks do not need different plans",
        correlations=(Correlation(a="code", b="math", rank=0.9, ceiling=0.95),),
        crossings=tuple(cross), seconds=2,
    )  # fmt: skip


def test_the_map_is_shares_of_the_loss() -> None:
    found = unit_map(result().tasks[0])
    assert sum(found.values()) == pytest.approx(1)
    assert found["qkv", "late"] == pytest.approx(0.25)
    assert set(found) == {(r, d) for r in ("qkv", "o") for d in ("early", "middle", "late")}
    rows = maps(result().tasks)
    assert [r["depth"] for r in rows] == ["early", "middle", "late"] * 2
    assert sum(r["shares"]["math"] for r in rows) == pytest.approx(1)


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show(result(), (load_task("code"), load_task("math")))
    out = capsys.readouterr().out
    for words in (
        "stopped: decided", "the measurement decided", "rank correlation", "do not need different plans",
        "40 items", "same top token", "early",
    ):  # fmt: skip
        assert words in out


def test_recommend_remembers_what_was_measured(
    tiny: Path, cli_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = read_model(str(tiny)), load_task("code")
    assert recall(model, task) is None
    remember(model, task, measured("code"))
    assert recall(model, task) == measured("code")
    found = cli_json("recommend", tiny, "--task", "code", "--gpu", "rtx-4090")
    assert found["measured"]["int4"]["value"] == pytest.approx(1.01)
    assert {b["decided_by"] for b in found["beliefs"]} <= {"measured", "prior"}
    with monkeypatch.context() as changed:
        changed.setattr("tuners.model.versions.VARIANTS", 0)
        assert recall(model, task) is None
    (tiny / "model.safetensors").touch()
    assert recall(read_model(str(tiny)), task) is None
