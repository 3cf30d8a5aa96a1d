"""A task: how sensitive the literature says it is, and the texts that measure it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from profiles.provenance import Contract, Figure

Sensitivity = Literal["low", "medium", "high"]
"""How much a task suffers from lower precision, before anything is measured."""


SplitName = Literal["search", "select", "evaluate"]
"""A scores and searches, B selects among finalists, C reports: never mixed."""

ScorerName = Literal["choice", "exact", "final-answer", "run", "json", "overlap", "next-token"]
"""How an evaluation item is scored, see profiles/tasks/scorers.py."""


class TextSplits(Contract):
    """Texts of a task. A scores and searches, B selects among finalists, C reports: never mixed.

    Each item is plain text; items keep documents apart so that a split never cuts through one.
    """

    search: tuple[str, ...]  # A: calibration, sensitivity, trials
    select: tuple[str, ...]  # B: choice among finalists
    evaluate: tuple[str, ...]  # C: held out, only validation and reports read it
    prompts: tuple[str, ...] = ()  # for greedy generations side by side
    answers: dict[SplitName, tuple[int, ...]] = {}
    """Character at which the answer of each text begins: the loss counts the tokens from there on. A split
    without an entry counts every token."""

    @model_validator(mode="after")
    def _one_answer_a_text(self) -> Self:
        for name, starts in self.answers.items():
            texts: tuple[str, ...] = getattr(self, name)
            if len(texts) != len(starts):
                raise ValueError(f"{name}: {len(texts)} texts but {len(starts)} answers")
            if any(not 0 <= start < len(text) for text, start in zip(texts, starts, strict=True)):
                raise ValueError(f"{name}: an answer begins outside its text")
        return self

    def fingerprints(self, name: SplitName) -> frozenset[str]:
        """Fingerprint of every item of a split, the same for texts that differ in case or white space."""
        from profiles.tasks.split import fingerprint

        return frozenset(fingerprint(text) for text in getattr(self, name))


class EvaluationItem(Contract):
    """One held-out question with what its scorer needs: the reference answer, the choices, or a check."""

    prompt: str
    answer: str
    scorer: ScorerName
    choices: tuple[str, ...] = ()
    check: str = ""  # code: assertions to run after the function


class TaskPart(Contract):
    """One task of a mixture; the weights of all parts sum to 1."""

    name: str
    weight: float = Field(gt=0, le=1)
    splits: TextSplits


class HubSource(Contract):
    """Public data for the task on the Hub. The revision pins it; nothing here is downloaded by itself.

    Every revision of the catalogue stands beside its dataset's name in public code of others; the Hub itself
    was not asked (docs/tasks.md).
    """

    dataset: str
    config: str | None = None
    split: str
    revision: str = Field(pattern="^[0-9a-f]{40}$")
    licence: str
    use: Literal["calibration", "evaluation"]


class PriorLoss(Contract):
    """What others measured: the share of the 16-bit score that a format family lost on one benchmark.

    `loss` is in percent of the 16-bit score (negative: the quantized model scored higher); `figure.source`
    names who measured it.
    """

    family: Literal["int8", "fp8", "int4", "fp4"]
    method: str  # "W4A16 g128", "GPTQ", "AWQ" ...
    benchmark: str
    model: str
    loss: Figure


class TaskProfile(Contract):
    """One task with its prior; `origin` says where its texts come from."""

    name: str
    title: str
    prior: Sensitivity
    prior_source: str
    origin: str
    licence: str
    quality_floor_ppl_ratio: float  # the quantized perplexity may be at most this times the original
    splits: TextSplits
    quality_floor_source: str = ""
    prior_losses: tuple[PriorLoss, ...] = ()
    general: bool = False  # the texts stand for any: what a model writes itself may stand beside them
    own_texts: bool = True  # False: the texts are the generic set's, not the task's own
    items: tuple[EvaluationItem, ...] = ()  # of the evaluate split: scored, never searched or calibrated on
    seq_len: int = Field(default=128, ge=16)  # tokens of one measured sequence: whole items are packed in it
    parts: tuple[TaskPart, ...] = ()  # of a mixture
    hub: tuple[HubSource, ...] = ()
    notes: tuple[str, ...] = ()  # skips with counts, and what a reader of the result must know
