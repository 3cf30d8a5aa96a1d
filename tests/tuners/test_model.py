"""The model in torch: suffix evaluation is exact, variants are what the formats say, signals agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from profiles.formats import get_format
from tuners.evaluate import Evaluator, compare, paired_difference
from tuners.evaluate_schema import bootstrap
from tuners.model.host import ModelHost
from tuners.model.inputs import fp8_per_token, int8_per_token
from tuners.model.variants import VariantStore, rtn
from tuners.plan import uniform
from tuners.sensitivity.fast import Projected, SignalSums, measure_fast
from tuners.sensitivity.measure import measure_kl
from tuners.sensitivity.table import Cell, CellLog, SensitivityTable, blend


def test_suffix_evaluation_equals_a_full_forward(
    host: ModelHost, store: VariantStore, ids: torch.Tensor
) -> None:
    inputs, _ = host.capture(ids[:2])
    for unit in host.units.values():
        with store.installed({unit.name: "W8A8"}):
            full = host.logits(ids[:2])
            suffix = host.logits_from(host.block_of(unit.name), ids[:2], inputs)
        assert torch.allclose(full, suffix, atol=1e-5)


def test_installed_weights_are_taken_back(host: ModelHost, store: VariantStore, ids: torch.Tensor) -> None:
    before = host.logits(ids[:1])
    with store.installed(dict.fromkeys(host.units, "W8A8")):
        assert not torch.equal(host.logits(ids[:1]), before)
    assert torch.equal(host.logits(ids[:1]), before)


@pytest.mark.parametrize("name", ["W8A8", "FP8_DYNAMIC", "W4A16_G64", "W4A16_ASYM_G128"])
def test_rounding_error_is_within_half_a_step(name: str) -> None:
    torch.manual_seed(1)
    weight, fmt = torch.randn(32, 128), get_format(name)
    variant = rtn(weight, fmt)
    group = fmt.group_size or 128
    step = variant.scale.float().repeat_interleave(group, 1)
    error = (variant.dequantize(torch.float32) - weight).abs()
    if fmt.weight_type == "int":
        # the scale is rounded to bfloat16 (2^-9 relative), so the largest code may clip by that much
        assert bool((error <= step * (0.5 + 2 ** (fmt.weight_bits - 1) * 2**-8)).all())
    else:
        assert bool((error <= weight.abs() * 2**-3 + step * 2**-9).all())


def test_gptq_beats_rounding_on_the_layer_output(
    host: ModelHost, store: VariantStore, ids: torch.Tensor
) -> None:
    unit = next(u for u in host.units.values() if u.role == "gate_up")
    name, fmt = unit.linears[0].name, get_format("W4A16_G128")
    seen: list[torch.Tensor] = []
    handle = host.linear(name).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    host.logits(ids)
    handle.remove()
    x, original = seen[0].flatten(0, 1), host.original[name]
    error_gptq = (x @ (store.dense(unit.name, fmt.name)[name] - original).t()).square().mean()
    error_rtn = (x @ (rtn(original, fmt).dequantize(torch.float32) - original).t()).square().mean()
    assert error_gptq < error_rtn


def test_activation_rounding_stays_within_one_step() -> None:
    torch.manual_seed(2)
    x = torch.randn(5, 64)
    absmax = x.abs().amax(-1, keepdim=True)
    assert bool(((int8_per_token(x) - x).abs() <= absmax / 127 * 0.5001).all())
    assert bool(((fp8_per_token(x) - x).abs() <= x.abs() * 2**-4 + absmax / 448).all())


def test_kl_is_zero_for_the_original_alone(
    host: ModelHost, store: VariantStore, ids: torch.Tensor, tmp_path: Path
) -> None:
    evaluator = Evaluator(host, store, ids, tmp_path, "search")
    same = evaluator.quality(dict.fromkeys(host.units, "BF16"))
    int4 = evaluator.quality(uniform(host.units.values(), "int4").formats)
    int8 = evaluator.quality(uniform(host.units.values(), "int8").formats)
    assert same.kl == pytest.approx(0, abs=1e-6)
    assert same.top1 == 1.0
    assert int8.kl > 1e-6
    assert int4.kl > 1e-6


def test_perplexity_is_that_of_transformers(
    host: ModelHost, store: VariantStore, ids: torch.Tensor, tmp_path: Path
) -> None:
    quality = Evaluator(host, store, ids, tmp_path, "evaluate").quality({})
    loss = host.model(input_ids=ids, labels=ids).loss
    assert quality.perplexity == pytest.approx(float(loss.exp()), rel=1e-4)


def test_sensitivity_resumes_and_its_signals_rank_alike(
    host: ModelHost, store: VariantStore, ids: torch.Tensor, tmp_path: Path
) -> None:
    log = CellLog(tmp_path / "cells.jsonl")
    measure_kl(host, store, ids, log, emit=lambda _e: None, eight_bit_share=1.0)
    assert len(log.cells) == 3 * len(host.units)
    with log.path.open("a") as file:
        file.write('{"unit": "cut off by a k')
    again = CellLog(log.path)
    assert again.cells == log.cells
    assert measure_kl(host, store, ids, again, emit=lambda _e: None) == 0.0
    fast = measure_fast(host, store, ids, probes=4)
    table = SensitivityTable(
        cells=tuple(
            c.model_copy(update={s: getattr(fast, s)[c.unit, c.format] for s in ("gdy2", "g2dy2", "fisher")})
            for c in log.cells.values()
        ),
        tokens=int(ids.numel()),
        seconds=1.0,
        naive_forwards=48,
        suffix_forwards=30.0,
    )
    assert table.signals() == ("kl", "fisher", "gdy2", "g2dy2", "mse")
    for signal in ("gdy2", "g2dy2", "fisher"):
        correlation = table.rank_correlation("kl", signal)
        assert correlation is not None
        assert correlation > 0.7
    assert table.ratio_of_sums("fisher") == pytest.approx(1.0, abs=0.35)


def test_the_fisher_signal_sums_to_the_kl_of_uniform_int8(
    host: ModelHost, store: VariantStore, ids: torch.Tensor, tmp_path: Path
) -> None:
    plan = uniform(host.units.values(), "int8").formats
    true = Evaluator(host, store, ids, tmp_path, "search").quality(plan).kl
    fast = measure_fast(host, store, ids, probes=8)
    assert sum(fast.fisher[cell] for cell in plan.items()) == pytest.approx(true, rel=0.15)


def test_channels_apart_agree_with_channels_together_and_scatter_less(
    host: ModelHost, store: VariantStore, ids: torch.Tensor
) -> None:
    """Weights alone are rounded: the products of different channels are noise around nothing."""
    cells = [(u.name, f) for u in host.units.values() for f in u.options if f.startswith("W4A16")]
    probed = [measure_fast(host, store, ids, probes=1, seed=seed) for seed in range(6)]
    apart = np.array([[found.g2dy2[c] for c in cells] for found in probed])
    together = np.array([[found.gdy2[c] for c in cells] for found in probed])

    assert apart.mean(0).sum() == pytest.approx(together.mean(0).sum(), rel=0.25)
    scatter = [float(np.median(x.std(0) / x.mean(0))) for x in (apart, together)]
    assert scatter[0] < 0.7 * scatter[1]


def test_sums_of_one_cell_by_hand() -> None:
    """Two probes of one sequence with g dy = (1, 2), (3, -1) by channel at the only position."""
    sums = SignalSums()
    sums.add(("u", "f"), [Projected(torch.tensor([[3.0], [2.0]]), torch.tensor([[5.0], [10.0]]))])
    found = sums.signals(tokens=4.0, probes=2, sequences=1)

    assert found.fisher["u", "f"] == pytest.approx(0.5 * (9 + 4) / 8)
    assert found.gdy2["u", "f"] == pytest.approx(0.5 * (9 + 4) / 8)
    assert found.g2dy2["u", "f"] == pytest.approx(0.5 * (5 + 10) / 8)
    assert found.passes == 2


def test_blend_of_one_signal_keeps_its_order() -> None:
    table = SensitivityTable(
        cells=(
            Cell(unit="a", format="W8A8", sequence_kl=(0.1, 0.2), mse=3.0),
            Cell(unit="b", format="W8A8", sequence_kl=(0.5, 0.3), mse=1.0),
        ),
        tokens=64,
        seconds=1.0,
        naive_forwards=2,
        suffix_forwards=1.0,
    )
    kl_only = blend({"kl": table.scores("kl"), "mse": table.scores("mse")}, {"kl": 1.0, "mse": 0.0}, 1.0)
    assert kl_only["b"]["W8A8"] > kl_only["a"]["W8A8"]


def test_compare_finds_no_difference_in_equal_logits() -> None:
    torch.manual_seed(3)
    logits, ids = torch.randn(2, 8, 16), torch.randint(0, 16, (2, 8))
    losses = compare(logits, torch.log_softmax(logits, -1), ids)
    assert [x.kl for x in losses] == pytest.approx([0, 0], abs=1e-6)
    assert [x.top1 for x in losses] == [1.0, 1.0]


def test_sequences_weigh_as_many_tokens_as_they_count() -> None:
    mean, low, high = paired_difference([1.0, 3.0], [0.0, 0.0], [30, 10])
    assert mean == pytest.approx(1.5)
    assert (low, high) == (1.0, 3.0)
    table = SensitivityTable(
        cells=(Cell(unit="a", format="W8A8", sequence_kl=(1.0, 3.0)),),
        sequence_tokens=(30, 10), tokens=40, seconds=1, naive_forwards=1, suffix_forwards=1,
    )  # fmt: skip
    assert table.scores("kl")["a"]["W8A8"] == pytest.approx(1.5)
    assert table.scores("kl", [1, 1])["a"]["W8A8"] == pytest.approx(3.0)


def test_an_interval_of_few_samples_covers_what_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for draw in range(400):
        values = rng.normal(1.0, 0.3, 6)
        _, low, high = bootstrap(values, seed=draw, resamples=600)
        held += low <= 1.0 <= high
    assert held / 400 > 0.9  # plain percentiles: 0.87


def test_paired_difference_covers_zero_for_equal_samples() -> None:
    mean, low, high = paired_difference([1.0, 2.0, 3.0], [1.1, 1.9, 3.0])
    assert low <= mean <= high
    assert low < 0 < high
