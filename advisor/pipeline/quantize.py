"""Stage `quantize`: the plan as a compressed-tensors checkpoint, written by a child process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.pipeline.facts import Facts, checkpoint_stamp
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.search import SCALES
from advisor.pipeline.stage import StageContext, run_stage, versions
from advisor.workspace import Workspace, write_json
from profiles.errors import AdvisorError, RunFailed, UsageError
from tuners.events import Message
from tuners.plan import PrecisionPlan
from tuners.quantize.methods import methods_by_unit

if TYPE_CHECKING:
    from tuners.quantize.schema import QuantizeResult, QuantizeSpec

OUTPUTS = ("checkpoint/config.json", "quantize.json")


def _recovered(result: QuantizeResult) -> str:
    found = result.recovery
    if found is None:
        return ""
    if not found.kept:
        return f"; {found.steps} steps of recovery did not help: left as it was"
    gain = 1 - found.kl_after / found.kl_before
    return f"; {found.steps} steps of recovery: KL on unseen calibration text {gain:.0%} lower"


def load_plan(workspace: Workspace) -> PrecisionPlan:
    """plan.yaml of a run.

    Raises:
        UsageError: the search has not finished, or the file is not a plan.
    """
    path = workspace.path("plan.yaml")
    if not path.exists():
        raise UsageError(
            "this run has no plan yet",
            where=str(path),
            next_step=f"advisor tune MODEL --run {workspace.root} searches one, or give --plan plan.yaml",
        )
    return PrecisionPlan.from_yaml(path)


def check_plan(plan: PrecisionPlan, facts: Facts) -> None:
    """Refuse a plan that does not speak of this model's units, wants what cannot run here, or names a method
    that cannot make a unit's format.

    Raises:
        UsageError: which units, and what they may have.
    """
    names = {u.name for u in facts.units}
    missing, unknown = names - plan.formats.keys(), plan.formats.keys() - names
    if missing or unknown:
        raise UsageError(
            "the plan does not fit the model",
            where=plan.label or plan.key,
            got="; ".join(
                f"{len(which)} units {what}, e.g. {min(which)}"
                for what, which in (("without a format", missing), ("that the model lacks", unknown))
                if which
            ),
            next_step=f"advisor inspect {facts.model.model_id} lists the units",
        )
    for unit in facts.units:
        chosen = plan.formats[unit.name]
        if chosen not in unit.options:
            raise UsageError(
                f"{unit.name} cannot be {chosen}",
                got=unit.excluded.get(chosen, "not in the menu of this run"),
                allowed=", ".join(unit.options),
                next_step="change the plan, or give --formats with the format",
            )
    methods_by_unit(facts.units, plan, {})


def quantize_spec(workspace: Workspace, inputs: RunInputs, facts: Facts, plan: PrecisionPlan) -> QuantizeSpec:
    """What the child is asked."""
    from tuners.budget import parse_memory
    from tuners.quantize.schema import QuantizeSpec

    memory, memory_bytes = parse_memory(inputs.memory)
    scales = workspace.path(SCALES)
    found = scales.exists()
    splits = facts.task.splits
    return QuantizeSpec(
        model_path=facts.model_path,
        units=facts.units,
        plan=plan,
        out_dir=str(workspace.path("checkpoint").resolve()),
        calibration_texts=splits.search,
        num_samples=inputs.calibration_samples,
        max_seq_length=inputs.calibration_tokens,
        methods=inputs.methods,
        rounding_steps=inputs.rounding_steps,
        recover_steps=inputs.recover_steps,
        held_out=tuple(sorted(splits.fingerprints("select") | splits.fingerprints("evaluate"))),
        seed=inputs.seed,
        trust_remote_code=inputs.trust_remote_code,
        overwrite=True,
        memory=memory,
        memory_bytes=memory_bytes,
        input_scales=str(scales.resolve()) if found else None,
        input_scales_digest=hashlib.sha256(scales.read_bytes()).hexdigest() if found else "",
    )


def damage(workspace: Workspace, facts: Facts, plan: PrecisionPlan) -> AdvisorError | None:
    """Why the checkpoint of the run is not what the plan says, by its headers and its tokenizer; None when it
    is. Bytes inside a tensor are not read."""
    from tuners.quantize.source import read_source
    from tuners.quantize.verify import verify_checkpoint

    folder = workspace.path("checkpoint")
    try:
        verify_checkpoint(folder, facts.units, plan, read_source(facts.model_path, facts.units))
    except AdvisorError as exc:
        return exc
    except json.JSONDecodeError as exc:
        return RunFailed("the checkpoint cannot be read", where=str(folder / "config.json"), got=str(exc))
    except OSError as exc:
        return RunFailed("the checkpoint cannot be read", where=str(folder), got=str(exc))
    for name in ("tokenizer.json", "tokenizer.model"):
        ours, theirs = folder / name, Path(facts.model_path, name)
        if theirs.is_file() and (not ours.is_file() or ours.read_bytes() != theirs.read_bytes()):
            return RunFailed("the checkpoint's tokenizer is not the original's", where=str(ours))
    return None


def check_checkpoint(workspace: Workspace, facts: Facts, plan: PrecisionPlan) -> None:
    """Refuse to load a checkpoint that was damaged after it was written.

    Raises:
        RunFailed: what is wrong; nothing of the run was touched.
    """
    found = damage(workspace, facts, plan)
    if found is not None:
        raise RunFailed(
            "the checkpoint of this run is damaged or not this plan's",
            where=found.where or str(workspace.path("checkpoint")),
            got="; ".join(w for w in (found.what, found.got) if w),
            next_step=f"advisor quantize --run {workspace.root} writes it again; nothing else is lost",
        )


def _was_damaged(context: StageContext, facts: Facts, plan: PrecisionPlan) -> bool:
    """Whether the checkpoint was written for this plan and is not what was written any more."""
    workspace = context.workspace
    if not all(workspace.path(name).exists() for name in OUTPUTS):
        return False
    try:
        same = json.loads(workspace.path("quantize.json").read_text(encoding="utf-8"))["plan_key"] == plan.key
    except (OSError, ValueError, KeyError, TypeError):
        return True
    found = damage(workspace, facts, plan) if same else None
    if found is not None:
        text = f"the checkpoint was damaged and is written again: {found.what}"
        context.emit(Message(stage="quantize", level="warning", text=text))
    return found is not None


def quantize(
    context: StageContext, inputs: RunInputs, facts: Facts, plan: PrecisionPlan, *, resume: bool = True
) -> QuantizeResult:
    """Write checkpoint/ and quantize.json."""
    from tuners.child import run_child
    from tuners.quantize.schema import QuantizeResult

    check_plan(plan, facts)
    spec = quantize_spec(context.workspace, inputs, facts, plan)
    stamp = {
        "spec": spec.model_dump(
            mode="json",
            exclude={"out_dir", "model_path", "input_scales", "held_out", "memory", "memory_bytes", "anew"},
        ),
        "checkpoint": checkpoint_stamp(facts.model),
        "versions": versions(),
    }

    def work(stage: StageContext) -> str:
        answer = run_child(
            "tuners.quantize.job",
            spec.model_copy(update={"anew": not resume}),
            emit=stage.emit,
            log_path=stage.workspace.log_path("quantize"),
            stage="quantize",
            cancelled=stage.cancelled,
        )
        result = QuantizeResult.model_validate(answer)
        write_json(stage.workspace.path("quantize.json"), result)
        return f"{result.weight_bytes / 2**20:,.1f} MiB of weights in {result.checkpoint}{_recovered(result)}"

    resume = resume and not _was_damaged(context, facts, plan)
    run_stage(context, "quantize", "Quantizing", stamp, OUTPUTS, work, resume=resume)
    return QuantizeResult.model_validate(json.loads(context.workspace.path("quantize.json").read_text()))
