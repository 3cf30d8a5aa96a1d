"""From what an attempt measured to the one cause that is repaired first."""

from __future__ import annotations

from enum import StrEnum

from advisor.agent.schema import Attempt, Outcome

MEMORY_WORDS = (
    "no available memory for the cache blocks",
    "kv cache is needed",
    "larger than the maximum number of tokens",
    "free memory on device",
    "out of memory",
    "outofmemory",
)
"""What vLLM 0.32 says when it cannot hold the cache (v1/core/kv_cache_utils.py, v1/worker/gpu_worker.py)."""


class Cause(StrEnum):
    """Why an attempt was not accepted, in the order in which causes are repaired."""

    MEMORY = "the engine has no room for the KV cache"
    ENGINE = "the engine did not run"
    KERNELS = "units run on another kernel than planned"
    PREDICTION = "the measured memory is not what was predicted"
    AGREEMENT = "the engine disagrees with the search"
    FLOOR = "the quality floor is missed"
    ACCURACY = "the task's own score is lost"
    GENERATIONS = "answers do not end, are empty or endless repetition"
    OTHER = "a gate failed"
    NONE = "every gate passed"


_BY_GATE = {
    "kernels": Cause.KERNELS,
    "weights": Cause.PREDICTION,
    "KV cache tokens": Cause.PREDICTION,
    "engine agrees with the search": Cause.AGREEMENT,
    "quality floor": Cause.FLOOR,
    "task accuracy": Cause.ACCURACY,
    "generations": Cause.GENERATIONS,
    "chat template and stop token": Cause.GENERATIONS,
}


def diagnose(outcome: Outcome) -> Cause:
    """The first cause; a gate that is not known here is OTHER, never a pass."""
    if outcome.error is not None:
        words = " ".join(str(v) for v in outcome.error.values()).lower()
        return Cause.MEMORY if any(w in words for w in MEMORY_WORDS) else Cause.ENGINE
    failed = {_BY_GATE.get(g.name, Cause.OTHER) for g in outcome.gates if not g.passed}
    if not failed:
        return Cause.NONE if outcome.passed else Cause.OTHER
    return next(cause for cause in Cause if cause in failed)


def failed_gates(outcome: Outcome) -> tuple[str, ...]:
    """Name and reason of every gate that did not pass."""
    return tuple(f"{g.name}: {g.reason}" for g in outcome.gates if not g.passed)


def best_attempt(attempts: tuple[Attempt, ...]) -> Attempt | None:
    """The accepted attempt, else the one with the lowest ratio measured in the engine."""
    accepted = [a for a in attempts if a.outcome.passed]
    if accepted:
        return accepted[-1]
    measured = [(a.outcome.ratio, a) for a in attempts if a.outcome.ratio is not None]
    return min(measured, key=lambda pair: pair[0])[1] if measured else None
