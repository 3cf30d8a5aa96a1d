"""The command line's surface, frozen: a change here is a change for users and for scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from advisor.cli.app import COMMANDS, build_app

SERVING = {
    "--context", "--max-model-len", "--concurrency", "--kv-cache-dtype", "--kv-dtype",
    "--tp", "--tensor-parallel-size", "--pp", "--pipeline-parallel-size", "--gpu-memory-utilization",
    "--kv-cache-memory", "--max-num-batched-tokens", "--max-num-seqs", "--enforce-eager",
}  # fmt: skip
DEPLOYMENT = {
    "--dtype", "--dp", "--data-parallel-size", "--dcp", "--decode-context-parallel-size",
    "--enable-expert-parallel", "--block-size", "--cpu-offload-gb", "--max-loras", "--max-lora-rank",
    "--enable-prefix-caching", "--no-enable-prefix-caching", "--speculative-model",
    "--num-speculative-tokens", "--engine-version",
}  # fmt: skip
STAGE = {
    "--run", "--plan", "--model", "--task", "--resume", "--no-resume", "--offline", "--yes", "-y",
    "--dry-run", "--json", "--quiet", "-q",
}  # fmt: skip
WEIGHTS = {"--method", "--rounding-steps", "--recover"}
SURFACE: dict[str, set[str]] = {
    "hardware": {"--gpu", "--count", "--formats", "--bench", "--json", "--quiet", "-q"},
    "inspect": {
        "--gpu", "--count", "--formats", "--tp", "--tensor-parallel-size", "--units", "--trust-remote-code",
        "--offline", "--json",
    },
    "fit": SERVING
    | DEPLOYMENT
    | {
        "--gpu", "--count", "--gpus", "--formats", "--task", "--min-context", "--min-params",
        "--max-params", "--license", "--min-speed", "--fits-only", "--top", "--full", "--explain",
        "--trust-remote-code", "--offline", "--json",
    },
    "tasks": {"--json"},
    "sensitivity": {
        "--task", "--budget", "--exact", "--gpu", "--count", "--formats", "--trust-remote-code", "--offline",
        "--json", "--quiet", "-q",
    },
    "compare": SERVING
    | DEPLOYMENT
    | {"--gpu", "--count", "--format", "--model", "--trust-remote-code", "--offline", "--json"},
    "recommend": {
        "--task", "--use", "--run", "--gpu", "--count", "--trust-remote-code", "--offline", "--json",
    },
    "tune": SERVING
    | WEIGHTS
    | {
        "--budget", "--task", "--gpu", "--count", "--formats", "--trials", "--seed", "--through",
        "--workers", "--storage", "--sensitivity", "--memory", "--objective", "--max-kl",
        "--max-ms-per-token",
        "--target-itl", "--latency", "--calibration-samples", "--revision", "--trust-remote-code", "--run",
        "--resume", "--no-resume",
        "--offline", "--yes", "-y", "--dry-run", "--json", "--quiet", "-q",
    },
    "front": {
        "--run", "--budget", "--max-ms-per-token", "--target-itl", "--max-kl", "--plan-out", "--json",
    },
    "auto": SERVING
    | WEIGHTS
    | {
        "--budget", "--max-budget", "--task", "--use", "--floor", "--gpu", "--count", "--formats", "--trials",
        "--max-trials", "--attempts", "--memory", "--sensitivity", "--min-context", "--seed",
        "--calibration-samples", "--revision", "--trust-remote-code", "--run", "--resume", "--no-resume",
        "--offline", "--yes", "-y",
        "--dry-run", "--json", "--quiet", "-q",
    },
    "quantize": STAGE | WEIGHTS,
    "recover": {"--steps", "--offline", "--yes", "-y", "--dry-run", "--json", "--quiet", "-q"},
    "validate": STAGE,
    "export": STAGE,
    "gguf": {"--run", "--out", "--measure", "--json", "--quiet", "-q"},
    "report": {"--run", "--html", "--markdown", "--json"},
    "demo": {
        "--budget", "--trials", "--sensitivity", "--seed", "--through", "--run", "--resume", "--no-resume",
        "--json", "--quiet", "-q",
    },
    "ingest": {
        "--model", "--gpu", "--format", "--gpu-memory-utilization", "--kv-cache-memory", "--save",
        "--no-save", "--trust-remote-code", "--offline", "--json",
    },
    "mcp": {"--directory"},
    "runs": {"--json"},
    "doctor": {"--json"},
    "schema": set(),
    "tui": {"--run", "--web", "--host", "--port", "--token", "--public-url"},
    "completion": set(),
}  # fmt: skip


def test_the_commands() -> None:
    assert list(COMMANDS) == list(SURFACE)


@pytest.mark.parametrize("command", SURFACE)
def test_the_options(command: str) -> None:
    arguments = build_app()[command].assemble_argument_collection()
    named = {name for argument in arguments for name in argument.names if name.startswith("-")}
    assert named - {n for n in named if n.startswith("--empty")} == SURFACE[command] | _positional(command)


def _positional(command: str) -> set[str]:
    return set()


@pytest.mark.parametrize("command", SURFACE)
def test_help_has_examples_and_exit_codes(command: str, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert f"advisor {command}" in out.partition("Examples:")[2]
    assert "Exit codes:" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_commands(shell: str, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli("completion", shell)
    assert code == 0
    assert all(name in out for name in SURFACE)


def test_every_contract_has_a_schema(cli: Callable[..., tuple[int, str, str]]) -> None:
    import json

    from advisor.cli.schema import CONTRACTS

    for name in CONTRACTS:
        code, out, _ = cli("schema", name)
        found: dict[str, Any] = json.loads(out)
        assert code == 0
        assert "properties" in found or "oneOf" in found
