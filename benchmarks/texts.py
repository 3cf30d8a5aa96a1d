"""The public texts that benchmarks measure on, in parts that stay apart.

DIR holds `wikitext2_valid.txt` (WikiText-2, validation), `gsm8k_train_400.jsonl` (GSM8K) and
`humaneval.jsonl.gz` (HumanEval). The first four fifths of the first two are `train`, the rest `evaluate`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

TRAIN_SHARE = 0.8
PARAGRAPHS_PER_TEXT = 8


def wikitext(data: Path) -> list[str]:
    """WikiText-2 in texts of a few paragraphs."""
    lines = [line for line in (data / "wikitext2_valid.txt").read_text().splitlines() if line.strip()]
    step = PARAGRAPHS_PER_TEXT
    return ["\n".join(lines[i : i + step]) for i in range(0, len(lines), step)]


def gsm8k(data: Path) -> list[str]:
    """Question and worked answer of each problem."""
    rows = [json.loads(line) for line in (data / "gsm8k_train_400.jsonl").read_text().splitlines()]
    return [f"{row['question']}\n{row['answer']}" for row in rows]


def humaneval(data: Path) -> list[str]:
    """Prompt and reference solution of each problem."""
    with gzip.open(data / "humaneval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return [row["prompt"] + row["canonical_solution"] for row in rows]


def split_at(texts: list[str], part: str) -> list[str]:
    """The `train` or the `evaluate` part."""
    cut = int(len(texts) * TRAIN_SHARE)
    return texts[:cut] if part == "train" else texts[cut:]


def training(data: Path) -> list[str]:
    """Texts of the kinds that `evaluation` has, none of them its own: WikiText-2 and GSM8K in turn."""
    kinds = split_at(wikitext(data), "train"), split_at(gsm8k(data), "train")
    return [text for pair in zip(*kinds, strict=False) for text in pair]


def evaluation(data: Path) -> dict[str, list[str]]:
    """Name to texts that nothing was trained, calibrated or chosen on."""
    return {
        "WikiText-2": split_at(wikitext(data), "evaluate"),
        "GSM8K": split_at(gsm8k(data), "evaluate"),
        "HumanEval": humaneval(data),
    }
