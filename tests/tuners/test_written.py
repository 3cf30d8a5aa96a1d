"""Text that the original writes: where the task has too little to calibrate on, and half of what a search
measures on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tuners.conftest import sentences, shuffled
from tuners.events import Event, Message
from tuners.model import written as writing
from tuners.model.host import ModelHost
from tuners.model.written import PREFIX, half_written, is_written, written
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize import llmcompressor_backend as backend
from tuners.quantize.schema import QuantizeSpec
from tuners.search.own_text import OwnText


def spec_of(model: Path, units: Sequence[Unit], samples: int) -> QuantizeSpec:
    return QuantizeSpec(
        model_path=str(model),
        units=tuple(units),
        plan=PrecisionPlan(formats={u.name: "W4A16_G32" for u in units}),
        out_dir="unused",
        calibration_texts=tuple(sentences(4, 2)),
        num_samples=samples,
        max_seq_length=32,
    )


def test_sequences_begin_as_the_texts_do_and_differ(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids = torch.arange(2, 20).repeat(3, 2)[:, :32] % 19
    torch.manual_seed(0)
    made = written(model, ids, 7)

    assert made.shape == (7, 32)
    for i, row in enumerate(made):
        offset = i // 3 * PREFIX % (32 - PREFIX)
        assert torch.equal(row[:PREFIX], ids[i % 3, offset : offset + PREFIX])
    assert len({tuple(row.tolist()) for row in made}) == 7
    torch.manual_seed(0)
    assert torch.equal(written(model, ids, 7), made)


@pytest.mark.parametrize("writer", ["the model", "none: block by block", "too large"])
def test_missing_sequences_are_written_or_named(
    tiny_model_dir: Path, tiny_units: Sequence[Unit], monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    spec, events = spec_of(tiny_model_dir, tiny_units, 12), []
    own = [list(range(32)) for _ in range(5)]
    model = None if writer.startswith("none") else AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    if writer == "too large":
        monkeypatch.setattr(writing, "WRITER_PARAMETERS", 1000)
    found = backend._filled(spec, model, own, events.append)

    (message,) = events
    assert isinstance(message, Message)
    assert "the texts make 5 sequences of 32 tokens, not 12" in message.text
    assert found[:5] == own
    assert [len(s) for s in found] == [32] * (12 if writer == "the model" else 5)
    assert message.level == ("info" if writer == "the model" else "warning")


def test_enough_text_is_taken_as_it_is(tiny_model_dir: Path, tiny_units: Sequence[Unit]) -> None:
    own = [list(range(32)) for _ in range(5)]
    assert backend._filled(spec_of(tiny_model_dir, tiny_units, 5), None, own, pytest.fail) == own


def test_half_of_a_split_and_of_its_shares_is_written() -> None:
    for count in (2, 4, 8, 16, 32):
        assert sum(writing.is_written(i) for i in range(count)) == count // 2
        for share in (2, 4, 8):
            if share <= count:  # as `Sequences.spread` takes them
                assert sum(writing.is_written(i * count // share) for i in range(share)) == share // 2


def test_the_model_goes_on_with_half_of_the_sequences_once(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids, ticks = torch.arange(8 * 32).view(8, 32) % 19, []
    state = torch.random.get_rng_state()
    made = half_written(model, ids, tmp_path / "w.npy", seed=4, tick=lambda *t: ticks.append(t))

    assert torch.equal(torch.random.get_rng_state(), state)
    assert ticks == [(n, 32 - PREFIX) for n in range(1, 33 - PREFIX)]
    for place, (row, before) in enumerate(zip(made, ids, strict=True)):
        assert torch.equal(row[:PREFIX], before[:PREFIX])
        assert torch.equal(row, before) != is_written(place)
    assert torch.equal(half_written(model, ids, tmp_path / "w.npy", seed=5), made)  # out of the file
    assert torch.equal(half_written(model, ids, tmp_path / "x.npy", seed=4), made)
    assert not torch.equal(half_written(model, ids, tmp_path / "y.npy", seed=5), made)


def test_text_is_foreign_that_costs_more_than_the_model_s_own(host: ModelHost, tmp_path: Path) -> None:
    known = sentences(60, 5)
    for texts, foreign in ((known, False), ([shuffled(t) for t in known], True)):
        ids, events = host.tokenise(texts, seq_len=32, max_sequences=16), []
        own = OwnText(host, tmp_path, 0, 4, events.append)
        found = own.excess(ids)
        assert found is not None
        assert found.is_foreign is foreign
        assert found.low <= found.mean <= found.high
        (said,) = [e.text for e in events if isinstance(e, Message)]
        assert said == found.words
        assert ("not foreign" in said) is not foreign
        assert any(e.kind == "progress" and e.total == 32 - PREFIX for e in events)
        again: list[Event] = []
        assert OwnText(host, tmp_path, 0, 4, again.append).excess(ids) == found
        assert again == []  # out of the file


def test_a_model_that_fails_to_write_leaves_the_text_as_it_is(
    host: ModelHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("probability tensor contains nan\nand more")

    ids, events = host.tokenise(sentences(60, 5), seq_len=32, max_sequences=16), []
    monkeypatch.setattr(host.model, "generate", fails)
    assert OwnText(host, tmp_path, 0, 4, events.append).excess(ids) is None
    (said,) = [e for e in events if isinstance(e, Message)]
    assert said.level == "warning"
    assert "probability tensor contains nan)" in said.text
    assert not list(tmp_path.iterdir())  # asked again next time
