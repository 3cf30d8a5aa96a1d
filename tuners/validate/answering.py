"""The task's items answered in the engine, greedily, and scored. Engine processes only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from profiles.tasks.scorers import STOPS, score_answers
from tuners.events import Emit, Ticker
from tuners.validate.questions import Asked, Question, encoded, key_of, within
from tuners.validate.schema import TaskAnswers

BATCH = 16
"""Questions given at once; progress is told after each batch."""


def answer_items(
    llm: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    budget: int | None,
    max_model_len: int,
    emit: Emit,
    stage: str,
    seed: int = 0,
) -> TaskAnswers | None:
    """Answers and scores of as many items as `budget` allows; None when there is none to ask.

    `choice`: the first token decides where the choices differ in it, else the log-probability of the whole
    choice. `next-token`: the share of tokens that the engine finds likeliest. Others write an answer.
    """

    def encode(text: str, special: bool) -> list[int]:
        ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids

    asked = within(encoded(questions, encode, longest=max_model_len), budget)
    if not asked:
        return None
    started = time.monotonic()
    tick = Ticker(emit, stage, len(asked))
    answers: list[str] = []
    scores: list[float | None] = []
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        items = [questions[a.index].item for a in batch]
        found = _Batch(llm, batch, [i.scorer for i in items], seed)
        written = found.written(STOPS)
        texts = [written.get(i, "") for i in range(len(batch))]
        marks = score_answers([items[i] for i in written], [texts[i] for i in written])
        own = {**dict(zip(written, marks, strict=True)), **found.likeliest(), **found.chosen(items)}
        answers += texts
        scores += [own.get(i) for i in range(len(batch))]
        tick(start + len(batch), "items of the task")
    return TaskAnswers(
        items=tuple(a.index for a in asked),
        key=key_of(asked),
        shots=max(len(questions[a.index].shots) for a in asked),
        scorers=tuple(dict.fromkeys(questions[a.index].item.scorer for a in asked)),
        chance=sum(_chance(questions[a.index]) for a in asked) / len(asked),
        scores=tuple(scores),
        answers=tuple(answers),
        seconds=time.monotonic() - started,
    )


def _chance(question: Question) -> float:
    """What guessing would score: one in as many as there are choices, nothing where an answer is written."""
    return 1 / len(question.item.choices) if question.item.scorer == "choice" else 0.0


class _Batch:
    """Some questions, by place in the batch."""

    def __init__(self, llm: Any, asked: Sequence[Asked], scorers: Sequence[str], seed: int) -> None:
        self.llm, self.asked, self.scorers, self.seed = llm, asked, scorers, seed

    def _places(self, *names: str) -> list[int]:
        return [i for i, s in enumerate(self.scorers) if s in names]

    def _generate(self, prompts: list[tuple[int, ...]], params: Any) -> list[Any]:
        given = [{"prompt_token_ids": list(p)} for p in prompts]
        return list(self.llm.generate(given, params, use_tqdm=False)) if given else []

    def written(self, stops: Any) -> dict[int, str]:
        """Greedy answers of the scorers that read one."""
        from vllm import SamplingParams

        places = self._places(*stops)
        params = [
            SamplingParams(
                max_tokens=self.asked[i].limit, temperature=0, stop=[stops[self.scorers[i]]], seed=self.seed
            )
            for i in places
        ]
        outputs = self._generate([self.asked[i].prompt for i in places], params)
        return {i: o.outputs[0].text for i, o in zip(places, outputs, strict=True)}

    def likeliest(self) -> dict[int, float]:
        """Share of the answer's tokens that have rank one."""
        from vllm import SamplingParams

        places = self._places("next-token")
        whole = [self.asked[i].prompt + self.asked[i].answer for i in places]
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, flat_logprobs=True,
                                detokenize=False)  # fmt: skip
        out: dict[int, float] = {}
        for i, output in zip(places, self._generate(whole, params), strict=True):
            counted = len(self.asked[i].answer) - (0 if self.asked[i].prompt else 1)
            ranks = list(output.prompt_logprobs.ranks)[-counted:]
            out[i] = sum(r == 1 for r in ranks) / counted
        return out

    def chosen(self, items: Sequence[Any]) -> dict[int, float | None]:
        """One for the choice that is the reference."""
        out: dict[int, float | None] = {}
        short = [i for i in self._places("choice") if self.asked[i].by_first_token]
        for i, first in zip(short, self._first_tokens(short), strict=True):
            picked = next(c for c, ids in zip(items[i].choices, self.asked[i].choices, strict=True)
                          if ids[0] == first)  # fmt: skip
            out[i] = float(picked.strip() == items[i].answer.strip())
        for i in self._places("choice"):
            if i not in out:
                picked = items[i].choices[self._likeliest_choice(i)]
                out[i] = float(picked.strip() == items[i].answer.strip())
        return out

    def _first_tokens(self, places: list[int]) -> list[int]:
        from vllm import SamplingParams

        params = [
            SamplingParams(
                max_tokens=1, temperature=0, detokenize=False,
                allowed_token_ids=[c[0] for c in self.asked[i].choices],
            )
            for i in places
        ]  # fmt: skip
        outputs = self._generate([self.asked[i].prompt for i in places], params)
        return [int(o.outputs[0].token_ids[0]) for o in outputs]

    def _likeliest_choice(self, place: int) -> int:
        from vllm import SamplingParams

        asked = self.asked[place]
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, flat_logprobs=True,
                                detokenize=False)  # fmt: skip
        outputs = self._generate([asked.prompt + c for c in asked.choices], params)
        sums = [
            sum(list(o.prompt_logprobs.logprobs)[-len(c) :])
            for o, c in zip(outputs, asked.choices, strict=True)
        ]
        return max(range(len(sums)), key=sums.__getitem__)
