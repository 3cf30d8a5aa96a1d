"""recommend(): task, use, hardware and model in; ordered choices with their reasons out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from advisor.recommend.availability import Candidate, candidates
from advisor.recommend.capacity import does_not_fit, facts_of, weights_bytes
from advisor.recommend.engine import (
    Situation,
    conflicts,
    decisions,
    fire,
    kv_choice,
    order,
    reasons,
    slow_kernel_rule,
)
from advisor.recommend.hardware_class import hardware_classes
from advisor.recommend.measured import measured_rules, override_priors
from advisor.recommend.posterior import beliefs
from advisor.recommend.rulebook import RuleBook, rulebook
from advisor.recommend.schema import (
    Choice,
    Dropped,
    Family,
    ModelFacts,
    Reason,
    Recommendation,
    Rule,
    Use,
)
from profiles.errors import InfeasibleError, UsageError, nearest
from profiles.hardware.schema import DeviceKind, HardwareProfile
from profiles.models.schema import ModelProfile
from profiles.provenance import Figure
from profiles.tasks import TaskProfile, load_task

if TYPE_CHECKING:
    from tuners.sensitivity.task_schema import TaskSensitivity

USE_ALIASES = {
    "quality": Use.QUALITY_CRITICAL,
    "prod": Use.PRODUCTION,
    "api": Use.PRODUCTION,
    "cost": Use.COST_OPTIMIZED,
    "cheap": Use.COST_OPTIMIZED,
    "local": Use.EDGE,
}
"""Other words for the five uses."""

FP8_KV_SM = 89
"""First compute capability with FP8 arithmetic (Ada); an FP8 cache is read natively from there on."""


def recommend(
    task: TaskProfile | str,
    *,
    use: Use | str | None = None,
    hardware: HardwareProfile | None = None,
    model: ModelProfile | ModelFacts | None = None,
    measured: Mapping[Family, Figure] | None = None,
    refused: Mapping[str, str] | None = None,
    sensitivity: TaskSensitivity | None = None,
) -> Recommendation:
    """Ordered recommendations, each with the rules that speak for and against it.

    Args:
        task: a task profile, or its name.
        use: what the deployment is for; None leaves the choice to task and hardware.
        hardware: None while it is not known: nothing is dropped for want of a kernel then.
        model: its profile, or only its size; None while it is not known.
        measured: perplexity ratio to the original by family, measured on this model and task.
        sensitivity: the task's profile on this model (`advisor sensitivity`): its perplexity ratios are
            used where `measured` has none, its scores are combined with the published losses.
        refused: format name or option id to the reason why it does not fit, from a footprint.

    Raises:
        UsageError: unknown task or use.
        InfeasibleError: no option runs on the hardware with this model.
    """
    book = rulebook()
    profile = load_task(task) if isinstance(task, str) else task
    known_use = parse_use(use)
    seen: dict[Family, Figure] = (
        {u.family: u.perplexity_ratio for u in sensitivity.uniform} if sensitivity else {}
    )
    seen |= measured or {}
    full = model if isinstance(model, ModelProfile) else None
    facts = facts_of(model) if isinstance(model, ModelProfile) else model
    kept, dropped = candidates(book.options, hardware, full, facts, refused or {})
    if not kept:
        raise _nothing_fits(profile, hardware, dropped)
    situation = Situation(
        sensitivity=profile.prior,
        use=known_use,
        hardware=hardware_classes(hardware) if hardware else (),
        large_model=_is_large(book, facts, hardware),
        fp8_kv=_has_fp8_kv(hardware),
    )
    slow = slow_kernel_rule(kept)
    fired = fire(book, situation, [*measured_rules(profile, seen), *([slow] if slow else [])])
    fired, settled = override_priors(fired, profile, seen)
    ranked = order(kept, fired, book)
    return Recommendation(
        task=profile.name,
        sensitivity=profile.prior,
        sensitivity_source=profile.prior_source,
        use=known_use,
        hardware=situation.hardware,
        device=_device_words(hardware),
        model=facts,
        measured=seen,
        choices=tuple(
            _choice(rank, c, fired, book, situation, profile) for rank, c in enumerate(ranked, start=1)
        ),
        dropped=tuple(dropped),
        fired=tuple(fired),
        conflicts=(*settled, *conflicts(ranked, dropped, fired, book)),
        notes=_notes(profile, facts, fired, ranked[0], situation, seen, book, hardware),
        decisions=tuple(decisions(ranked, fired)),
        beliefs=beliefs(profile, sensitivity, {str(family): ratio for family, ratio in seen.items()}),
    )


def parse_use(use: Use | str | None) -> Use | None:
    """The use of that name or alias.

    Raises:
        UsageError: no use has that name.
    """
    if use is None or isinstance(use, Use):
        return use
    key = use.strip().lower().replace("_", "-").replace(" ", "-")
    if key in USE_ALIASES:
        return USE_ALIASES[key]
    if key in {u.value for u in Use}:
        return Use(key)
    raise UsageError(
        f"unknown use {use!r}", got=use, allowed=nearest(key, [*(u.value for u in Use), *USE_ALIASES], 5)
    )


def _is_large(book: RuleBook, facts: ModelFacts | None, hardware: HardwareProfile | None) -> bool:
    """Whether the 16-bit weights exceed the devices; also while the size or the devices are not known."""
    if facts is None or hardware is None:
        return True
    unquantized = next(o for o in book.options if o.family == "16-bit")
    return does_not_fit(weights_bytes(facts, unquantized, unquantized.format), hardware) is not None


def _has_fp8_kv(hardware: HardwareProfile | None) -> bool:
    if hardware is None or hardware.device.kind is not DeviceKind.CUDA:
        return False
    return hardware.device.sm is not None and hardware.device.sm >= FP8_KV_SM


def _device_words(hardware: HardwareProfile | None) -> str | None:
    if hardware is None:
        return None
    count = len(hardware.devices)
    return f"{count} x {hardware.device.name}" if count > 1 else hardware.device.name


def _choice(
    rank: int,
    candidate: Candidate,
    fired: list[Rule],
    book: RuleBook,
    situation: Situation,
    task: TaskProfile,
) -> Choice:
    option = candidate.option
    kv = kv_choice(book, situation, option)
    notes = [candidate.note] if candidate.note else []
    if option.engine != "vllm":
        notes.append(f"served by {option.engine}: outside the validation stage, which runs vLLM")
    return Choice(
        rank=rank,
        option=option,
        format=candidate.format,
        kernel=candidate.kernel.kernel if candidate.kernel else None,
        kv_cache_dtype=kv.dtype,
        kv_reason=f"{kv.says} ({kv.source})",
        weights_bytes=candidate.weights,
        reasons=(*reasons(candidate, fired), *_evidence(candidate, book, task)),
        notes=tuple(notes),
    )


def _evidence(candidate: Candidate, book: RuleBook, task: TaskProfile) -> list[Reason]:
    """Kernel, reference table and published losses: numbers beside the rules, without a vote."""
    option, found = candidate.option, list[Reason]()
    if candidate.kernel is not None:
        found.append(
            Reason(
                rule="kernel",
                stance="neutral",
                text=candidate.kernel.reason,
                source="vLLM 0.32, kernel selection",
                basis="kernel",
            )
        )
    for row in book.reference:
        if row.option == option.id:
            where = f" on {row.condition}" if row.condition else ""
            text = (
                f"{row.model}: perplexity {row.perplexity.value:.2f}, "
                f"{row.relative_latency.value:g} x the latency of FP16{where}"
            )
            found.append(
                Reason(
                    rule="reference", stance="neutral", text=text, source=row.perplexity.source, basis="prior"
                )
            )
    for prior in task.prior_losses:
        if prior.family == option.family:
            loss = prior.loss
            text = (
                f"{prior.benchmark}, {prior.model}, {prior.method}: lost {loss.value:g} {loss.unit} "
                f"({loss.low:g} to {loss.high:g})"
            )
            found.append(
                Reason(rule="published", stance="neutral", text=text, source=loss.source, basis="prior")
            )
    return found


def _notes(
    task: TaskProfile,
    facts: ModelFacts | None,
    fired: list[Rule],
    best: Candidate,
    situation: Situation,
    measured: Mapping[Family, Figure],
    book: RuleBook,
    hardware: HardwareProfile | None,
) -> tuple[str, ...]:
    notes = [*task.notes, *(facts.notes if facts else ()), *(rule.advice for rule in fired if rule.advice)]
    if best.option.calibration:
        samples = book.calibration_samples
        notes.append(f"calibrate with {samples.low} to {samples.high} samples ({samples.source})")
    if hardware is not None and not situation.hardware:
        notes.append(f"the framework has no row for {hardware.device.name}: kernels and memory decide")
    if not measured:
        notes.append("priors only: nothing was measured on this model; a tuned plan may mix formats by layer")
    return tuple(notes)


def _nothing_fits(
    task: TaskProfile, hardware: HardwareProfile | None, dropped: list[Dropped]
) -> InfeasibleError:
    smallest = dropped[-1] if dropped else None
    for item in dropped:
        if item.option.family in ("int4", "fp4"):
            smallest = item
    return InfeasibleError(
        f"no precision makes this model run for {task.name!r}",
        where=_device_words(hardware),
        got=f"{smallest.option.title}: {smallest.reason}" if smallest else None,
        next_step="choose a smaller model, more memory, or several devices",
    )


__all__ = ["parse_use", "recommend"]
