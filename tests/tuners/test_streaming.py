"""A model read block by block gives the numbers of the one in memory, and holds one block at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tuners.conftest import sentences
from tuners.evaluate import Evaluator
from tuners.model.calibrate import build_variants
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore
from tuners.plan import Unit
from tuners.sensitivity.fast import measure_fast
from tuners.sensitivity.measure import measure_kl
from tuners.sensitivity.streamed import measure_fast_streamed, measure_kl_streamed, rows_by_format
from tuners.sensitivity.table import CellLog


def silent(_event: object) -> None:
    pass


@pytest.fixture(scope="module")
def resident(tiny_model_dir: Path, tiny_units: list[Unit]) -> ModelHost:
    return ModelHost.load(tiny_model_dir, tiny_units)


@pytest.fixture
def streamed(tiny_model_dir: Path, tiny_units: list[Unit], monkeypatch: pytest.MonkeyPatch) -> ModelHost:
    monkeypatch.setattr("tuners.model.stream.SMALL_BYTES", 2048)  # so that the head is streamed as well
    return ModelHost.load(tiny_model_dir, tiny_units, streamed=True)


@pytest.fixture(scope="module")
def ids(resident: ModelHost) -> torch.Tensor:
    return resident.tokenise(sentences(60, 2), seq_len=32, max_sequences=10)


@pytest.fixture(scope="module")
def folder(resident: ModelHost, ids: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    build_variants(resident, VariantStore(resident, folder, 2**30), ids, emit=silent)
    return folder


def elements(host: ModelHost) -> int:
    """Weights that are in memory now."""
    return sum(p.numel() for p in host.model.parameters())


def test_logits_and_captured_states_are_those_of_the_model_in_memory(
    resident: ModelHost, streamed: ModelHost, ids: torch.Tensor
) -> None:
    assert torch.allclose(streamed.logits(ids[:3]), resident.logits(ids[:3]), atol=1e-5)
    swept = torch.cat([logits for _, logits in streamed.sweep(ids, 4)])
    assert torch.allclose(swept, resident.logits(ids), atol=1e-5)
    inputs, logits = streamed.capture(ids[:2])
    assert len(inputs.hidden) == len(streamed.blocks) + 1
    assert torch.allclose(streamed.logits_from(2, ids[:2], inputs), logits, atol=1e-5)


def test_one_block_at_a_time_is_in_memory_and_read_once_for_all_sequences(
    streamed: ModelHost, resident: ModelHost, ids: torch.Tensor
) -> None:
    assert streamed.stream is not None
    before = elements(streamed)
    block = sum(p.numel() for p in resident.blocks[0].parameters())
    assert before < block / 10
    for run in streamed.blocks_in_turn(ids, 4):
        run.outputs()
        assert elements(streamed) == before + block
    list(streamed.sweep(ids, 2))
    assert elements(streamed) == before
    assert streamed.stream.loads == {0: 2, 1: 2, 2: 2, 3: 2, "lm_head": 1}


def test_a_plan_costs_one_pass_and_loses_what_it_loses_in_memory(
    resident: ModelHost, streamed: ModelHost, ids: torch.Tensor, folder: Path, tmp_path: Path
) -> None:
    plan = {
        name: unit.options[i % len(unit.options)] for i, (name, unit) in enumerate(resident.units.items())
    }
    wanted = Evaluator(resident, VariantStore(resident, folder, 2**30), ids, tmp_path / "a", "search")
    found = Evaluator(streamed, VariantStore(streamed, folder, 0), ids, tmp_path / "b", "search")
    found.reference()
    assert streamed.stream is not None
    streamed.stream.loads.clear()

    quality = found.quality(plan)

    assert set(streamed.stream.loads.values()) == {1}
    assert quality.sequence_kl == pytest.approx(wanted.quality(plan).sequence_kl, abs=1e-5)
    assert quality.kl > 1e-4
    assert not streamed.planned


def test_variants_are_those_that_are_made_in_memory(
    resident: ModelHost, streamed: ModelHost, ids: torch.Tensor, folder: Path, tmp_path: Path
) -> None:
    store = VariantStore(streamed, tmp_path / "variants", 0)
    made = build_variants(streamed, store, ids, emit=silent)
    assert made == 3 * len(streamed.units)
    known = VariantStore(resident, folder, 0)
    for unit in streamed.units.values():
        for fmt in unit.options[:-1]:
            for name, variant in store.codes(unit.name, fmt).items():
                other = known.codes(unit.name, fmt)[name]
                same = (variant.codes.float() == other.codes.float()).float().mean()
                assert float(same) > 0.999, (unit.name, fmt)
            scale, wanted = store.input_scale(unit.name, fmt), known.input_scale(unit.name, fmt)
            assert (scale is None) == (wanted is None)
            assert scale is None or wanted is None or torch.equal(scale, wanted)


def test_both_halves_of_the_table_are_those_of_the_model_in_memory(
    resident: ModelHost,
    streamed: ModelHost,
    ids: torch.Tensor,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = (torch.arange(ids.numel()).view(ids.shape) % 3 > 0).float()
    here, there = VariantStore(resident, folder, 2**30), VariantStore(streamed, folder, 0)
    wanted = measure_fast(resident, here, ids, seed=3, weights=weights)
    monkeypatch.setattr("tuners.sensitivity.streamed.ROWS_BYTES", 500_000)  # a few sequences at a time
    found = measure_fast_streamed(streamed, there, ids, tmp_path / "scratch", seed=3, weights=weights)
    assert found.fisher == pytest.approx(wanted.fisher, rel=1e-3)
    assert found.gdy2 == pytest.approx(wanted.gdy2, rel=1e-3)
    assert found.g2dy2 == pytest.approx(wanted.g2dy2, rel=1e-3)
    assert not list((tmp_path / "scratch").iterdir())

    log = CellLog(tmp_path / "resident.jsonl")
    measure_kl(resident, here, ids, log, emit=silent, weights=weights)
    cells = sorted(log.cells)[::4]
    monkeypatch.setattr("tuners.sensitivity.streamed.STATES_BYTES", 4 * ids.numel() * 128 * 5)
    again = CellLog(tmp_path / "streamed.jsonl")
    measure_kl_streamed(
        streamed, there, ids, again, emit=silent, rows_of=rows_by_format(cells, len(ids)), cells=cells,
        weights=weights, batch_size=4,
    )  # fmt: skip
    assert sorted(again.cells) == cells
    for key in cells:
        assert again.cells[key].sequence_kl == pytest.approx(log.cells[key].sequence_kl, abs=1e-5)
        assert again.cells[key].mse == pytest.approx(log.cells[key].mse)
