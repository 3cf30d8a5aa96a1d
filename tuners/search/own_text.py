"""What the model writes itself, beside a general task's text that is foreign to it.

Bundled text stands for any, but a model of another language or kind is seldom asked for what is in it, and a
plan placed by it alone loses more on what the model is used for. What it writes is of its own kind: a served
model reads its prompt and then that. On a model of 8 million parameters, to which the text is foreign, plans
lose up to 14 % less with half of the text written; on SmolLM2, to which it is not, up to 5 % more
(benchmarks/results/allocators.md). So the model is asked first.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from profiles.provenance import Contract
from tuners.evaluate import paired_difference
from tuners.events import Emit, Message, Ticker
from tuners.model.host import ModelHost, batches
from tuners.model.written import PREFIX, half_written, is_written

STAGE = "load"

FOREIGN_NATS = 0.25
"""What a text must cost a model more than its own continuation of the same beginnings, per token and beyond
the paired interval, to be foreign. A choice between what two models showed: the lower ends of their intervals
are 0.36 (8 M parameters, trained on other text) and -0.58 (SmolLM2)."""


class Excess(Contract):
    """Nats per token that the texts cost the model more than what it writes itself, with a 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def is_foreign(self) -> bool:
        """Whether the texts are foreign to the model."""
        return self.low > FOREIGN_NATS

    @property
    def words(self) -> str:
        """In one line, with what follows from it."""
        return (
            f"the texts cost the model {self.mean:+.2f} nats a token more than what it writes itself "
            f"({self.low:+.2f} to {self.high:+.2f}): "
            + (
                "foreign to it, so that half of the search and selection text is its own"
                if self.is_foreign
                else "not foreign to it"
            )
        )


class OwnText:
    """Sequences of a split, half of them gone on with by the model; files in `folder` keep what was made."""

    def __init__(self, host: ModelHost, folder: Path, seed: int, batch_size: int, emit: Emit) -> None:
        self.host, self.folder, self.seed = host, folder, seed
        self.batch_size, self.emit = batch_size, emit

    def half(self, split: str, ids: Tensor) -> Tensor:
        """`ids` (sequences, tokens) with half of the sequences written."""
        ticker = Ticker(self.emit, STAGE, ids.shape[1] - PREFIX)

        def tick(done: int, _total: int) -> None:
            ticker(done, "tokens written by the model")

        return half_written(self.host.model, ids, self._path(split, ids), seed=self.seed, tick=tick)

    def excess(self, ids: Tensor) -> Excess | None:
        """What the search texts `ids` cost the model more than its own, asked once; None when there are too
        few, or the model does not manage to write (a warning says why)."""
        path = self._path("search", ids).with_suffix(".json")
        if path.exists():
            return Excess.model_validate_json(path.read_text())
        rows = [i for i in range(len(ids)) if is_written(i)]
        if len(rows) < 2:
            return None
        try:
            half = self.half("search", ids)
        except Exception as exc:  # whatever a model's own code raises: the search does not need it
            why = (str(exc).splitlines() or [""])[0]
            text = f"the model writes no text ({type(exc).__name__}: {why}): the search rests on the task's"
            self.emit(Message(stage=STAGE, level="warning", text=text))
            return None
        theirs, own = self._cost(ids[rows]), self._cost(half[rows])
        mean, low, high = paired_difference(theirs, own, seed=self.seed)
        found = Excess(mean=mean, low=low, high=high)
        partial = path.with_suffix(".partial.json")
        partial.write_text(found.model_dump_json())
        partial.replace(path)  # whole or not at all: a killed search is resumed
        self.emit(Message(stage=STAGE, text=found.words))
        return found

    def _path(self, split: str, ids: Tensor) -> Path:
        digest = hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:12]
        return self.folder / f"written-{split}-{digest}-{self.seed}.npy"

    def _cost(self, ids: Tensor) -> list[float]:
        """Negative log-likelihood per token of each sequence behind its beginning."""
        out: list[float] = []
        for rows in batches(len(ids), self.batch_size):
            targets = ids[rows, PREFIX:].to(self.host.device)
            logp = torch.log_softmax(self.host.logits(ids[rows])[:, PREFIX - 1 : -1].float(), -1)
            out += (-logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1).mean(-1)).tolist()
        return out
