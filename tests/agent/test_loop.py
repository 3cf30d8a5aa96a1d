"""What surrounds the decisions: journal, kept attempts, limits, the command's refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.agent import keep
from advisor.agent.journal import DecisionLog, read_decisions
from advisor.agent.schema import Action, AgentVerdict, Decision, Outcome
from advisor.workspace import Workspace
from tests.agent.test_decide import int4, limits, settings
from tests.app.tiny import write_tiny


def decision(number: int) -> Decision:
    return Decision(number=number, action=Action.START, reason=f"reason {number}", settings=settings())


def test_a_stopped_loop_goes_on_after_its_last_measured_attempt(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "decisions.jsonl")
    assert log.begin(limits(), {"q": 1}) == ()
    log.decided(decision(1))
    log.measured(1, Outcome(plan=int4(), ratio=1.2))
    log.decided(decision(2))
    with log.path.open("a") as out:
        out.write('{"kind": "measured", "numb')  # killed here
    found = DecisionLog(log.path).begin(limits(attempts=9), {"q": 1})
    assert [a.decision.number for a in found] == [1]
    assert found[0].outcome.ratio == 1.2
    assert [d.number for d in read_decisions(log.path)] == [1, 2]


@pytest.mark.parametrize("changed", [{"floor": 1.2}, {"max_budget_bytes": 10**9}])
def test_another_question_begins_anew_and_keeps_the_old_lines(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    log = DecisionLog(tmp_path / "decisions.jsonl")
    log.begin(limits(), {"q": 1})
    log.decided(decision(1))
    log.measured(1, Outcome(plan=int4(), ratio=1.2))
    assert log.begin(limits(**changed), {"q": 1}) == ()
    assert read_decisions(log.path) == []
    assert len(log.path.read_text().splitlines()) == 4


def test_the_best_attempt_comes_back_whole(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "run") as workspace:
        for number in (1, 2):
            (workspace.root / "checkpoint").mkdir(exist_ok=True)
            weights = workspace.path("checkpoint", "model.safetensors")
            weights.unlink(missing_ok=True)  # the quantizer writes a new directory
            weights.write_text(f"weights {number}")
            for name in keep.FILES:
                path = workspace.path(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} {number}")
            keep.keep(workspace, number)
        assert keep.restore(workspace, 1)
        assert workspace.path("checkpoint", "model.safetensors").read_text() == "weights 1"
        assert workspace.path("validation.json").read_text() == "validation.json 1"
        keep.forget_checkpoints(workspace, but=1)
        assert (keep.folder(workspace, 1) / "checkpoint").exists()
        assert not (keep.folder(workspace, 2) / "checkpoint").exists()
        assert (keep.folder(workspace, 2) / "plan.yaml").exists()
        assert not keep.restore(workspace, 7)


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    from advisor.__main__ import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tiny(tmp_path / "tiny")

    def call(*tokens: str) -> tuple[int, str, str]:
        code = run(["auto", str(tmp_path / "tiny"), *tokens])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("--budget", "9bits", "--floor", "nan"), "floor"),
        (("--budget", "9bits", "--floor", "0"), "floor"),
        (("--budget", "9bits", "--max-budget", "5bits"), "below the budget"),
        (("--budget", "9bits", "--min-context", "128"), "--context"),
        (("--budget", "9bits", "--attempts", "0"), "out of range"),
        (("--budget", "9bits", "--use", "nonsense"), "production"),
    ],
)
def test_bad_limits_are_refused_before_anything_starts(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, tokens: tuple[str, ...], words: str
) -> None:
    code, _, err = cli(*tokens)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "advisor-runs").exists()


def test_a_planned_device_cannot_be_measured_here(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = cli("--budget", "9bits", "--gpu", "rtx-4090")
    assert code == 3
    assert "planned for a device" in err


def test_without_a_budget_the_framework_names_where_to_start(
    cli: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, _ = cli("--use", "production", "--gpu", "h100", "--dry-run", "--json")
    found = json.loads(out)
    assert code == 0
    assert "framework's first choice" in found["budget_origin"]
    assert found["limits"]["max_budget_bytes"] > found["limits"]["budget_bytes"]
    asked = json.loads(cli("--budget", "9bits", "--dry-run", "--json")[1])["limits"]
    assert asked["max_budget_bytes"] == asked["budget_bytes"]
    assert asked["floor"] == 1.1  # the task's own


def test_the_verdict_decides_the_exit_code() -> None:
    from advisor.cli.auto import exit_code

    def verdict(status: str, passed: bool = False) -> AgentVerdict:
        return AgentVerdict.model_validate(
            {"status": status, "passed": passed, "reason": "", "next_step": "", "floor": 1.05, "best": None,
             "attempts": ()}
        )  # fmt: skip

    assert exit_code(verdict("accepted", True)) == 0
    assert [exit_code(verdict(s)) for s in ("impossible", "not reached", "unrepairable")] == [1, 1, 4]
