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

TOKENS, WINDOW = 2048, 128
"""Held-out tokens, when the run left none of its own."""


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
    windows = evaluation_ids(workspace)
    own = bool(windows)
    if not own:
        from tuners.validate.windows import cut_windows

        cut = cut_windows(facts.task.splits.evaluate, encode, eval_tokens=TOKENS, seq_len=WINDOW)
        windows = tuple(tuple(w) for w in cut)
    spec = GgufMeasureSpec(
        path=path, windows=windows, counted=counted_tokens(workspace) if own else (), texts=texts,
        text_ids=tuple(tuple(encode(t)) for t in texts),
    )  # fmt: skip
    answer = run_child(
        "tuners.gguf.measure", spec, emit=emit, log_path=workspace.log_path("gguf"), stage="gguf"
    )
    found = GgufMeasurement.model_validate(answer)
    before = _original_perplexity(workspace) if own else None
    return found.model_copy(update={"ratio": found.perplexity / before}) if before else found


def _encoder(folder: Path) -> Callable[[str], list[int]]:
    try:
        from tokenizers import Tokenizer
    except ImportError as exc:
        raise EnvironmentProblem(
            "tokenizers is not installed", next_step="install a flavour; see advisor doctor"
        ) from exc
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _original_perplexity(workspace: Workspace) -> float | None:
    from tuners.validate.schema import EngineMeasurement

    path = workspace.path("validation", "original.json")
    if not path.exists():
        return None
    return EngineMeasurement.model_validate_json(path.read_text(encoding="utf-8")).perplexity
