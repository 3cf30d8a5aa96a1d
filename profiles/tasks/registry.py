"""Tasks by name: YAML files of the catalogue, the bundled texts, or a file of the user's own."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from profiles.errors import UsageError, nearest
from profiles.provenance import Contract
from profiles.tasks.mixture import is_mixture, mix, parse_mixture
from profiles.tasks.own_text import SUFFIXES, read_own_text
from profiles.tasks.published import PublishedScore
from profiles.tasks.schema import (
    EvaluationItem,
    HubSource,
    ScorerName,
    Sensitivity,
    SplitName,
    TaskProfile,
    TextSplits,
)
from profiles.tasks.split import MIN_DOCUMENTS, Document, fingerprint, split_documents, unique

DEFAULT_PPL_RATIO: dict[Sensitivity, float] = {"low": 1.10, "medium": 1.06, "high": 1.03}
"""Quality floor by sensitivity: quantized perplexity over the original's. A choice of this project, not
a result: uniform INT8 or FP8 stays under 1.01 and a good INT4 between 1.02 and 1.06 of LLaMA-2-70B's
perplexity (3.12 against 3.13-3.20), so `high` admits 8-bit and near-lossless mixes only."""

OWN_SEQ_LEN = (128, 1024)
"""Fewest and most tokens of a sequence for a user's questions and answers."""

CHARACTERS_PER_TOKEN = 2.5
"""On the low side, so that whole items fit: English text has about 4, code about 3 (SmolLM2's tokenizer)."""

PROMPT_COUNT = 6
"""Prompts kept from a user's own file for generations side by side."""


class CatalogueEntry(Contract):
    """One YAML file of the catalogue. `texts` names a bundled set; without one the generic set serves."""

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    prior: Sensitivity
    prior_source: str
    texts: str | None = None
    origin: str | None = None  # where the texts named there come from
    scorer: ScorerName = "next-token"
    seq_len: int = Field(default=128, ge=16)
    hub: tuple[HubSource, ...] = ()
    quality_floor_ppl_ratio: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    scores: tuple[PublishedScore, ...] = ()
    notes: tuple[str, ...] = ()


GENERIC = "generic"
OWN_LICENCE = "Apache-2.0"


def list_tasks() -> list[TaskProfile]:
    """Every task of the catalogue, by name."""
    return [_from_entry(entry) for entry in _catalogue().values()]


def load_task(name_or_path: str | Path) -> TaskProfile:
    """A task of the catalogue by name or alias, the user's own text by path, or a mixture of such with
    weights (`code:0.7,chat:0.3`).

    Raises:
        UsageError: no such task, or a file that cannot serve as task text.
    """
    text = str(name_or_path).strip()
    entry = _find_entry(text) if isinstance(name_or_path, str) else None
    if entry is not None:
        return _from_entry(entry)
    if is_mixture(text):
        return mix(parse_mixture(text, load_task))
    try:
        path = Path(text).expanduser()
        exists = bool(text) and path.exists()
    except (OSError, RuntimeError) as exc:
        raise UsageError("not a path that can be read", where=f"{text:.120}", got=str(exc)[:200]) from exc
    if exists:
        return _from_file(path)
    if path.suffix.lower() in SUFFIXES or "/" in text:
        raise UsageError(
            "no such task text", where=text, next_step="give the path of a .txt, .md or .jsonl file"
        )
    raise UsageError(
        f"unknown task {text!r}",
        got=text,
        allowed=nearest(text, [n for e in _catalogue().values() for n in (e.name, *e.aliases)]),
        next_step="name a task of the catalogue, or give the path of your own .txt or .jsonl file",
    )


def _find_entry(name: str) -> CatalogueEntry | None:
    key = name.lower().replace("_", "-").replace(" ", "-")
    for entry in _catalogue().values():
        if key in (entry.name, *entry.aliases):
            return entry
    return None


