"""decisions.jsonl: the question, every decision with its reason, every outcome; read back to resume."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from advisor.agent.schema import Attempt, Decision, Limits, Outcome
from advisor.workspace import disk_errors
from profiles.provenance import Contract

DECISIONS = "decisions.jsonl"


class Asked(Contract):
    """The limits of a loop; other limits begin another chapter in the same file."""

    kind: Literal["asked"] = "asked"
    time: float
    limits: Limits
    question: dict[str, Any]


class Decided(Contract):
    """One decision."""

    kind: Literal["decided"] = "decided"
    time: float
    decision: Decision


class Measured(Contract):
    """What came of decision `number`."""

    kind: Literal["measured"] = "measured"
    time: float
    number: int
    outcome: Outcome


Entry = Annotated[Asked | Decided | Measured, Field(discriminator="kind")]
_ENTRY: TypeAdapter[Asked | Decided | Measured] = TypeAdapter(Entry)


class DecisionLog:
    """Append-only; every line is on the disk before the next step begins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, limits: Limits, question: dict[str, Any]) -> tuple[Attempt, ...]:
        """The finished attempts of the same question, or a new chapter when the question differs.

        More attempts, trials or calibration go on where the last chapter stopped.
        """
        chapter = _last_chapter(self.path)
        if chapter and isinstance(chapter[0], Asked) and _same(chapter[0], limits, question):
            return _attempts(chapter)
        self._write(Asked(time=time.time(), limits=limits, question=question))
        return ()

    def decided(self, decision: Decision) -> None:
        """Note a decision before it is carried out."""
        self._write(Decided(time=time.time(), decision=decision))

    def measured(self, number: int, outcome: Outcome) -> None:
        """Note what came of it."""
        self._write(Measured(time=time.time(), number=number, outcome=outcome))

    def _write(self, entry: Asked | Decided | Measured) -> None:
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as out:
            out.write(entry.model_dump_json() + "\n")
            out.flush()
            os.fsync(out.fileno())


def read_decisions(path: Path) -> list[Decision]:
    """The decisions of the last chapter, in order; a decision carried out twice counts once."""
    found: dict[int, Decision] = {}
    for entry in _last_chapter(path):
        if isinstance(entry, Decided):
            found[entry.decision.number] = entry.decision
    return list(found.values())


def _same(earlier: Asked, limits: Limits, question: dict[str, Any]) -> bool:
    effort = {"attempts", "max_trials", "max_calibration_samples"}
    return (
        earlier.question == question
        and earlier.limits.model_dump(exclude=effort) == limits.model_dump(exclude=effort)
    )  # fmt: skip


def _last_chapter(path: Path) -> list[Asked | Decided | Measured]:
    chapter: list[Asked | Decided | Measured] = []
    if not path.exists():
        return chapter
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = _ENTRY.validate_json(line)
        except ValidationError:
            continue  # the last line of a killed process
        if isinstance(entry, Asked):
            chapter = []
        chapter.append(entry)
    return chapter


def _attempts(chapter: list[Asked | Decided | Measured]) -> tuple[Attempt, ...]:
    decisions = {e.decision.number: e.decision for e in chapter if isinstance(e, Decided)}
    outcomes = {e.number: e.outcome for e in chapter if isinstance(e, Measured)}
    out: list[Attempt] = []
    for number, decision in sorted(decisions.items()):
        if number not in outcomes or number != len(out) + 1:
            break  # decided but never measured: it is decided and carried out again
        out.append(Attempt(decision=decision, outcome=outcomes[number]))
    return tuple(out)
