"""The loop: decide, carry out with the pipeline's own stages, note what came of it, until a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.agent import keep
from advisor.agent.decide import decide
from advisor.agent.diagnose import best_attempt, diagnose
from advisor.agent.groups import Wider, wider_menu
from advisor.agent.journal import DECISIONS, DecisionLog
from advisor.agent.layers import COMPARED, FILE, compare_layers
from advisor.agent.schema import Action, AgentVerdict, Attempt, Decision, Limits, Outcome, Settings
from advisor.agent.situation import Situation
from advisor.pipeline.facts import Facts, save_facts
from advisor.pipeline.inputs import RunInputs, save_inputs
from advisor.pipeline.stage import StageContext
from advisor.workspace import write_json, write_text
from profiles.errors import AdvisorError, EnvironmentProblem, Interrupted
from tuners.events import Message
from tuners.plan import PrecisionPlan

if TYPE_CHECKING:
    from tuners.solver import Scores
    from tuners.validate.schema import ValidationReport

VERDICT = "verdict.json"


def run_agent(
    context: StageContext, inputs: RunInputs, limits: Limits, *, resume: bool = True
) -> AgentVerdict:
    """Work on the question until it is answered; verdict.json, decisions.jsonl, bundle/ and the report.

    A finished attempt of the same question is not repeated. The bundle is that of the accepted attempt, or
    of the best one, which its run.sh then refuses to serve.

    Raises:
        EnvironmentProblem: this machine lacks something (no other plan would help).
        Interrupted: stopped; finished attempts are kept.
    """
    from advisor.pipeline import footprint, profile
    from advisor.pipeline.search import measured_scores

    workspace = context.workspace
    save_inputs(workspace, inputs)
    facts = profile.profile(context, inputs, resume=resume)
    footprint.footprint(context, inputs, facts, resume=resume)
    log = DecisionLog(workspace.path(DECISIONS))
    question = {**inputs.identity(), "trials": inputs.trials, "samples": inputs.calibration_samples}
    attempts = log.begin(limits, question) if resume else _begin_anew(log, limits, question)
    start = Settings(
        budget_bytes=limits.budget_bytes, trials=inputs.trials,
        calibration_samples=inputs.calibration_samples,
        kv_cache_dtype=inputs.serving.kv_cache_dtype, context=inputs.serving.max_model_len,
        methods=inputs.methods, recover_steps=inputs.recover_steps, sensitivity=inputs.sensitivity,
    )  # fmt: skip
    for attempt in attempts:
        _say(context, attempt.decision, "earlier: ")
    wider: Wider | None = None
    while True:
        scores = measured_scores(workspace) if attempts else {}
        wider = wider or _wider(inputs, facts, scores, attempts)
        situation = Situation(limits, start, facts.units, scores, attempts, facts.model.model_id, wider)
        decision = decide(situation)
        log.decided(decision)
        _say(context, decision)
        if decision.action is Action.STOP:
            break
        outcome = _carry_out(context, inputs, facts, decision, attempts, resume=resume)
        outcome = _compared(context, inputs, facts, decision, outcome, limits)
        log.measured(decision.number, outcome)
        attempts = (*attempts, Attempt(decision=decision, outcome=outcome))
    return _finish(context, inputs, facts, limits, decision, attempts)


def _begin_anew(log: DecisionLog, limits: Limits, question: dict[str, object]) -> tuple[Attempt, ...]:
    log.path.unlink(missing_ok=True)
    return log.begin(limits, question)


def changed_inputs(inputs: RunInputs, settings: Settings) -> RunInputs:
    """The run's inputs with what the attempt varies."""
    serving = inputs.serving.model_copy(
        update={"kv_cache_dtype": settings.kv_cache_dtype, "max_model_len": settings.context}
    )
    return inputs.model_copy(
        update={
            "trials": settings.trials,
            "calibration_samples": settings.calibration_samples,
            "serving": serving,
            "methods": settings.methods,
            "recover_steps": settings.recover_steps,
            "sensitivity": settings.sensitivity,
        }
    )


