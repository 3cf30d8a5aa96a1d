"""Input scales: the fold is exact and tried first, outliers stop hurting, and the store remembers them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from profiles.formats import get_format
from tests.tuners.conftest import sentences
from tuners.model import smoothing
from tuners.model.calibrate import build_variants
from tuners.model.host import ModelHost, model_feed
from tuners.model.inputs import rounding
from tuners.model.variants import VariantStore, rtn
from tuners.plan import Unit

OUTLIERS = 64.0


@pytest.fixture
def host(tiny_model_dir: Path, tiny_units: list[Unit]) -> ModelHost:
    """A fresh model: these tests change it."""
    return ModelHost.load(tiny_model_dir, tiny_units)


@pytest.fixture
def ids(host: ModelHost) -> Tensor:
    return host.tokenise(sentences(60, 2), seq_len=32, max_sequences=16)


def with_outliers(host: ModelHost) -> None:
    """Some channels of every norm grow, the weights that read them shrink: the model computes the same, but
    its activations now have the outliers that large models have."""
    scale = torch.ones(128)
    scale[::37] = 1 / OUTLIERS
    for unit in host.units.values():
        if unit.role in smoothing.NORM_BEFORE:
            producer = smoothing.absorber(host, unit)
            assert producer is not None
            smoothing.fold(host, unit, producer, scale)
    host.original = {name: host.linear(name).weight.data for name in host.original}


def test_a_fold_changes_no_logit_and_loses_no_bit(host: ModelHost, ids: Tensor) -> None:
    before = host.logits(ids[:2])
    found = smoothing.absorbers(host, list(host.units.values()))
    assert {host.units[n].role for n in found} == {"qkv", "o", "gate_up", "down"}
    for name, producer in found.items():
        unit = host.units[name]
        scale = producer.tie(torch.exp2(torch.randint(-3, 4, (unit.linears[0].in_features,)).float()))
        smoothing.fold(host, unit, producer, smoothing.power_of_two(scale, producer))

    assert torch.allclose(host.logits(ids[:2]), before, atol=1e-4)
    for parameter in host.model.parameters():  # the checkpoint's weights are bfloat16: still representable
        assert torch.equal(parameter.data.to(torch.bfloat16).float(), parameter.data)


def test_heads_that_share_a_kv_head_share_their_scales() -> None:
    producer = smoothing.Absorber("v_proj", (2, 3, 4))
    tied = producer.tie(torch.exp2(torch.arange(24).float()))

    assert torch.equal(tied.view(2, 3, 4)[:, 0], tied.view(2, 3, 4)[:, 2])
    assert torch.equal(producer.rows(tied).view(2, 4), tied.view(2, 3, 4)[:, 1])


class OffsetNorm(nn.Module):
    """A norm that multiplies by one plus its weight, as Gemma's does: dividing the weight is not enough."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(norm.weight).data - 1, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


def test_a_role_whose_fold_would_change_the_model_is_left_alone(host: ModelHost, ids: Tensor) -> None:
    for block in host.blocks:
        block.input_layernorm = OffsetNorm(block.input_layernorm)
    before = host.logits(ids[:1])
    found = smoothing.absorbers(host, list(host.units.values()))

    assert {host.units[n].role for n in found} == {"o", "gate_up", "down"}
    assert torch.equal(host.logits(ids[:1]), before)


def test_outliers_cost_int8_a_tenth_with_a_scale(host: ModelHost, ids: Tensor) -> None:
    with_outliers(host)
    unit = host.units["model.layers.1.self_attn.qkv_proj"]
    producer = smoothing.absorber(host, unit)
    assert producer is not None
    rows = smoothing.collect_rows(host, [unit], model_feed(host, ids, 4))[unit.name]
    weights, fmt = [host.original[m.name] for m in unit.linears], get_format("W8A8")
    round_input = rounding(fmt.activations)
    assert round_input is not None

    def rounded(w: Tensor) -> Tensor:
        return rtn(w, fmt).dequantize(torch.float32)

    scale = smoothing.best_scale(rows, weights, producer, rounded, round_input)
    assert scale is not None
    exact = rows @ torch.cat(weights).t()
    plain = (round_input(rows) @ torch.cat([rounded(w) for w in weights]).t() - exact).square().mean()
    scaled = torch.cat([rounded(w * scale) for w in weights])
    better = (round_input(rows / scale) @ scaled.t() - exact).square().mean()
    assert float(better) < 0.1 * float(plain)


@pytest.fixture
def store(host: ModelHost, ids: Tensor, tmp_path: Path) -> VariantStore:
    with_outliers(host)
    made = VariantStore(host, tmp_path / "variants", 2**30)
    build_variants(host, made, ids, emit=lambda _e: None)
    return made


def test_what_is_searched_is_what_a_folded_model_computes(
    host: ModelHost, store: VariantStore, ids: Tensor
) -> None:
    unit = host.units["model.layers.2.self_attn.qkv_proj"]
    scale = store.input_scale(unit.name, "W8A8")
    assert scale is not None
    with store.installed({unit.name: "W8A8"}):
        searched = host.logits(ids[:1])

    producer = smoothing.absorber(host, unit)
    assert producer is not None
    smoothing.fold(host, unit, producer, scale)
    fmt = get_format("W8A8")
    round_input = rounding(fmt.activations)
    assert round_input is not None
    for linear in unit.linears:
        module = host.linear(linear.name)
        codes = store.codes(unit.name, "W8A8")[linear.name]
        assert torch.equal(codes.codes, rtn(module.weight.data, fmt).codes)
        module.weight.data = codes.dequantize(torch.float32)
        module.register_forward_pre_hook(lambda _m, args: (round_input(args[0]),))
    assert torch.allclose(host.logits(ids[:1]), searched, atol=1e-4)


def test_scales_are_kept_in_one_file(store: VariantStore, tmp_path: Path) -> None:
    path = tmp_path / "input_scales.npz"
    store.save_input_scales(path)
    with np.load(path) as file:
        stored = {key: smoothing.from_exponents(torch.from_numpy(file[key])) for key in file.files}

    assert "model.layers.1.self_attn.qkv_proj--W8A8" in stored
    for key, scale in stored.items():
        unit, _, fmt = key.partition("--")
        assert torch.equal(scale, store.input_scale(unit, fmt))
    again = VariantStore(store.host, store.folder, 2**30)
    assert torch.equal(again.input_scale("model.layers.1.self_attn.qkv_proj", "W8A8"), stored[
        "model.layers.1.self_attn.qkv_proj--W8A8"
    ])  # fmt: skip
