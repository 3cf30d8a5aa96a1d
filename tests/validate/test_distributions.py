"""Truncated KL is a lower bound; references are only used on the same tokens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import RunFailed, UsageError
from tuners.validate.distributions import TopK, from_prompt_logprobs, top1_agreement, truncated_kl

Probabilities = npt.NDArray[np.float64]


def _softmax(logits: Probabilities) -> Probabilities:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _top(p: Probabilities, k: int, key: str = "same") -> TopK:
    ids = np.argsort(-p, axis=-1)[:, :k]
    lp = np.log(np.take_along_axis(p, ids, -1))
    return TopK(np.log(p[:, 0]).astype(np.float32), ids.astype(np.int32), lp.astype(np.float32), key)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.01, 3.0))
def test_truncated_kl_never_exceeds_the_full_one(seed: int, k: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(5, 40)) * 2
    p, q = _softmax(logits), _softmax(logits + noise * rng.normal(size=logits.shape))
    full = float((p * np.log(p / q)).sum(-1).mean())

    found = truncated_kl(_top(p, k), _top(q, k))

    assert 0 <= found <= full + 1e-4
    if k == 40:
        assert found == pytest.approx(full, abs=1e-4)


def test_a_distribution_does_not_differ_from_itself() -> None:
    top = _top(_softmax(np.random.default_rng(0).normal(size=(9, 30))), 8)

    assert truncated_kl(top, top) == pytest.approx(0, abs=1e-9)
    assert top1_agreement(top, top) == 1.0


def test_top1_counts_positions() -> None:
    p = _softmax(np.array([[3.0, 0, 0], [3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]]))
    q = _softmax(np.array([[3.0, 0, 0], [0, 3.0, 0], [0, 3.0, 0], [0, 0, 3.0]]))

    assert top1_agreement(_top(p, 2), _top(q, 2)) == 0.75


def test_other_windows_are_refused() -> None:
    p = _softmax(np.zeros((3, 5)))

    with pytest.raises(UsageError, match="other evaluation windows"):
        truncated_kl(_top(p, 2), _top(p, 2, key="other"))


def test_saved_references_come_back(tmp_path: Path) -> None:
    top = _top(_softmax(np.random.default_rng(1).normal(size=(4, 12))), 3)
    top.save(tmp_path / "deep" / "reference.npz")

    again = TopK.load(tmp_path / "deep" / "reference.npz")

    assert again.windows_key == top.windows_key
    assert truncated_kl(top, again) == pytest.approx(0, abs=1e-9)
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "reference.npz"]


def test_a_damaged_reference_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    path.write_bytes(b"PK\x03\x04 cut")

    with pytest.raises(RunFailed, match="cannot be read") as caught:
        TopK.load(path)
    assert "measure the original again" in (caught.value.next_step or "")
    with pytest.raises(RunFailed):
        TopK.load(tmp_path / "missing.npz")


def test_engine_rows_are_target_first() -> None:
    flat = SimpleNamespace(token_ids=[7, 1, 2, 9, 3, 4], logprobs=[-2.0, -0.1, -3.0, -4.0, -0.5, -1.5])

    top = from_prompt_logprobs([SimpleNamespace(prompt_logprobs=flat)], 2, "key")

    assert top.ids.tolist() == [[1, 2], [3, 4]]
    assert top.perplexity == pytest.approx(np.exp(3.0))
