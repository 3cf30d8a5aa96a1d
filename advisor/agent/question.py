"""From what the user typed to the limits of the loop: floor, budgets, what may be varied."""

from __future__ import annotations

import math

from advisor.agent.schema import Limits
from advisor.pipeline.facts import Facts
from advisor.pipeline.inputs import TRIALS, RunInputs
from advisor.recommend import Use, recommend
from profiles.errors import UsageError
from profiles.formats.kv_cache import kv_problem
from profiles.hardware.schema import Device, DeviceKind
from tuners.budget import parse_budget
from tuners.plan import uniform
from tuners.quantize.methods import Method

OTHER_METHODS: tuple[Method, ...] = ("awq-gptq", "autoround")
"""Ways to round INT4 besides the default (GPTQ), the quicker one first: `advisor quantize --method`."""

RECOVER_STEPS = 200
"""Steps of training that a missed floor may cost, as `advisor recover` takes them."""

FP8_KV_SM = 89
"""Compute capability from which FP8 is native; below, vLLM stores FP8 and computes in 16 bits."""


def with_budget(inputs: RunInputs, facts: Facts, use: Use | None) -> tuple[RunInputs, str]:
    """The inputs with a budget, and in words where it comes from.

    Without a budget and without a context the framework's first choice for task, use and device names
    the size to start from: that of its family, uniform (advisor/recommend).
    """
    if inputs.budget is not None:
        return inputs, f"asked: {inputs.budget}"
    if inputs.serving.max_model_len is not None:
        return inputs, "what the device has left at this context and concurrency"
    found = recommend(facts.task, use=use, hardware=facts.hardware, model=facts.model)
    choice = next((c for c in found.choices if c.option.engine == "vllm"), found.best)
    plan = uniform(facts.units, choice.option.family)
    original = sum(u.bytes_as("BF16") for u in facts.units)
    nbytes = min(plan.bytes_of(facts.units), original - 1)
    bits = math.ceil(nbytes * 8 / sum(u.numel for u in facts.units) * 1000) / 1000
    text = f"{bits:.3f}bits" if bits < 16 else f"{nbytes + facts.fixed_bytes}B"
    return (
        inputs.model_copy(update={"budget": text}),
        f"the framework's first choice here is {choice.option.title}: {text} per quantizable weight",
    )


def limits_of(
    inputs: RunInputs,
    facts: Facts,
    *,
    budget_bytes: int,
    max_budget: str | None,
    grow_freely: bool,
    attempts: int,
    max_trials: int | None,
    min_context: int | None,
) -> Limits:
    """What the loop may do.

    `grow_freely`: no budget was asked, so the agent may use up to the size of the original.

    Raises:
        UsageError: a largest budget below the budget, or a shortest context above the context.
    """
    largest = budget_bytes
    if max_budget is not None:
        largest = parse_budget(max_budget, facts.units, facts.fixed_bytes).unit_bytes
        if largest < budget_bytes:
            raise UsageError(
                "the largest budget is below the budget",
                got=f"--max-budget {max_budget}, --budget {inputs.budget or 'derived'}",
                next_step="give a larger --max-budget, or leave it out: the budget is then not exceeded",
            )
    elif grow_freely:
        largest = sum(u.bytes_as("BF16") for u in facts.units) - 1
    context = inputs.serving.max_model_len
    if min_context is not None and (context is None or min_context > context):
        raise UsageError(
            "--min-context says how far --context may shrink",
            got=f"--min-context {min_context}, --context {context or 'not given'}",
            next_step="give --context of at least --min-context",
        )
    return Limits(
        floor=facts.task.quality_floor_ppl_ratio,
        budget_bytes=budget_bytes,
        max_budget_bytes=largest,
        fixed_bytes=facts.fixed_bytes,
        attempts=attempts,
        max_trials=_most_trials(inputs) if max_trials is None else max_trials,
        max_calibration_samples=max(64, inputs.calibration_samples),
        kv_dtypes=other_kv_dtypes(facts.hardware.device, inputs.serving.kv_cache_dtype),
        min_context=min_context,
        methods=OTHER_METHODS,
        recover_steps=max(RECOVER_STEPS, inputs.recover_steps),
    )


def _most_trials(inputs: RunInputs) -> int:
    """Twice as many as were asked for; a quick search asks for none, a measured one after it may."""
    return max(inputs.trials * 2, TRIALS if inputs.sensitivity == "quick" else 0)


def other_kv_dtypes(device: Device, asked: str = "auto") -> tuple[str, ...]:
    """Cache dtypes besides the one asked for, in the order in which they are tried: the model's own ("auto")
    where another was asked, FP8 where it is native, INT8 where the engine's attention takes it."""
    native = device.kind is DeviceKind.CUDA and device.sm is not None and device.sm >= FP8_KV_SM
    coarse = ("fp8",) if native and asked == "auto" else ()
    finer = ("int8",) if kv_problem("int8", device) is None else ()
    own = ("auto",) if asked != "auto" else ()
    return tuple(dtype for dtype in (*own, *coarse, *finer) if dtype != asked)
