"""The small engine of the decision framework: fire the rules, order the options, say what clashed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from advisor.recommend.availability import Candidate
from advisor.recommend.rulebook import RuleBook, selects
from advisor.recommend.schema import (
    Condition,
    Conflict,
    Decision,
    Dropped,
    Family,
    HardwareClass,
    KvRule,
    Option,
    Reason,
    Rule,
    Use,
)
from profiles.provenance import Contract
from profiles.tasks import Sensitivity

FAMILY_BITS: dict[Family, int] = {"16-bit": 16, "int8": 8, "fp8": 8, "int4": 4, "fp4": 4}


class Situation(Contract):
    """Everything that conditions look at."""

    sensitivity: Sensitivity
    use: Use | None = None
    hardware: tuple[HardwareClass, ...] = ()
    large_model: bool = True
    fp8_kv: bool = False

    def holds(self, when: Condition, option: Option | None = None) -> bool:
        """Whether every part of the condition holds (`engine` needs an option)."""
        return (
            (when.sensitivity is None or self.sensitivity in when.sensitivity)
            and (when.use is None or self.use in when.use)
            and (when.hardware is None or bool(set(when.hardware) & set(self.hardware)))
            and (when.large_model is None or when.large_model == self.large_model)
            and (when.fp8_kv is None or when.fp8_kv == self.fp8_kv)
            and (when.engine is None or (option is not None and option.engine in when.engine))
        )


def fire(book: RuleBook, situation: Situation, extra: Iterable[Rule] = ()) -> list[Rule]:
    """The rules that hold, strongest first, together with rules made for this case."""
    return sorted([*(r for r in book.rules if situation.holds(r.when)), *extra], key=book.precedence)


def slow_kernel_rule(options: Sequence[Candidate]) -> Rule | None:
    """Avoid formats whose kernel is a slow fallback, if there are any here."""
    slow = [c for c in options if c.kernel is not None and c.kernel.slow]
    if not slow:
        return None
    return Rule(
        id="kernel-slow",
        tier="kernel",
        avoid=tuple(c.option.id for c in slow),
        says="; ".join(f"{c.format} here: {c.kernel.reason}" for c in slow if c.kernel),
        source="vLLM 0.32, kernel selection",
    )


def penalty(rule: Rule, option: Option) -> int:
    """0 for what the rule likes best; larger is worse; the same for all when it has no opinion."""
    for place, group in enumerate(rule.prefer):
        if any(selects(s, option) for s in group):
            return place
    if any(selects(s, option) for s in rule.avoid):
        return len(rule.prefer) + 1
    return len(rule.prefer)


def order(options: Iterable[Candidate], fired: Sequence[Rule], book: RuleBook) -> list[Candidate]:
    """Best first: by each rule in turn, then vLLM, native arithmetic, fewer bits, the reference table."""
    reference = {row.option: row for row in book.reference}
    last = float("inf")

    def key(candidate: Candidate) -> tuple[float, ...]:
        option = candidate.option
        row = reference.get(option.id)
        return (
            *(penalty(rule, option) for rule in fired),
            option.engine != "vllm",
            not candidate.is_native,
            FAMILY_BITS[option.family],
            row.relative_latency.value if row else last,
            row.perplexity.value if row else last,
        )

    return sorted(options, key=key)


BASIS_WORDS = {"measured": "a measurement", "kernel": "the engine's kernels", "prior": "a prior"}


def decisions(options: Sequence[Candidate], fired: Sequence[Rule]) -> list[Decision]:
    """What decided between the first option and the best one of each other family, in their final order."""
    first = options[0].option
    best: dict[str, Option] = {}
    for candidate in options:
        best.setdefault(candidate.option.family, candidate.option)
    return [_decision(first, other, fired) for family, other in best.items() if family != first.family]


def _decision(first: Option, other: Option, fired: Sequence[Rule]) -> Decision:
    rule = next((r for r in fired if penalty(r, first) < penalty(r, other)), None)
    if rule is None:
        basis, said = "order", "no rule but the order of engine, native arithmetic, then fewer bits"
    else:
        basis = _basis(rule)
        said = f"{BASIS_WORDS[basis]}, {rule.id}: {rule.says} ({rule.source})"
    return Decision.model_validate(
        {
            "first": first.id,
            "over": other.id,
            "rule": "order" if rule is None else rule.id,
            "basis": basis,
            "sentence": f"{first.title} before {other.title} by {said}",
        }
    )


def _basis(rule: Rule) -> str:
    return rule.tier if rule.tier in ("measured", "kernel") else "prior"


def reasons(candidate: Candidate, fired: Sequence[Rule]) -> list[Reason]:
    """What each fired rule says about the option."""
    found = []
    for rule in fired:
        place = penalty(rule, candidate.option)
        worst = len(rule.prefer) + (1 if rule.avoid and not rule.prefer else 0)
        if not rule.prefer and not rule.avoid:
            stance = "neutral"
        elif place == 0:
            stance = "for"
        else:
            stance = "against" if place >= worst else "neutral"
        found.append(
            Reason.model_validate(
                {
                    "rule": rule.id,
                    "stance": stance,
                    "text": rule.says,
                    "source": rule.source,
                    "basis": _basis(rule),
                }
            )
        )
    return found


def conflicts(
    options: Sequence[Candidate], dropped: Sequence[Dropped], fired: Sequence[Rule], book: RuleBook
) -> list[Conflict]:
    """For each rule whose favourites are not first: the strongest rule, or the fact, that stood against.

    `options` are in their final order.
    """
    found: list[Conflict] = []
    top = options[0].option
    for place, loser in enumerate(fired):
        if not loser.prefer or penalty(loser, top) == 0:
            continue
        liked = [c.option for c in options if penalty(loser, c.option) == 0]
        if not liked:
            lost = [d for d in dropped if penalty(loser, d.option) == 0]
            found.extend(_against_fact(loser, d) for d in lost[:1])
            liked = _best_left(options, loser)
        if not liked or top in liked:
            continue
        for winner in fired[:place]:
            if all(penalty(winner, option) > penalty(winner, top) for option in liked):
                found.append(_between(winner, loser, book))
                break
    return found


def _best_left(options: Sequence[Candidate], rule: Rule) -> list[Option]:
    """What the rule likes best among the options left, if it names any of them."""
    named = [c.option for c in options if penalty(rule, c.option) < len(rule.prefer)]
    best = min((penalty(rule, o) for o in named), default=0)
    return [o for o in named if penalty(rule, o) == best]


def _between(winner: Rule, loser: Rule, book: RuleBook) -> Conflict:
    same = winner.tier == loser.tier
    why = "it is the more specific of the two" if same else book.why(winner.tier)
    return Conflict(
        winner=winner.id,
        loser=loser.id,
        text=f"{loser.id} says: {loser.says}; {winner.id} says: {winner.says}. "
        f"{winner.id} wins because {why}",
    )


def _against_fact(rule: Rule, lost: Dropped) -> Conflict:
    return Conflict(
        winner=lost.source,
        loser=rule.id,
        text=f"{rule.id} says: {rule.says}; {lost.option.title} cannot be used here: {lost.reason}",
    )


def kv_choice(book: RuleBook, situation: Situation, option: Option) -> KvRule:
    """The first row of the KV rules that holds; the last row always does."""
    return next(row for row in book.kv_rules if situation.holds(row.when, option))
