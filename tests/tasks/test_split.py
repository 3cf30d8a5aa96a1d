"""Splits by hash: complete, disjoint, stable, never empty."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.tasks.split import Document, fingerprint, split_documents, unique


def document(text: str, split_on: str | None = None) -> Document:
    return Document(text=text, split_on=split_on or text)


TEXTS = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    min_size=3,
    max_size=60,
    unique_by=fingerprint,
)


@given(TEXTS)
def test_every_document_is_in_exactly_one_split_and_none_is_empty(texts: list[str]) -> None:
    parts = split_documents([document(t) for t in texts])
    assert sorted(d.text for part in parts.values() for d in part) == sorted(texts)
    assert all(parts.values())


@given(TEXTS, st.randoms())
def test_order_of_the_file_does_not_matter(texts: list[str], random: object) -> None:
    before = split_documents([document(t) for t in texts])
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    after = split_documents([document(t) for t in shuffled])
    assert {k: {d.text for d in v} for k, v in before.items()} == {
        k: {d.text for d in v} for k, v in after.items()
    }


def test_a_document_keeps_its_split_when_others_are_added() -> None:
    few = [document(f"text {i}") for i in range(200)]
    more = [*few, *(document(f"added {i}") for i in range(300))]
    before, after = split_documents(few), split_documents(more)
    for name, part in before.items():
        assert set(part) <= set(after[name])


def test_shares_are_half_a_fifth_and_three_tenths() -> None:
    parts = split_documents([document(f"document number {i}") for i in range(4000)])
    assert [round(len(parts[n]) / 4000, 1) for n in ("search", "select", "evaluate")] == [0.5, 0.2, 0.3]


def test_the_same_question_with_two_answers_stays_in_one_split() -> None:
    documents = [document(f"q{i}\n{a}", f"q{i}") for i in range(50) for a in ("yes", "no")]
    parts = split_documents(documents)
    questions = [{d.split_on for d in part} for part in parts.values()]
    assert not questions[0] & questions[1]
    assert not questions[0] & questions[2]
    assert not questions[1] & questions[2]


def test_repeats_differing_in_case_and_space_are_one_document() -> None:
    kept, dropped = unique([document("A  b\nc"), document("a b c"), document("other")])
    assert [d.text for d in kept] == ["A  b\nc", "other"]
    assert dropped == 1


def test_too_few_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2"):
        split_documents([document("a"), document("b"), document("A")])
