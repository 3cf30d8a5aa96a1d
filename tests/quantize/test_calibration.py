"""Packing calibration text."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import EnvironmentProblem, UsageError
from tuners.quantize.calibration import pack
from tuners.quantize.compute import RESERVE_BYTES, choose_compute

END = -1


def tokens(text: str) -> list[int]:
    """A token per character."""
    return [ord(c) for c in text]


@given(st.lists(st.text(max_size=50), max_size=20), st.integers(2, 16), st.integers(1, 8), st.integers(0, 3))
def test_sequences_are_full_distinct_stretches_of_the_joined_text(
    texts: list[str], length: int, count: int, seed: int
) -> None:
    stream = [t for i, text in enumerate(filter(None, texts)) for t in ([END] if i else []) + tokens(text)]
    if len(stream) < 2:
        with pytest.raises(UsageError, match="no calibration text"):
            pack(texts, tokens, separator=END, length=length, count=count, seed=seed)
        return
    found = pack(texts, tokens, separator=END, length=length, count=count, seed=seed)

    if len(stream) < length:
        assert found == [stream]
    else:
        rows = [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]
        assert len(found) == min(count, len(rows))
        assert Counter(map(tuple, found)) <= Counter(map(tuple, rows))  # none invented, none twice


def test_the_same_seed_draws_the_same_sequences_and_another_one_others() -> None:
    text = "".join(chr(i) for i in range(33, 1033))
    draws = [pack([text], tokens, separator=END, length=10, count=5, seed=s) for s in (0, 0, 1)]

    assert draws[0] == draws[1] != draws[2]


def test_memory_decides_the_compute_type_before_speed_does() -> None:
    parameters = 10**9
    with pytest.raises(EnvironmentProblem, match="not enough memory"):
        choose_compute("auto", "bfloat16", parameters, RESERVE_BYTES, on_gpu=False)
    with pytest.raises(UsageError, match="float32 does not fit"):
        choose_compute("float32", "bfloat16", parameters, 3 * parameters + RESERVE_BYTES, on_gpu=False)
    kind, reason = choose_compute("auto", "bfloat16", parameters, 9 * parameters, on_gpu=True)
    assert kind == "bfloat16"
    assert "GPU" in reason
