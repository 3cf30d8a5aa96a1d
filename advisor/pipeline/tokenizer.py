"""Does the tokenizer belong to the model: ids that the embedding lacks fail late and without a word."""

from __future__ import annotations

import json
from pathlib import Path

from profiles.errors import UsageError
from profiles.models.schema import ModelProfile


def check_tokenizer(model: ModelProfile) -> None:
    """Refuse a tokenizer.json that cannot be read or whose vocabulary is larger than the embedding.

    Tokens added behind the vocabulary may lie beyond it: multimodal relatives bring such.

    Raises:
        UsageError: which of the two, with the numbers.
    """
    path = Path(model.path or "", "tokenizer.json")
    if model.path is None or not path.is_file():
        return
    again = "fetch the model again: tokenizer.json, tokenizer_config.json and the weights belong together"
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        largest = max((int(i) for i in ids), default=-1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise UsageError(
            "the tokenizer cannot be read", where=str(path), got=f"{type(exc).__name__}: {exc}"[:200],
            next_step=again,
        ) from exc  # fmt: skip
    if largest >= model.vocab_size:
        raise UsageError(
            "this tokenizer is another model's", where=str(path), got=f"token ids up to {largest:,}",
            allowed=f"below {model.vocab_size:,}, the rows of the model's embedding", next_step=again,
        )  # fmt: skip
