"""The tools as plain functions: they read, or start a process of their own; none blocks for long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from advisor.mcp.schema import Exported, FitAnswer, RunStatus, Started, State
from advisor.recommend.schema import Recommendation
from profiles.errors import AdvisorError, UsageError

if TYPE_CHECKING:
    from tuners.validate.schema import ValidationReport

SHOWN_MESSAGES = 12
"""How many of the latest events a status repeats."""


class Tools:
    """The tools over one directory of runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: dict[Path, subprocess.Popen[bytes]] = {}

    def fit(
        self,
        model: str,
        gpu: str | None = None,
        count: int = 1,
        context: int | None = None,
        concurrency: int = 1,
        kv_cache_dtype: str = "auto",
        tp: int = 1,
        offline: bool = False,
    ) -> FitAnswer:
        """Will the model start on the device, and what will the engine say at boot? Nothing is measured.

        model: a folder with config.json and safetensors, or a Hub id. gpu: a device of the catalogue, such as
        rtx-4090 or h100; none: this machine. Every figure carries its interval and how it is known.
        """
        from advisor.cli.options import Serving
        from advisor.cli.serving import serving_spec
        from advisor.cli.tune import make_inputs
        from advisor.pipeline.facts import gather
        from advisor.pipeline.footprint import footprints

        spec = serving_spec(
            Serving(context=context, concurrency=concurrency, kv_cache_dtype=kv_cache_dtype, tp=tp)
        )
        facts = gather(
            make_inputs(model=model, task="generic", gpu=gpu, count=count, serving=spec, offline=offline)
        )
        return FitAnswer(
            model=facts.model.model_id, device=facts.hardware.device.name, plans=footprints(facts, spec)
        )

    def recommend(
        self,
        model: str,
        task: str = "generic",
        use: str | None = None,
        gpu: str | None = None,
        count: int = 1,
        offline: bool = False,
    ) -> Recommendation:
        """Which precision, method, engine and KV cache dtype the known rules favour, with the rules and their
        sources. use: quality-critical, production, cost-optimized, personal or edge. Nothing is measured."""
        from advisor.machine import read_hardware
        from advisor.recommend import parse_use
        from advisor.recommend import recommend as decide
        from profiles.models import read_model
        from profiles.tasks import load_task

        return decide(
            load_task(task),
            use=parse_use(use),
            hardware=read_hardware(gpu, count),
            model=read_model(model, offline=offline),
        )

    def tune(
        self,
        model: str,
        budget: str | None = None,
        task: str = "generic",
        gpu: str | None = None,
        count: int = 1,
        context: int | None = None,
        concurrency: int = 1,
        trials: int | None = None,
        sensitivity: Literal["auto", "exact", "fast", "quick"] = "auto",
        through: Literal["search", "quantize", "validate", "export"] = "search",
        offline: bool = False,
        yes: bool = False,
    ) -> Started:
        """Start a search in a process of its own and return at once; ask `status` with the run it names.

        budget: 96MiB for the checkpoint, 5.5bits per weight, or 40% of the original; none: what the device
        has left at context and concurrency. sensitivity: quick answers first, in a fraction of the time, from
        estimates; exact measures every unit. trials: of Optuna; none: 32, 0 for quick. through: the last
        stage; export leaves a bundle. yes: may download the weights.
        """
        from advisor.cli.options import Serving
        from advisor.cli.serving import serving_spec
        from advisor.cli.tune import make_inputs
        from advisor.pipeline.facts import gather
        from advisor.pipeline.footprint import resolve_budget

        inputs = make_inputs(
            model=model, budget=budget, task=task, gpu=gpu, count=count, trials=trials,
            sensitivity=sensitivity, offline=offline, yes=yes,
            serving=serving_spec(Serving(context=context, concurrency=concurrency)),
        )  # fmt: skip
        found, origin = resolve_budget(gather(inputs), inputs)  # a question without an answer starts nothing
        root = self.directory / inputs.run_dir().name
        command = [sys.executable, "-m", "advisor", "tune", inputs.model, "--run", str(root)]
        command += ["--task", inputs.task, "--trials", str(inputs.trials), "--through", through]
        command += ["--count", str(count), "--concurrency", str(concurrency), "--sensitivity", sensitivity]
        for name, value in (("--budget", budget), ("--gpu", gpu), ("--context", context)):
            command += [name, str(value)] if value is not None else []
        command += ["--offline"] if offline else []
        command += ["--yes"] if yes else []
        process, log = self._start(root, command)
        return Started(
            run=str(root), pid=process.pid, command=tuple(command), log=str(log),
            budget_bytes=found.total_bytes, budget_origin=origin,
        )  # fmt: skip

    def _start(self, root: Path, command: list[str]) -> tuple[subprocess.Popen[bytes], Path]:
        """A detached process: it outlives this server, its output goes to a file.

        Raises:
            UsageError: a process works in the run already.
        """
        from advisor.workspace import Workspace

        if self._alive(root) or Workspace.is_busy(root):
            raise UsageError(
                "this run is being worked on already", where=str(root), next_step="ask status, and wait"
            )
        log = root / "logs" / "started.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._started[root] = process
        return process, log

    def _alive(self, root: Path) -> bool:
        process = self._started.get(root)
        return process is not None and process.poll() is None

    def status(self, run: str) -> RunStatus:
        """How far a run is: finished stages, latest messages, gates and verdict as far as there are any."""
        from advisor.agent.loop import VERDICT
        from advisor.agent.schema import AgentVerdict
        from advisor.cli.progress import line
        from advisor.cli.report import next_command
        from advisor.journal import read_journal
        from advisor.pipeline.search import summary
        from advisor.workspace import Workspace
        from tuners.events import StageFailed
        from tuners.search.schema import SearchResult

        root = self._run(run)
        records = tuple(Workspace.read_only(root).records().values())
        events = list(read_journal(root / "events.jsonl"))
        spoken = [words for event in events if (words := line(event))]
        search = root / "search.json"
        checked = _validation(root)
        verdict = root / VERDICT
        busy = self._alive(root) or Workspace.is_busy(root)
        failed = bool(events) and any(isinstance(e, StageFailed) for e in events[-2:])
        process = self._started.get(root)
        failed = failed or (process is not None and process.poll() not in (None, 0))
        state: State = "running" if busy else "failed" if failed else "finished" if records else "stopped"
        return RunStatus(
            run=str(root),
            state=state,
            stages=records,
            messages=tuple(spoken[-SHOWN_MESSAGES:]),
            plan_summary=summary(SearchResult.model_validate_json(search.read_text()))
            if search.exists()
            else None,
            passed=checked.passed if checked else None,
            gates=checked.gates if checked else (),
            verdict=AgentVerdict.model_validate_json(verdict.read_text()) if verdict.exists() else None,
            next_step="ask status again" if busy else next_command(root),
        )

    def export(self, run: str) -> Exported:
        """Write the bundle of a validated run: serving files, report, and the same for other platforms.

        A bundle whose validation failed is for inspection: its run.sh refuses to serve.
        """
        from advisor.bundle.targets.registry import LIST
        from advisor.pipeline.export import export
        from advisor.pipeline.facts import load_facts
        from advisor.pipeline.inputs import load_inputs
        from advisor.pipeline.quantize import load_plan
        from advisor.pipeline.run import opened
        from advisor.pipeline.validate import load_validation

        root = self._run(run)
        with opened(root, create=False) as context:
            report, plan = load_validation(context.workspace), load_plan(context.workspace)
            if report.plan_key != plan.key:
                raise UsageError(
                    "the validation is that of another plan",
                    where=str(root),
                    next_step=f"advisor validate --run {root}",
                )
            bundle = export(context, load_inputs(context.workspace), load_facts(context.workspace), plan)
        listed = json.loads((bundle / LIST).read_text(encoding="utf-8"))
        return Exported(
            bundle=str(bundle),
            passed=report.passed,
            files=tuple(sorted(str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file())),
            targets={name: entry.get("reason", "") for name, entry in listed.items()},
        )

    def _run(self, run: str) -> Path:
        """A run by its path, or by its name in the directory.

        Raises:
            UsageError: there is none.
        """
        for root in (Path(run), self.directory / run):
            if (root / "inputs.yaml").exists() or (root / "logs" / "started.log").exists():
                return root
        known = [p.parent.name for p in sorted(self.directory.glob("*/inputs.yaml"))]
        raise UsageError(
            "no such run", got=run, allowed=", ".join(known[:8]) or f"none yet in {self.directory}",
            next_step="tune starts one",
        )  # fmt: skip


def _validation(root: Path) -> ValidationReport | None:
    from advisor.pipeline.validate import load_validation
    from advisor.workspace import Workspace

    try:
        return load_validation(Workspace.read_only(root)) if (root / "validation.json").exists() else None
    except AdvisorError:
        return None  # half a file of a run that is being written
