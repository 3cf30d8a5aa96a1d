"""A task: how sensitive the literature says it is, and the texts that measure it."""

from __future__ import annotations

from typing import Literal

from profiles.provenance import Contract, Figure

Sensitivity = Literal["low", "medium", "high"]
"""How much a task suffers from lower precision, before anything is measured."""


class TextSplits(Contract):
    """Texts of a task. A scores and searches, B selects among finalists, C reports: never mixed.

    Each item is plain text; items keep documents apart so that a split never cuts through one.
    """

    search: tuple[str, ...]  # A: calibration, sensitivity, trials
    select: tuple[str, ...]  # B: choice among finalists
    evaluate: tuple[str, ...]  # C: held out, only validation and reports read it
    prompts: tuple[str, ...] = ()  # for greedy generations side by side


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
    own_texts: bool = True  # False: the texts are the generic set's, not the task's own
    notes: tuple[str, ...] = ()  # skips with counts, and what a reader of the result must know
