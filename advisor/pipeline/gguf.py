"""The plan of a run in llama.cpp's types, and such a file measured in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.pipeline.facts import Facts
from advisor.pipeline.search import measured_scores
from advisor.pipeline.validate import counted_tokens, evaluation_ids
from advisor.workspace import Workspace
from profiles.errors import EnvironmentProblem, UsageError
from tuners.events import Emit
from tuners.plan import PrecisionPlan

if TYPE_CHECKING:
    from tuners.gguf.measure import GgufMeasurement

TOKENS, WINDOW = 1024, 128
"""Held-out tokens that are measured: llama.cpp's portable CPU build reads tens of them a second here."""


def plan_types(workspace: Workspace, facts: Facts, plan: PrecisionPlan) -> dict[str, str]:
    """GGUF tensor -> type, as the bundle's quantize.sh has them.

    Raises:
        UsageError: a unit that llama.cpp has no name or no type for.
    """
    from advisor.bundle.targets.llama_cpp import tensor_types
    from advisor.bundle.targets.registry import Refused

    try:
        return tensor_types(facts.model.architecture, facts.units, plan, measured_scores(workspace))
    except Refused as exc:
        raise UsageError("the plan has no GGUF form", got=str(exc)) from exc


def measured(workspace: Workspace, facts: Facts, path: str, emit: Emit) -> GgufMeasurement:
    """Perplexity of the file in llama.cpp on the tokens that validation reports on.

    Raises:
        EnvironmentProblem: no llama.cpp, or no tokenizer to cut the texts with.
    """
    from tuners.child import run_child
    from tuners.gguf.measure import GgufMeasurement, GgufMeasureSpec

    texts = facts.task.splits.evaluate[:8]
    encode = _encoder(Path(facts.model_path))
    windows, counted = evaluation_ids(workspace), counted_tokens(workspace)
    own = bool(windows)
    if own:
        shown = _enough(windows)
        windows, counted = windows[:shown], counted[:shown]
    else:
        from tuners.validate.windows import cut_windows

        cut = cut_windows(facts.task.splits.evaluate, encode, eval_tokens=TOKENS, seq_len=WINDOW)
        windows, counted = tuple(tuple(w) for w in cut), ()
    spec = GgufMeasureSpec(
        path=path, windows=windows, counted=counted, texts=texts,
        text_ids=tuple(tuple(encode(t)) for t in texts),
    )  # fmt: skip
    answer = run_child(
        "tuners.gguf.measure", spec, emit=emit, log_path=workspace.log_path("gguf"), stage="gguf"
    )
    found = GgufMeasurement.model_validate(answer)
    before = _original_perplexity(workspace, found.tokens) if own else None
    return found.model_copy(update={"ratio": found.perplexity / before}) if before else found


def _enough(windows: tuple[tuple[int, ...], ...]) -> int:
    """Windows that hold about as many tokens as are measured."""
    tokens = 0
    for count, window in enumerate(windows, 1):
        tokens += len(window)
        if tokens >= TOKENS:
            return count
    return len(windows)


def _encoder(folder: Path) -> Callable[[str], list[int]]:
    try:
        from tokenizers import Tokenizer
    except ImportError as exc:
        raise EnvironmentProblem(
            "tokenizers is not installed", next_step="install a flavour; see advisor doctor"
        ) from exc
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _original_perplexity(workspace: Workspace, tokens: int) -> float | None:
    """The original's in vLLM over the first `tokens` counted tokens, when validation measured it."""
    from tuners.validate.distributions import TopK

    path = workspace.path("validation", "reference.npz")
    if not path.exists():
        return None
    found = TopK.load(path)
    return found.only([i < tokens for i in range(len(found.target_logprobs))]).perplexity
