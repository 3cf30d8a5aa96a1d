"""The commands, registered by import path: none is imported before it is called."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

from cyclopts import App


class Command(NamedTuple):
    """Where a command lives, its line on the help page, and examples of its use."""

    path: str
    line: str
    examples: tuple[str, ...]


COMMANDS: dict[str, Command] = {
    "hardware": Command(
        "advisor.cli.hardware:hardware",
        "What this machine is, or what a planned device would be.",
        (
            "advisor hardware --formats",
            "advisor hardware --gpu rtx-4090 --formats",
            "advisor hardware --gpu h100 --count 2 --json",
            "advisor hardware --bench",
        ),
    ),
    "inspect": Command(
        "advisor.cli.inspect:inspect",
        "A model's tensors, decision units and formats.",
        (
            "advisor inspect ./SmolLM2-135M-Instruct",
            "advisor inspect Qwen/Qwen3-8B --gpu rtx-4090",
            "advisor inspect Qwen/Qwen3-8B --gpu h100 --tp 2 --units --json",
        ),
    ),
    "fit": Command(
        "advisor.cli.fit:fit",
        "Does it fit, what will the engine say at boot, what frees memory.",
        (
            "advisor fit ./SmolLM2-135M-Instruct",
            "advisor fit Qwen/Qwen3-8B --gpu rtx-4090 --context 16384 --concurrency 4",
            "advisor fit meta-llama/Llama-3.1-8B-Instruct --gpu rtx-3090 --kv-cache-dtype fp8 --explain",
            "advisor fit Qwen/Qwen3-32B --gpu h100 --count 2 --tp 2 --json",
            "advisor fit deepseek-ai/DeepSeek-V3 --gpu h200 --count 8 --dcp 8 --speculative-model mtp",
            "advisor fit Model-Q4_K_M.gguf --gpu rtx-3060-12",
            "advisor fit --gpu rtx-4090 --task code --min-context 16384 --min-speed 40 --fits-only",
            "advisor fit Qwen/Qwen3-32B --gpus all --context 16384",
        ),
    ),
    "tasks": Command(
        "advisor.cli.tasks:tasks",
        "The tasks: how sensitive each is, its texts and scorer.",
        ("advisor tasks", "advisor tasks code", "advisor tasks 'code:0.7,chat:0.3' --json"),
    ),
    "sensitivity": Command(
        "advisor.cli.sensitivity:sensitivity",
        "Measure what lower precision costs a task on this model.",
        (
            "advisor sensitivity ./model --task code",
            "advisor sensitivity ./model --task code,math,chat --budget 5bits --json",
            "advisor sensitivity ./model --task my-items.jsonl",
            "advisor sensitivity ./model --task 'code:0.7,chat:0.3'",
        ),
    ),
    "compare": Command(
        "advisor.cli.compare:compare",
        "Models, formats, plans or devices side by side.",
        (
            "advisor compare Qwen/Qwen3-8B meta-llama/Llama-3.1-8B-Instruct --gpu rtx-4090 --context 8192",
            "advisor compare Qwen/Qwen3-8B --gpu rtx-4090 --gpu h100",
            "advisor compare Qwen/Qwen3-8B --format 16-bit --format int4 --gpu rtx-4090 --json",
            "advisor compare plan-a.yaml plan-b.yaml --model ./model",
        ),
    ),
    "recommend": Command(
        "advisor.cli.recommend:recommend",
        "Which format and method the known rules favour, and why.",
        (
            "advisor recommend ./model --task code --use production",
            "advisor recommend Qwen/Qwen3-8B --task reasoning --use edge --gpu rtx-4090 --json",
        ),
    ),
    "tune": Command(
        "advisor.cli.tune:tune",
        "Search a precision plan under a memory budget.",
        (
            "advisor tune ./model --budget 5.5bits",
            "advisor tune ./model --budget 96MiB --task code --through export",
            "advisor tune ./model --gpu rtx-4090 --context 16384 --concurrency 4",
            "advisor tune ./model --budget 40% --dry-run",
        ),
    ),
    "front": Command(
        "advisor.cli.front:front",
        "The measured plans of a run, or the one for another budget.",
        (
            "advisor front --run advisor-runs/model-3fa1c09e",
            "advisor front --run DIR --budget 5bits --plan-out plan.yaml",
        ),
    ),
    "auto": Command(
        "advisor.cli.auto:auto",
        "The whole job unattended: plan, prove, repair, verdict.",
        (
            "advisor auto ./model --budget 6bits --floor 1.05",
            "advisor auto ./model --budget 96MiB --max-budget 120MiB --task code --use production",
            "advisor auto Qwen/Qwen3-8B --gpu rtx-4090 --context 16384 --min-context 8192 --yes",
        ),
    ),
    "quantize": Command(
        "advisor.cli.stages:quantize",
        "Write the plan of a run as a checkpoint.",
        (
            "advisor quantize --run advisor-runs/model-3fa1c09e",
            "advisor quantize --model ./model --plan plan.yaml",
            "advisor quantize --run DIR --method W4A16=awq-gptq,W8A8=smoothquant",
        ),
    ),
    "recover": Command(
        "advisor.cli.stages:recover",
        "Train a run's checkpoint towards the original, at the same bytes.",
        (
            "advisor recover advisor-runs/model-3fa1c09e",
            "advisor recover DIR --steps 400 && advisor validate --run DIR",
        ),
    ),
    "validate": Command(
        "advisor.cli.stages:validate",
        "Load original and checkpoint in the engine and compare.",
        ("advisor validate --run advisor-runs/model-3fa1c09e", "advisor validate --run DIR --json"),
    ),
    "export": Command(
        "advisor.cli.stages:export",
        "Write the directory to deploy.",
        ("advisor export --run advisor-runs/model-3fa1c09e",),
    ),
    "gguf": Command(
        "advisor.cli.gguf:gguf",
        "The plan of a run as one GGUF file of mixed types.",
        ("advisor gguf --run advisor-runs/model-3fa1c09e", "advisor gguf --run DIR --out model.gguf"),
    ),
    "report": Command(
        "advisor.cli.run_report:report",
        "What a run found, as one HTML file and as Markdown.",
        (
            "advisor report --run advisor-runs/model-3fa1c09e",
            "advisor report --run DIR --html report.html --markdown report.md",
        ),
    ),
    "demo": Command(
        "advisor.cli.demo:demo",
        "The whole way on a small real model.",
        ("advisor demo", "advisor demo --budget 6bits --trials 48", "advisor demo --json"),
    ),
    "ingest": Command(
        "advisor.cli.ingest:ingest",
        "A real boot log against the prediction; keep the difference.",
        (
            "advisor ingest vllm.log",
            "advisor ingest vllm.log --model Qwen/Qwen3-8B --gpu rtx-4090 --save",
        ),
    ),
    "mcp": Command(
        "advisor.cli.mcp:mcp",
        "Serve fit, recommend, tune, status and export to other agents (MCP over stdio).",
        ("advisor mcp", "advisor mcp --directory /data/advisor-runs"),
    ),
    "runs": Command(
        "advisor.cli.runs:runs",
        "The run directories here and how far each came.",
        ("advisor runs", "advisor runs /data/advisor-runs --json"),
    ),
    "doctor": Command(
        "advisor.cli.doctor:doctor",
        "Versions, devices, conflicts; paste it into a bug report.",
        ("advisor doctor", "advisor doctor --json"),
    ),
    "schema": Command(
        "advisor.cli.schema:schema",
        "JSON Schema of every file and --json output.",
        ("advisor schema", "advisor schema plan > plan.schema.json"),
    ),
    "tui": Command(
        "advisor.cli.tui:tui",
        "The terminal interface, here or in a browser.",
        (
            "advisor tui",
            "advisor tui --run advisor-runs/model-3fa1c09e",
            "advisor tui --web",
            "advisor tui --web --host 0.0.0.0 --token $(openssl rand -hex 16)",
        ),
    ),
    "completion": Command(
        "advisor.cli.completion:completion",
        "Shell completion script.",
        (
            "advisor completion bash > ~/.local/share/bash-completion/completions/advisor",
            "advisor completion zsh > ~/.zfunc/_advisor",
            "advisor completion fish > ~/.config/fish/completions/advisor.fish",
        ),
    ),
}
"""The order is that of the help page."""

EPILOGUE = (
    "Exit codes: 0 ok, 1 nothing satisfies the request, 2 wrong request, 3 this machine lacks something, "
    "4 a stage failed, 130 stopped. Errors are text on stderr; with --json, stdout holds data alone."
)


def build_app(called: str | None = None) -> App:
    """The application; `called` keeps its own long help (with examples) instead of the one line."""
    app = App(
        name="advisor",
        help="Which precision should this model run at, on my hardware, for my task: with the checkpoint "
        "and the config, proven.",
        help_format="plaintext",
        help_epilogue=EPILOGUE,
        version=_version,
    )
    for index, (name, command) in enumerate(COMMANDS.items()):
        app.command(
            command.path,
            name=name,
            help=None if name == called else command.line,
            help_epilogue="Examples:\n" + "\n".join(f"  {e}" for e in command.examples) + "\n\n" + EPILOGUE,
            sort_key=index,
        )

    @app.default
    def start() -> int:
        """Open the terminal interface where there is one; print this help where there is not."""
        if sys.stdout.isatty():
            return int(importlib.import_module("advisor.tui.app").main() or 0)
        app.help_print([])
        return 0

    return app


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("precision-advisor")
    except PackageNotFoundError:
        return "0 (not installed)"
