"""Expected costs: innovations are honest predictions, costs agree with what rounding and GPTQ really do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.formats import get_format
from tuners.model import inputs, smoothing
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore, gptq, rtn
from tuners.sensitivity import expected
from tuners.sensitivity.expected import Layer, innovations, likely_scale, weight_cost
from tuners.sensitivity.fast import measure_fast
from tuners.sensitivity.quick import RoundedStore, quick_scores
from tuners.sensitivity.stopping import rank_correlation

INT4, INT8 = get_format("W4A16_G64"), get_format("W8A8")


def correlated(tokens: int, width: int, seed: int, rank: int = 12) -> torch.Tensor:
    """Inputs that a few directions explain for the most part, of unequal power."""
    rng = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, rank, generator=rng) @ torch.randn(rank, width, generator=rng)
    power = torch.linspace(0.3, 2.0, width)
    return (mixed + 0.5 * torch.randn(tokens, width, generator=rng)) * power


@settings(deadline=None, max_examples=20)
@given(tokens=st.integers(8, 40), width=st.integers(2, 30), damping=st.sampled_from([0.03, 0.1, 1.0]))
def test_innovations_are_leave_one_out_predictions_from_the_weaker_columns(
    tokens: int, width: int, damping: float
) -> None:
    """Against one ridge regression for every token and column, in double precision."""
    x = correlated(tokens, width, seed=tokens * 100 + width).double()
    found = innovations(x.float(), damping).double()
    power = x.square().mean(0)
    order = power.argsort()
    ridge = tokens * damping * float(power.mean())
    for place in (0, width // 2, width - 1):
        column, before = order[place], order[:place]
        for token in (0, tokens - 1):
            others = torch.arange(tokens) != token
            seen = x[others][:, before]
            gram = seen.T @ seen + ridge * torch.eye(place, dtype=torch.float64)
            guess = x[token, before] @ torch.linalg.solve(gram, seen.T @ x[others, column])
            assert float(found[column, token]) == pytest.approx(float(x[token, column] - guess), abs=1e-3)


def test_innovations_do_not_depend_on_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated(50, 96, seed=1)
    whole = innovations(x)
    monkeypatch.setattr(expected, "BLOCK", 20)
    assert torch.allclose(innovations(x), whole, atol=1e-3 * float(x.abs().max()))


def test_inputs_of_zeros_cost_nothing() -> None:
    zeros = torch.zeros(6, 64)
    assert bool((innovations(zeros) == 0).all())
    weight = torch.randn(8, 64)
    assert weight_cost(weight, INT4, zeros.t(), torch.ones(6, 8), zeros.mean(0)) == 0.0


@pytest.mark.parametrize("name", ["W4A16_G64", "W4A16_ASYM_G64", "W8A8", "FP8_DYNAMIC", "NVFP4A16", "MXFP4"])
def test_the_cost_of_weights_is_what_rounding_does_on_average(name: str) -> None:
    torch.manual_seed(3)
    fmt = get_format(name)
    weight, x, g = torch.randn(96, 128), torch.randn(64, 128), torch.randn(64, 96)
    change = x @ (rtn(weight, fmt).dequantize(torch.float32) - weight).t()
    true = float((g * change).square().sum())
    found = weight_cost(weight, fmt, x.t().square(), g.square(), x.square().mean(0))
    assert found == pytest.approx(true, rel=0.1)


def test_a_massive_input_meets_the_errors_of_its_own_column() -> None:
    """What rounding does to that column decides; its errors on average are twice what they are."""
    torch.manual_seed(4)
    weight, x, g = torch.randn(64, 128), torch.randn(64, 128), torch.randn(64, 64)
    x[:, 7] *= 100
    weight[:, 7] = 5.0 * weight[:, 7].sign()
    change = x @ (rtn(weight, INT8).dequantize(torch.float32) - weight).t()
    true = float((g * change).square().sum())
    influence, moments = g.square(), x.square().mean(0)
    assert weight_cost(weight, INT8, x.t().square(), influence, moments) == pytest.approx(true, rel=0.15)

    step = rtn(weight, INT8).scale.float()
    blind = float((influence.t() @ x.square().sum(1, keepdim=True) * step.square() / 12).sum())
    assert blind > 1.5 * true


def test_gptq_loses_what_the_innovations_say() -> None:
    """Correlated inputs: a sixth of rounding to nearest, foreseen from a tenth of the calibration tokens."""
    x = correlated(2400, 128, seed=5)
    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(6))
    fit, few = x[:2000], x[2000:2200]
    hessian = 2 / len(fit) * fit.t() @ fit
    made = gptq([weight], [hessian], get_format("W4A16_G128"), 0.01)[0].dequantize(torch.float32)
    plain = rtn(weight, get_format("W4A16_G128")).dequantize(torch.float32)
    real, nearest = (float((few @ (w - weight).t()).square().sum()) for w in (made, plain))
    moments, ones = few.square().mean(0), torch.ones(len(few), 96)
    fmt = get_format("W4A16_G128")
    foreseen = weight_cost(weight, fmt, innovations(few, 0.1).square(), ones, moments)
    assert real < 0.35 * nearest
    assert 0.5 < foreseen / real < 2.5
    assert weight_cost(weight, fmt, few.t().square(), ones, moments) > 3 * real


def test_outliers_of_the_inputs_get_a_scale_and_even_ones_none() -> None:
    torch.manual_seed(7)
    weight, x = torch.randn(64, 128), torch.randn(64, 128)
    fmt, rounded = INT8, inputs.int8_per_token
    producer = smoothing.Absorber("norm")
    grads = [torch.randn(64, 1, 64)]
    assert likely_scale(Layer([weight], x, grads), producer, fmt, rounded) is None
    x[:, [3, 90]] *= 60
    found = likely_scale(Layer([weight], x, grads), producer, fmt, rounded)
    chosen = smoothing.best_scale(
        x, [weight], producer, lambda w: rtn(w, fmt).dequantize(torch.float32), rounded
    )
    assert found is not None
    assert chosen is not None
    assert float((found.log2() - chosen.log2()).abs().mean()) < 1.0


def test_quick_scores_rank_units_as_the_stored_variants_do_and_write_nothing(
    host: ModelHost, store: VariantStore, ids: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {n: p.detach().clone() for n, p in host.model.named_parameters()}
    ticks: list[tuple[int, int]] = []
    cells = quick_scores(
        host, RoundedStore(host, ids[:4], 2**20), ids[:4], progress=lambda *t: ticks.append(t)
    )
    full = measure_fast(host, store, ids, probes=4)
    assert set(cells) == set(full.g2dy2)
    for fmt in ("W8A8", "W4A16_G64", "W4A16_G128"):
        units = [k for k in cells if k[1] == fmt]
        if len(units) > 3:
            true = full.gdy2 if fmt == "W8A8" else full.g2dy2
            assert rank_correlation([cells[k] for k in units], [true[k] for k in units]) > 0.6
            level = sum(cells[k] for k in units) / sum(true[k] for k in units)
            most = 3 if fmt == "W8A8" else 10  # few tokens foresee little of what GPTQ saves
            assert 1 / 3 < level < most
    assert ticks[-1] == (4 + len(host.units), 4 + len(host.units))
    assert all(torch.equal(before[n], p) for n, p in host.model.named_parameters())
    assert not list(tmp_path.iterdir())


def test_sequences_side_by_side_give_the_same(
    host: ModelHost, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded = RoundedStore(host, ids[:4], 2**20)
    abreast = quick_scores(host, rounded, ids[:4])
    monkeypatch.setattr("tuners.sensitivity.quick.PASS_TOKENS", 1)
    assert quick_scores(host, rounded, ids[:4]) == pytest.approx(abreast, rel=1e-2)