def _carry_out(
    context: StageContext,
    inputs: RunInputs,
    facts: Facts,
    decision: Decision,
    attempts: tuple[Attempt, ...],
    *,
    resume: bool,
) -> Outcome:
    """One attempt by the pipeline's stages; a stage that failed is an outcome, not the end."""
    from advisor.pipeline import latency, quantize, search, validate

    now = changed_inputs(inputs, decision.settings)
    plan = decision.plan
    try:
        if plan is None:
            latency.latency(context, now, facts, resume=resume)
            found = search.search(context, now, facts, decision.settings.budget_bytes, resume=resume)
            plan = found.best.plan
        if decision.plan is not None and (wider := _with_options(facts, plan)) != facts:
            facts = wider
            save_facts(context.workspace, facts)
        quantize.check_plan(plan, facts)
        if decision.action in (Action.TRIALS, Action.MEASURE):
            same = [a.outcome for a in attempts if a.outcome.plan and a.outcome.plan.key == plan.key]
            if same:
                return same[-1].model_copy(update={"repeated": True})
        write_text(context.workspace.path("plan.yaml"), plan.to_yaml())
        quantize.quantize(context, now, facts, plan, resume=resume)
        report = validate.validate(context, now, facts, plan, resume=resume)
    except (EnvironmentProblem, Interrupted):
        raise
    except AdvisorError as exc:
        return Outcome(plan=plan, error=exc.as_dict())
    keep.keep(context.workspace, decision.number)
    outcome = outcome_of(report, plan, facts)
    best = best_attempt((*attempts, Attempt(decision=decision, outcome=outcome)))
    keep.forget_checkpoints(context.workspace, but=best.decision.number if best else None)
    return outcome


def _wider(inputs: RunInputs, facts: Facts, scores: Scores, attempts: tuple[Attempt, ...]) -> Wider | None:
    """Smaller groups, looked for once something was missed; a checkpoint that cannot be read offers none."""
    if not scores or not attempts or diagnose(attempts[-1].outcome) not in COMPARED:
        return None
    try:
        return wider_menu(inputs, facts, scores)
    except AdvisorError:
        return None


def _with_options(facts: Facts, plan: PrecisionPlan) -> Facts:
    """The facts with the plan's formats among the options of their units: a smaller group is none of the
    run's menu, and was checked against the engine's kernels when it was offered."""
    units = tuple(
        u if plan.formats.get(u.name, "BF16") in u.options
        else u.model_copy(update={"options": (*u.options, plan.formats[u.name])})
        for u in facts.units
    )  # fmt: skip
    return facts.model_copy(update={"units": units})


def _compared(
    context: StageContext,
    inputs: RunInputs,
    facts: Facts,
    decision: Decision,
    outcome: Outcome,
    limits: Limits,
) -> Outcome:
    """The outcome with the units to blame, where that can help to decide what comes next."""
    context.workspace.path(FILE).unlink(missing_ok=True)  # that of an earlier attempt
    last = decision.number >= limits.attempts or limits.floor < 1 or outcome.repeated
    if last or outcome.plan is None or diagnose(outcome) not in COMPARED:
        return outcome
    found = compare_layers(context, changed_inputs(inputs, decision.settings), facts, outcome.plan)
    return outcome.model_copy(update={"blamed": found})


def outcome_of(report: ValidationReport, plan: PrecisionPlan, facts: Facts) -> Outcome:
    """What the validation measured, as the decisions need it."""
    return Outcome(
        plan=plan,
        unit_bytes=plan.bytes_of(facts.units),
        bits_per_weight=plan.bits_per_weight(facts.units),
        ratio=report.quantized.perplexity / report.original.perplexity,
        kl=report.quantized.kl_to_reference,
        passed=report.passed,
        gates=report.gates,
        mismatched=tuple(report.kernel_mismatches),
    )


def _finish(
    context: StageContext,
    inputs: RunInputs,
    facts: Facts,
    limits: Limits,
    decision: Decision,
    attempts: tuple[Attempt, ...],
) -> AgentVerdict:
    """Put the best attempt in place, write its bundle and the report, and say how it ended."""
    from advisor.pipeline import export

    assert decision.status is not None
    best = best_attempt(attempts)
    accepted = decision.status == "accepted" and best is not None and best.outcome.passed
    bundle: str | None = None
    if best is not None and best.outcome.plan is not None:
        if best.decision.number != attempts[-1].decision.number or attempts[-1].outcome.repeated:
            keep.restore(context.workspace, best.decision.number)
        now = changed_inputs(inputs, best.decision.settings)
        facts = _with_options(facts, best.outcome.plan)
        bundle = str(export.export(context, now, facts, best.outcome.plan))
    verdict = AgentVerdict(
        status=decision.status, passed=accepted, reason=decision.reason,
        next_step=f"{bundle}/run.sh serves it" if accepted else decision.next_step,
        floor=limits.floor, best=best.decision.number if best else None, attempts=attempts,
        run=str(context.workspace.root), bundle=bundle,
    )  # fmt: skip
    write_json(context.workspace.path(VERDICT), verdict)
    return verdict


def _say(context: StageContext, decision: Decision, before: str = "") -> None:
    """The decision in the journal of events, for whoever watches."""
    failed = decision.action is Action.STOP and decision.status != "accepted"
    text = f"{before}decision {decision.number}: {decision.action.value}: {decision.reason}"
    context.emit(Message(stage="auto", level="warning" if failed else "info", text=text))
    for line in decision.evidence:
        context.emit(Message(stage="auto", text=f"  {line}"))
