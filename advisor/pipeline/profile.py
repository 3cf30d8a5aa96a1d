"""Stage `profile`: what the hardware, the model and the task are; downloads weights if they are missing."""

from __future__ import annotations

from pathlib import Path

from advisor.pipeline.facts import FACT_FILES, Facts, checkpoint_stamp, device_stamp, gather, save_facts
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.stage import StageContext, run_stage
from advisor.pipeline.tokenizer import check_tokenizer
from advisor.workspace import fingerprint, require_space
from profiles.errors import EnvironmentProblem, UsageError
from tuners.events import Message

WEIGHT_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", "*.txt")
"""What is fetched of a repository: weights, configuration, tokenizer; no pickles, no code."""


def profile(context: StageContext, inputs: RunInputs, *, resume: bool = True) -> Facts:
    """Read everything that decides the rest of the run."""
    facts = gather(inputs)
    if facts.model.path is None:
        fetch_weights(context, inputs, facts)
        facts = gather(inputs)
    check_tokenizer(facts.model)
    stamp = {
        "identity": inputs.identity(),
        "checkpoint": checkpoint_stamp(facts.model),
        "devices": device_stamp(facts.hardware),
        "units": fingerprint({"units": [u.model_dump(mode="json") for u in facts.units]}),
        "task": fingerprint(facts.task.model_dump(mode="json")),
    }

    def work(stage: StageContext) -> str:
        save_facts(stage.workspace, facts)
        for text in facts.model.assumptions:
            stage.emit(Message(stage="profile", level="warning", text=f"assumed: {text}"))
        for text in facts.hardware.notes:
            stage.emit(Message(stage="profile", text=text))
        return (
            f"{facts.model.model_id}: {facts.model.num_parameters / 1e6:,.1f} M parameters, "
            f"{len(facts.units)} units, on {facts.hardware.device.name}"
        )

    run_stage(context, "profile", "Reading hardware, model and task", stamp, FACT_FILES, work, resume=resume)
    return facts


def fetch_weights(context: StageContext, inputs: RunInputs, facts: Facts) -> None:
    """Download a Hub model into the Hub's own cache, when that was agreed to.

    Raises:
        EnvironmentProblem: offline, not enough disk, or the Hub refused.
        UsageError: nobody agreed to the download.
    """
    model = facts.model
    nbytes = sum(t.nbytes for t in model.tensors)
    if inputs.offline:
        raise EnvironmentProblem(
            "the weights are not here and --offline was given",
            got=model.model_id,
            next_step="run without --offline, or give a folder that holds the weights",
        )
    if not inputs.yes:
        raise UsageError(
            "the weights are not on this machine",
            got=f"{model.model_id}: {nbytes / 2**30:.2f} GiB to download",
            next_step="add --yes to download them, or give a folder that holds them",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError

    require_space(Path(HF_HUB_CACHE), nbytes, f"the weights of {model.model_id}")
    context.emit(Message(stage="profile", text=f"downloading {model.model_id}: {nbytes / 2**30:.2f} GiB"))
    try:
        snapshot_download(model.model_id, revision=inputs.revision, allow_patterns=list(WEIGHT_FILES))
    except (HfHubHTTPError, OSError) as exc:
        raise EnvironmentProblem(
            "the download failed",
            got=f"{model.model_id}: {str(exc).splitlines()[0]}",
            next_step="run the same command again: finished files are kept",
        ) from exc
