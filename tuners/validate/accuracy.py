"""The task's own score, original against quantized, item by item: kept, lost, or too few items to tell."""

from __future__ import annotations

from profiles.errors import UsageError
from profiles.tasks.schema import Sensitivity
from tuners.validate.paired import items_needed, mcnemar, paired_interval, wilson
from tuners.validate.schema import Gate, Line, TaskAccuracy, TaskAnswers

ACCEPTED_LOSS: dict[Sensitivity, float] = {"low": 0.05, "medium": 0.03, "high": 0.02}
"""Share of the original's score that may be lost. A choice of this project: published INT8 and FP8 keep 99 %
and more, INT4 97.6 to 97.9 % of MMLU (Llama-3.1-8B, the model cards of its quantized checkpoints)."""

SIGNIFICANT = 0.05
"""Of the exact test; beside it the whole 95 % interval must lie beyond the accepted loss."""


def judge(before: TaskAnswers, after: TaskAnswers, accepted_loss: float) -> TaskAccuracy:
    """What the scores say about the loss; `accepted_loss` is a share of the original's score.

    Raises:
        UsageError: the two were asked other questions.
    """
    if before.key != after.key:
        raise UsageError(
            "the two checkpoints were asked other questions: they cannot be compared",
            got=f"{len(after.items)} items ({after.key}), the original {len(before.items)} ({before.key})",
            next_step="the checkpoint's tokenizer must be the original's; validate again without --resume",
        )
    pairs = [
        (x, y)
        for x, y in zip(before.scores, after.scores, strict=True)
        if x is not None and y is not None
    ]  # fmt: skip
    first, second = [x for x, _ in pairs], [y for _, y in pairs]
    n = len(pairs)
    old, new = (sum(first) / n, sum(second) / n) if n else (0.0, 0.0)
    lost, gained = sum(y < x for x, y in pairs), sum(y > x for x, y in pairs)
    low, high = paired_interval(first, second) if n else (-1.0, 1.0)
    binary = all(s in (0.0, 1.0) for pair in pairs for s in pair)
    chance = mcnemar(lost, gained) if binary else None
    allowed = accepted_loss * old
    old_low, old_high = wilson(old, n)
    new_low, new_high = wilson(new, n)
    beyond = high < -allowed and (chance is None or chance < SIGNIFICANT)
    told = n > 0 and old_low > before.chance and low >= -allowed
    found = TaskAccuracy(
        items=n, unscored=len(before.items) - n, shots=before.shots, scorers=before.scorers,
        chance=before.chance, original=old, original_interval=(old_low, old_high),
        quantized=new, quantized_interval=(new_low, new_high), difference=new - old,
        interval=(low, high), lost=lost, gained=gained, mcnemar=chance, accepted_loss=allowed,
        verdict="lost" if beyond else "kept" if told else "cannot tell",
        items_needed=items_needed(first, second, allowed) if n else None, reason="",
    )  # fmt: skip
    return found.model_copy(update={"reason": _reason(found)})


def accuracy_gate(found: TaskAccuracy) -> Gate:
    """Fails on a loss that the test shows; where the items cannot tell, it says so and stops nothing."""
    return Gate(
        name="task accuracy",
        passed=found.verdict != "lost",
        conclusive=found.verdict != "cannot tell",
        reason=found.reason,
    )


def accuracy_line(found: TaskAccuracy) -> Line:
    """One line of the report."""
    return Line(
        name="task accuracy", predicted=None, measured=found.quantized, unit="share",
        note=f"{_percent(*found.quantized_interval)}; original {found.original:.1%}, "
        f"{_percent(*found.original_interval)}; {found.items} items, 95 % intervals",
    )  # fmt: skip


def _reason(found: TaskAccuracy) -> str:
    scores = f"{found.items} items: {found.original:.1%} -> {found.quantized:.1%}"
    moved = f"{found.lost} worse, {found.gained} better"
    test = "" if found.mcnemar is None else f", McNemar p = {found.mcnemar:.2g}"
    low, high = found.interval
    change = f"change {low * 100:+.1f} to {high * 100:+.1f} points (95 %){test}"
    accepted = f"a loss of {found.accepted_loss * 100:.1f} points is accepted"
    if found.verdict == "lost":
        return f"{scores} ({moved}); {change}: more is lost than accepted ({accepted})"
    if found.verdict == "kept":
        return f"{scores} ({moved}); {change}; {accepted}"
    return f"cannot tell: {_why_not(found)}; {scores} ({moved}), {change}; {accepted}"


def _why_not(found: TaskAccuracy) -> str:
    if not found.items:
        return "no item could be scored"
    if found.original_interval[0] <= found.chance:
        guess = f"guessing gives {found.chance:.0%}" if found.chance else "it solves next to none"
        return f"the original itself is not shown to do the task ({guess})"
    needed = found.items_needed
    return "too few items" + (f", about {needed:,} would tell" if needed and needed > found.items else "")


def _percent(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"
