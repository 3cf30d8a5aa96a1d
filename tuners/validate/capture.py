"""Child process: what goes into and comes out of every unit, as the engine computes it with a checkpoint.

`python -m tuners.validate.capture SPEC`, started by `run_child`; tuners/validate/blame.py compares it with
the original in torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from profiles.footprint.schema import ServingSpec
from profiles.provenance import Contract
from tuners.child import child_main
from tuners.events import Emit, Progress, Ticker
from tuners.validate.measure import MeasureSpec, start_engine
from tuners.validate.report import engine_module

STAGE = "diagnose"
IDS = "windows.json"
"""Windows of token ids, and for each token whether the next one counts."""

MIN_TOKENS = 16


class CaptureSpec(Contract):
    """Texts that no report is made of (the split that was searched on), and the units to watch.

    `answers` is the character at which the answer of each text begins; without them every token counts.
    """

    checkpoint: str
    serving: ServingSpec
    unit_names: tuple[str, ...]
    texts: tuple[str, ...]
    answers: tuple[int, ...] = ()
    folder: str
    tokens: int = Field(default=192, ge=MIN_TOKENS)
    seq_len: int = Field(default=96, ge=MIN_TOKENS)


class Captured(Contract):
    """`watched`: unit -> the engine's module; units that the engine does not have as a module are absent."""

    folder: str
    tokens: int
    watched: dict[str, str]


def windows_of(
    spec: CaptureSpec, encode: Callable[[str], Sequence[int]]
) -> tuple[list[list[int]], list[list[bool]]]:
    """Windows of whole texts (cut at `seq_len`) spread over the split, until `tokens` are reached."""
    ids: list[list[int]] = []
    counted: list[list[bool]] = []
    # every third text first: neighbours are of one kind
    order = [i for start in range(3) for i in range(start, len(spec.texts), 3)]
    for i in order:
        if sum(map(len, ids)) >= spec.tokens:
            break
        start = spec.answers[i] if spec.answers else 0
        prompt = list(encode(spec.texts[i][:start])) if start else []
        answer = list(encode(spec.texts[i][start:]))
        row = (prompt + answer)[: spec.seq_len]
        if len(row) < MIN_TOKENS or len(row) <= len(prompt):
            continue
        ids.append(row)
        counted.append([len(prompt) - 1 <= at < len(row) - 1 for at in range(len(row))])
    return ids, counted


def capture(spec: CaptureSpec, emit: Emit) -> Captured:
    """Run the windows one by one and write `<unit>.in.npy` and `<unit>.out.npy`, (tokens, features)."""
    emit(Progress(stage=STAGE, done=0, text=f"starting vLLM on {spec.checkpoint}"))
    eager = spec.serving.model_copy(update={"enforce_eager": True})  # hooks are not part of a CUDA graph
    engine = start_engine(MeasureSpec(checkpoint=spec.checkpoint, serving=eager))
    tokenizer = engine.llm.get_tokenizer()
    ids, counted = windows_of(spec, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    modules = engine.llm.collective_rpc("advisor_modules")[0]
    kernels = {name: kernel for name, (kernel, _) in modules.items()}
    watched = {u: m for u in spec.unit_names if (m := engine_module(u, kernels)) is not None}
    engine.llm.collective_rpc("advisor_watch", args=(watched,))
    _run(engine, ids, emit)
    engine.llm.collective_rpc("advisor_watched", args=(str(folder),))
    (folder / IDS).write_text(json.dumps({"ids": ids, "counted": counted}), encoding="utf-8")
    return Captured(folder=str(folder), tokens=sum(map(len, ids)), watched=watched)


def _run(engine: object, ids: list[list[int]], emit: Emit) -> None:
    from vllm import SamplingParams

    tick = Ticker(emit, STAGE, len(ids))
    params = SamplingParams(max_tokens=1, temperature=0, detokenize=False)
    for done, window in enumerate(ids, 1):
        # one at a time: rows are then in the order of the windows
        engine.llm.generate([{"prompt_token_ids": window}], params, use_tqdm=False)  # type: ignore[attr-defined]
        tick(done, "windows")


if __name__ == "__main__":
    child_main(CaptureSpec, capture)
