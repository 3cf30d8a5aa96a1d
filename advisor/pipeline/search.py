"""Stage `search`: sensitivity, exact warm start and the Optuna study, in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from advisor.pipeline.facts import Facts, checkpoint_stamp, device_stamp, task_stamp
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.stage import StageContext, run_stage, versions
from advisor.workspace import Workspace
from profiles.errors import UsageError
from tuners.nats import nats

if TYPE_CHECKING:
    from profiles.tasks.schema import TaskProfile
    from tuners.search.schema import SearchMemory, SearchResult, SearchSettings, SearchSpec
    from tuners.solver import Scores

OUTPUTS = ("search.json", "plan.yaml", "sensitivity.json", "front.json")
SCALES = "input_scales.npz"
"""Written too, but by a quick search: the quantizer then seeks input scales itself."""


def cache_dir() -> Path:
    """Where quantized variants, references and sensitivities are shared between runs of a model."""
    from platformdirs import user_cache_path

    return user_cache_path("advisor") / "search"


LEAST_SEQUENCES = {
    "calibration_sequences": 8,
    "sensitivity_sequences": 2,
    "search_sequences": 8,
    "select_sequences": 8,
    "evaluate_sequences": 8,
}
"""Fewest sequences of each kind for a task whose items need longer ones."""


def settings_for(inputs: RunInputs, task: TaskProfile, context: int) -> SearchSettings:
    """The search's settings: a task of longer sequences gets fewer of them, for about the same tokens."""
    from tuners.budget import parse_memory
    from tuners.search.schema import SearchSettings

    memory, memory_bytes = parse_memory(inputs.memory)
    base = SearchSettings(
        trials=inputs.trials,
        seed=inputs.seed,
        workers=inputs.workers,
        storage=inputs.storage,
        sensitivity=inputs.sensitivity,
        memory=memory,
        memory_bytes=memory_bytes,
    )
    seq_len = min(task.seq_len, max(context, base.seq_len))
    scale = base.seq_len / seq_len
    if scale >= 1:
        return base
    fewer = {name: max(least, round(getattr(base, name) * scale)) for name, least in LEAST_SEQUENCES.items()}
    return base.model_copy(update={**fewer, "seq_len": seq_len})


def search_spec(workspace: Workspace, inputs: RunInputs, facts: Facts, unit_budget_bytes: int) -> SearchSpec:
    """What the child is asked."""
    from advisor.pipeline.latency import experts_per_token, load_latency
    from tuners.search.schema import Goal, SearchSpec
    from tuners.units import served_rounding

    return SearchSpec(
        run_dir=workspace.root.resolve(),
        model_path=Path(facts.model_path),
        model_id=facts.model.model_id,
        units=facts.units,
        fixed_bytes=facts.fixed_bytes,
        budget_bytes=unit_budget_bytes,
        task=facts.task,
        settings=settings_for(inputs, facts.task, facts.model.max_position_embeddings),
        goal=Goal(
            objective=inputs.objective,
            max_kl=inputs.max_kl,
            max_ms=inputs.max_ms_per_token,
            batch=inputs.serving.concurrency,
        ),
        latency=load_latency(workspace),
        experts_per_token=experts_per_token(facts),
        cache_dir=cache_dir(),
        trust_remote_code=inputs.trust_remote_code,
        kv_cache_dtype=inputs.serving.kv_cache_dtype,
        rounds=served_rounding(facts.units, facts.hardware.device),
    )


def search_memory_of(inputs: RunInputs, facts: Facts) -> SearchMemory:
    """What the search will need in memory on this machine, and how it will hold the model."""
    from profiles.hardware import probe
    from profiles.hardware.host import host_memory
    from profiles.hardware.schema import DeviceKind
    from tuners.search.memory import search_memory

    device = probe().device
    on_gpu = device.kind is not DeviceKind.CPU
    free = device.free_bytes if on_gpu and device.free_bytes is not None else None
    return search_memory(
        facts.model.tensors,
        facts.units,
        settings_for(inputs, facts.task, facts.model.max_position_embeddings),
        int(free.value) if free is not None else host_memory().available_bytes,
        on_gpu=on_gpu,
    )


def search(
    context: StageContext, inputs: RunInputs, facts: Facts, unit_budget_bytes: int, *, resume: bool = True
) -> SearchResult:
    """Find the plan; search.json, plan.yaml, sensitivity.json, front.json, and the studies.

    Raises:
        InfeasibleError: no plan within the budget is predicted to be as fast as was asked for.
    """
    from tuners.child import run_child
    from tuners.search.pace import Pace

    spec = search_spec(context.workspace, inputs, facts, unit_budget_bytes)
    if spec.goal.is_timed:
        Pace(spec.units, spec.goal, spec.latency, spec.experts_per_token).check(spec.budget_bytes)
    stamp = {
        "spec": spec.model_dump(
            mode="json",
            exclude={
                "run_dir": True,
                "model_path": True,
                "cache_dir": True,
                "task": True,
                "settings": {"workers", "storage", "memory", "memory_bytes"},
                # times that decide nothing are only told: other ones need no new search
                **({} if spec.goal.is_timed else {"goal": True, "latency": True, "experts_per_token": True}),
            },
        ),
        "task": task_stamp(facts.task),
        "checkpoint": checkpoint_stamp(facts.model),
        "devices": device_stamp(facts.hardware),
        "versions": versions(),
    }

    def work(stage: StageContext) -> str:
        run_child(
            "tuners.search.job",
            spec,
            emit=stage.emit,
            log_path=stage.workspace.log_path("search"),
            stage="search",
            cancelled=stage.cancelled,
        )
        return summary(load_search(stage.workspace))

    outputs = OUTPUTS if spec.settings.is_quick else (*OUTPUTS, SCALES)
    run_stage(context, "search", "Searching a precision plan", stamp, outputs, work, resume=resume)
    return load_search(context.workspace)


def summary(result: SearchResult) -> str:
    """The search in one line: the plan's size and held-out quality, and how it compares."""
    plan = result.held_out[0]
    counts = ", ".join(f"{count} x {name}" for name, count in plan.plan.counts().most_common())
    return (
        f"{plan.bits_per_weight:.3f} bits per weight ({counts}), held-out KL {nats(plan.quality.kl)}, "
        f"{result.trials} trials"
    )


def load_search(workspace: Workspace) -> SearchResult:
    """search.json of a run.

    Raises:
        UsageError: the search has not finished, or its file is damaged.
    """
    from tuners.search.schema import SearchResult

    path = workspace.path("search.json")
    try:
        return SearchResult.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as exc:
        raise UsageError(
            "this run has no finished search",
            where=str(path),
            got=str(exc).splitlines()[0],
            next_step=f"advisor tune MODEL --run {workspace.root} finishes it",
        ) from exc


def measured_scores(workspace: Workspace) -> Scores:
    """Measured KL of every unit in every format, as the search left it, or its estimate where the search was
    a quick one; empty where there was none."""
    from tuners.sensitivity.table import G2DY2, GDY2, KL, SensitivityTable

    path = workspace.path("sensitivity.json")
    if not path.exists():
        return {}
    table = SensitivityTable.model_validate_json(path.read_text(encoding="utf-8"))
    return table.scores(KL) or table.scores(G2DY2) or table.scores(GDY2)
