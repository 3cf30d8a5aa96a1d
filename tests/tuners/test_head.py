"""lm_head as a unit of its own, where it is not the embeddings' table."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from profiles.hardware.schema import Device, DeviceKind
from profiles.models import read_model
from profiles.provenance import Figure
from tuners.model.calibrate import build_variants, collect_hessians
from tuners.model.host import ModelHost, model_feed
from tuners.model.variants import VariantStore
from tuners.plan import Unit, UnitLinear, uniform
from tuners.search.prices import depths
from tuners.units import build_units, fixed_bytes, fixed_reasons


def gpu() -> Device:
    return Device(
        kind=DeviceKind.CUDA,
        name="test GPU",
        total_bytes=Figure.exact(80 * 2**30, "B", "test"),
        compute_capability=(9, 0),
    )


def test_an_untied_head_is_the_last_unit_and_a_tied_one_is_explained() -> None:
    untied, tied = (read_model(n, offline=True) for n in ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"))
    units = build_units(untied, gpu(), formats=["all"])
    head = units[-1]
    assert (head.name, head.role, head.block) == ("lm_head", "lm_head", None)
    assert {"W4A16_G128", "W8A8", "W8A16", "FP8_DYNAMIC", "BF16"} <= set(head.options)
    assert "has not been tried" in head.excluded["FP8_BLOCK"]
    assert "has not been tried" in head.excluded["W4A16_ASYM_G128"]

    assert all(u.role != "lm_head" for u in build_units(tied, gpu()))
    assert "tied" in fixed_reasons(tied)["lm_head"]
    assert "lm_head" not in fixed_reasons(untied)
    assert "Triton" in fixed_reasons(untied)["embed"]


def test_a_head_that_may_change_is_not_among_the_fixed_bytes() -> None:
    model = read_model("Qwen/Qwen3-8B", offline=True)
    units = build_units(model, gpu())
    whole = sum(t.nbytes for t in model.tensors)
    assert fixed_bytes(model, units) + sum(u.bytes_as("BF16") for u in units) == whole


def test_uniform_schemes_leave_the_head_alone() -> None:
    units = build_units(read_model("Qwen/Qwen3-8B", offline=True), gpu())
    plan = uniform(units, "int8")
    assert plan.formats["lm_head"] == "BF16"
    assert plan.counts()["W8A8"] == len(units) - 1


def test_a_rounded_head_costs_one_suffix_of_no_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=96, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()

    def unit(name: str, role: str, block: int | None, options: tuple[str, ...]) -> Unit:
        module = model.get_submodule(name)
        linear = UnitLinear(name=name, in_features=module.in_features, out_features=module.out_features)
        return Unit(name=name, role=role, block=block, linears=(linear,), options=options)

    downs = [unit(f"model.layers.{b}.mlp.down_proj", "down", b, ("BF16",)) for b in range(2)]
    head = unit("lm_head", "lm_head", None, ("W8A8", "W4A16_G64", "BF16"))
    host = ModelHost(model, None, [*downs, head])
    ids = torch.arange(48).view(1, 48)
    store = VariantStore(host, tmp_path, 2**26)
    assert build_variants(host, store, ids, emit=lambda _e: None) == 2

    assert (
        float(collect_hessians(host, [head], model_feed(host, ids, 1, head=True))["lm_head"].diagonal().min())
        > 0
    )
    assert host.block_of("lm_head") == 2
    inputs, before = host.capture(ids)
    for fmt in ("W8A8", "W4A16_G64"):
        with store.installed({"lm_head": fmt}):
            full = host.logits(ids)
            assert not torch.equal(full, before)
            assert torch.allclose(full, host.logits_from(2, ids, inputs), atol=1e-5)


def test_the_head_comes_after_the_last_block_not_before_the_first() -> None:
    units = build_units(read_model("Qwen/Qwen3-8B", offline=True), gpu())
    places, last = depths(units)
    assert last == 35
    assert places["lm_head"] == 1.0
    assert {places[u.name] for u in units if u.block == 0} == {0.0}