@cache
def _catalogue() -> dict[str, CatalogueEntry]:
    found: dict[str, CatalogueEntry] = {}
    for file in sorted(files("profiles.tasks").joinpath("catalogue").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            entry = _read_entry(file)
            found[entry.name] = entry
    return found


def _read_entry(file: Traversable) -> CatalogueEntry:
    try:
        return CatalogueEntry.model_validate(YAML(typ="safe").load(file.read_text(encoding="utf-8")))
    except (YAMLError, ValidationError) as exc:
        raise UsageError("a file of the task catalogue is wrong", where=str(file), got=str(exc)) from exc


SPLITS: tuple[SplitName, ...] = ("search", "select", "evaluate")


@cache
def _rows(name: str, part: str) -> tuple[dict[str, object], ...]:
    """Rows of a bundled set (`profiles/tasks/data/<name>`)."""
    text = files("profiles.tasks").joinpath("data", name, f"{part}.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


@cache
def bundled_texts(name: str) -> TextSplits:
    """The splits of a bundled set, with the place where the answer of each item begins."""
    texts = {part: tuple(str(row["text"]) for row in _rows(name, part)) for part in (*SPLITS, "prompts")}
    answers: dict[SplitName, tuple[int, ...]] = {
        part: tuple(_answer_at(row) for row in _rows(name, part))
        for part in SPLITS
        if any("answer" in row for row in _rows(name, part))
    }
    return TextSplits.model_validate({**texts, "answers": answers})


def _answer_at(row: dict[str, object]) -> int:
    return len(str(row["text"])) - len(str(row["answer"])) if "answer" in row else 0


@cache
def bundled_items(name: str, scorer: ScorerName) -> tuple[EvaluationItem, ...]:
    """The held-out items of a bundled set, each with what its scorer needs."""
    found = []
    for row in _rows(name, "evaluate"):
        text, at = str(row["text"]), _answer_at(row)
        choices, check = row.get("choices", ()), row.get("check", "")
        found.append(
            EvaluationItem.model_validate(
                {
                    "prompt": text[:at],
                    "answer": text[at:],
                    "scorer": scorer,
                    "choices": choices,
                    "check": check,
                }
            )
        )
    return tuple(found)


@cache
def _from_entry(entry: CatalogueEntry) -> TaskProfile:
    own = entry.texts is not None
    if own:
        origin = entry.origin or "written for this project"
    else:
        origin = f"no texts of its own yet: the generic set, written for this project, serves {entry.title!r}"
    return TaskProfile(
        name=entry.name,
        title=entry.title,
        prior=entry.prior,
        prior_source=entry.prior_source,
        origin=origin,
        licence=OWN_LICENCE,
        quality_floor_ppl_ratio=entry.quality_floor_ppl_ratio or DEFAULT_PPL_RATIO[entry.prior],
        quality_floor_source=f"this project's default for {entry.prior} sensitivity, a choice",
        splits=bundled_texts(entry.texts or GENERIC),
        items=bundled_items(entry.texts or GENERIC, entry.scorer),
        seq_len=entry.seq_len,
        hub=entry.hub,
        prior_losses=tuple(score.as_loss() for score in entry.scores),
        general=(entry.texts or GENERIC) == GENERIC,
        own_texts=own,
        notes=entry.notes,
    )


def _from_file(path: Path) -> TaskProfile:
    found = read_own_text(path)
    documents, repeats = unique(found.documents)
    distinct = len({fingerprint(d.split_on) for d in documents})
    if distinct < MIN_DOCUMENTS:
        repeated = f" ({repeats} repeated)" if repeats else ""
        raise UsageError(
            "too few documents to keep search and evaluation apart",
            where=str(path),
            got=f"{distinct} distinct document(s){repeated}",
            allowed=f"at least {MIN_DOCUMENTS}, one for each of search, select and evaluate; 100 or more "
            "give usable intervals",
            next_step="separate documents by blank lines (.txt), or put one on each line (.jsonl)",
        )
    parts = split_documents(documents)
    prompts = tuple(d.prompt for d in parts["evaluate"] if d.prompt)[:PROMPT_COUNT]
    notes = [*found.notes]
    if repeats:
        notes.append(f"{repeats} repeated document(s) dropped")
    if not prompts:
        prompts = bundled_texts(GENERIC).prompts
        notes.append("generations side by side use the generic prompts: the file has none of its own")
    return TaskProfile(
        name="custom",
        title=f"Your own text ({path.name})",
        prior="high",
        prior_source="unknown task: the cautious default until it is measured",
        origin=str(path),
        licence="yours",
        quality_floor_ppl_ratio=DEFAULT_PPL_RATIO["high"],
        quality_floor_source="this project's default for high sensitivity, a choice",
        splits=_own_splits(parts, prompts),
        items=tuple(d.item or _plain_item(d) for d in parts["evaluate"]),
        seq_len=_own_seq_len(documents) if found.has_answers else OWN_SEQ_LEN[0],
        notes=tuple(notes),
    )


def _own_splits(parts: dict[SplitName, list[Document]], prompts: tuple[str, ...]) -> TextSplits:
    """Answers count where any item of the file has one; a document without one counts whole."""
    answers: dict[SplitName, tuple[int, ...]] = {}
    if any(d.answer_at for part in parts.values() for d in part):
        answers = {name: tuple(d.answer_at for d in part) for name, part in parts.items()}
    texts = {name: tuple(d.text for d in part) for name, part in parts.items()}
    return TextSplits.model_validate({**texts, "prompts": prompts, "answers": answers})


def _own_seq_len(documents: list[Document]) -> int:
    """Room for the longest items but one in twenty, in steps of 32; what is longer is left out, counted."""
    lengths = sorted(len(d.text) for d in documents)
    usual = lengths[int(0.95 * (len(lengths) - 1))]
    least, most = OWN_SEQ_LEN
    return min(most, max(least, 32 * math.ceil(usual / CHARACTERS_PER_TOKEN / 32)))


def _plain_item(document: Document) -> EvaluationItem:
    return EvaluationItem(prompt="", answer=document.text, scorer="next-token")
