"""What validation found, line by line: predicted against measured, and the gates that decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from profiles.provenance import Contract


class EngineChecks(Contract):
    """How the engine behaved: counts of prompts. `leaked`: short answers with chat markers in their text."""

    asked_twice: int
    same_answers: int
    asked_to_stop: int
    stopped: int
    leaked: int
    chat_template_sha256: str | None
    long_tokens: int
    long_ok: bool


class TaskAnswers(Contract):
    """The task's items in one engine: `items` are their places in the task, `key` hashes what was asked.

    `scores` lie between 0 and 1, None where the scorer itself failed; `chance` is what guessing would score;
    `answers` are empty where an item is scored without writing.
    """

    items: tuple[int, ...]
    key: str
    shots: int
    scorers: tuple[str, ...]
    chance: float
    scores: tuple[float | None, ...]
    answers: tuple[str, ...]
    seconds: float


class TaskAccuracy(Contract):
    """Both checkpoints' scores on the same items. Intervals are of 95 %; `mcnemar` is the exact one-sided
    chance (None where scores are not right or wrong); `accepted_loss` in score points; `items_needed` tells
    how many items would show a loss of that size."""

    items: int
    unscored: int
    shots: int
    scorers: tuple[str, ...]
    chance: float
    original: float
    original_interval: tuple[float, float]
    quantized: float
    quantized_interval: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    lost: int
    gained: int
    mcnemar: float | None
    accepted_loss: float
    verdict: Literal["kept", "lost", "cannot tell"]
    items_needed: int | None
    reason: str


class LoadPoint(Contract):
    """Medians (and 99th percentiles) over `requests`, of which `concurrency` ran at any time."""

    concurrency: int
    ttft_ms: float
    itl_ms: float
    output_tokens_s: float
    requests: int = 0
    failed: int = 0
    ttft_p99_ms: float = 0.0
    itl_p99_ms: float = 0.0


class EngineMeasurement(Contract):
    """What one engine process (original or quantized checkpoint) showed. Bytes, tokens, seconds.

    `kernels` maps the engine's module to the kernel it chose; `module_bytes` to the bytes of its loaded
    parameters before the kernel repacked them; `token_logprobs` holds, per evaluation sequence, the
    log-probability of each next token; `top_ids` the engine's most likely next token at each position.
    """

    checkpoint: str
    engine_version: str
    dtype: str
    load_seconds: float
    kernels: dict[str, str]
    schemes: dict[str, str]
    module_bytes: dict[str, int]
    weights_bytes: int
    kv_cache_bytes: int
    kv_tokens: int
    max_model_len: int
    max_concurrency: float
    peak_rss_bytes: int
    perplexity: float
    eval_tokens: int
    kl_to_reference: float | None = None  # top-k truncated, see tuners/validate/measure.py
    top1_agreement: float | None = None
    generations: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    prefill_tokens_s: float = 0.0
    decode_tokens_s: float = 0.0
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    checks: EngineChecks | None = None
    load: tuple[LoadPoint, ...] = ()
    task: TaskAnswers | None = None
    log_path: str | None = None


class Line(Contract):
    """One line of the report. `tolerance` is relative, from `low` and `high` on where the prediction was an
    interval; `ok` None when the line only informs."""

    name: str
    predicted: float | None
    measured: float
    unit: str
    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    ok: bool | None = None
    note: str = ""


class Gate(Contract):
    """One condition of the verdict, with the reason in words. `conclusive` False: what was measured is not
    enough to tell, which stops nothing and is no proof either."""

    name: str
    passed: bool
    reason: str
    conclusive: bool = True

    @property
    def mark(self) -> str:
        """In a list of gates."""
        return "FAIL" if not self.passed else "pass" if self.conclusive else "open"


def gates_in_words(gates: Sequence[Gate]) -> str:
    """How many passed, failed and could not be told; the last two by name."""
    marks: dict[str, list[str]] = {"pass": [], "open": [], "FAIL": []}
    for gate in gates:
        marks[gate.mark].append(gate.name)
    words = [f"{len(marks['pass'])} gates passed"]
    if marks["FAIL"]:
        words.insert(0, "FAILED: " + ", ".join(marks["FAIL"]))
    if marks["open"]:
        words.append("cannot be told: " + ", ".join(marks["open"]))
    return "; ".join(words)


class ValidationReport(Contract):
    """Original and quantized checkpoint side by side in the same engine, and the verdict."""

    passed: bool
    gates: tuple[Gate, ...]
    lines: tuple[Line, ...]
    kernel_mismatches: dict[str, tuple[str, str]] = {}  # module -> (planned, chosen)
    original: EngineMeasurement
    quantized: EngineMeasurement
    plan_key: str
    task: TaskAccuracy | None = None
    notes: tuple[str, ...] = ()


class Predictions(Contract):
    """What was promised before the engine ran. None: nothing was promised, and no gate is built on it.

    `weights_bytes` are those of the engine's parameters (tuners/validate/served.py), not of the file.
    `kv_tokens_range` is the footprint's interval (None: a point, as where the cache's size is given): what
    the engine leaves for the cache on a GPU is an estimate (profiles/footprint/runner.py).
    """

    weights_bytes: int
    kv_tokens: int
    kv_tokens_range: tuple[int, int] | None = None
    kv_bytes_per_token: int
    perplexity_ratio: float | None = None
    kl: float | None = None
    top1: float | None = None
    itl_ms: float | None = None
    ttft_ms: float | None = None
    source: str = ""
