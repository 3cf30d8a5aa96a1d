"""The engine's matching, simulated: what groups.py emits passes, sabotaged configurations do not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import UsageError
from tests.quantize.models import FORMATS, llama_units, plan_of, unit, units_and_plan
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize import check, find_problems, quantization_config
from tuners.quantize.matching import find_matched_target, should_ignore_layer

QKV = "model.layers.1.self_attn.qkv_proj"


def broken_units(config: dict[str, Any], units: tuple[Unit, ...], plan: PrecisionPlan) -> set[str]:
    """Names of the units that preflight complains about."""
    return {p.unit for p in find_problems(config, units, plan)}


@given(units_and_plan())
def test_every_emitted_configuration_loads_as_planned(case: tuple[tuple[Unit, ...], PrecisionPlan]) -> None:
    units, plan = case
    assert find_problems(quantization_config(units, plan), units, plan) == ()


@given(units_and_plan(), st.data())
def test_one_changed_format_is_found_at_exactly_that_unit(
    case: tuple[tuple[Unit, ...], PrecisionPlan], data: st.DataObject
) -> None:
    units, plan = case
    config = quantization_config(units, plan)
    victim = data.draw(st.sampled_from(units))
    other = data.draw(st.sampled_from([f for f in FORMATS if f != plan.formats[victim.name]]))
    changed = plan.model_copy(update={"formats": {**plan.formats, victim.name: other}})

    assert broken_units(config, units, changed) == {victim.name}


@given(units_and_plan(), st.data())
def test_a_shard_moved_to_another_group_is_found(
    case: tuple[tuple[Unit, ...], PrecisionPlan], data: st.DataObject
) -> None:
    """The engine would take the first shard's scheme without a word."""
    units, plan = case
    fused = [u for u in units if len(u.linears) > 1 and plan.formats[u.name] != "BF16"]
    config = quantization_config(units, plan)
    if not fused or len(config["config_groups"]) < 2:
        return
    victim = data.draw(st.sampled_from(fused))
    shard = data.draw(st.sampled_from(victim.linears)).name
    home = config["config_groups"][plan.formats[victim.name]]
    away = data.draw(st.sampled_from([g for g in config["config_groups"].values() if g is not home]))
    home["targets"].remove(shard)
    away["targets"].append(shard)

    assert broken_units(config, units, plan) == {victim.name}


def test_a_partly_ignored_fused_layer_is_refused() -> None:
    units = llama_units(2)
    plan = plan_of(units, "W8A8")
    config = quantization_config(units, plan)
    config["ignore"].append("model.layers.1.self_attn.k_proj")

    with pytest.raises(UsageError, match=r"would not load model\.layers\.1\.self_attn\.qkv_proj") as caught:
        check(config, units, plan)
    assert "k_proj" in (caught.value.got or "")


def test_a_pattern_for_layer_1_also_takes_layers_10_and_11() -> None:
    units = llama_units(12)
    plan = plan_of(units, "W8A8").model_copy(
        update={"formats": {u.name: "W4A16_G32" if u.block == 1 else "W8A8" for u in units}}
    )
    config = quantization_config(units, plan)
    assert find_problems(config, units, plan) == ()
    int4 = config["config_groups"].pop("W4A16_G32")
    config["config_groups"] = {
        "int4": {**int4, "targets": [r"re:model\.layers\.1.*"]},
        **config["config_groups"],
    }

    blocks = {int(name.split(".")[2]) for name in broken_units(config, units, plan)}
    assert blocks == {10, 11}


def test_a_class_target_takes_what_the_plan_keeps_at_16_bit() -> None:
    units = llama_units(2)
    plan = plan_of(units, "W8A8", "BF16")
    config = quantization_config(units, plan)
    config["config_groups"]["W8A8"]["targets"] = ["Linear"]
    config["ignore"] = []

    kept = {u.name for u in units if plan.formats[u.name] == "BF16"}
    assert kept <= broken_units(config, units, plan)


def test_a_target_on_lm_head_is_found() -> None:
    units = llama_units(1)
    plan = plan_of(units, "W8A8")
    config = quantization_config(units, plan)
    config["config_groups"]["W8A8"]["targets"].append("lm_head")
    config["ignore"].remove("lm_head")

    assert broken_units(config, units, plan) == {"lm_head"}


def test_group_activation_ordering_is_refused() -> None:
    units = llama_units(1)
    plan = plan_of(units, "W4A16_G32")
    config = quantization_config(units, plan)
    config["config_groups"]["W4A16_G32"]["weights"]["actorder"] = "group"

    assert broken_units(config, units, plan) == {u.name for u in units}


@pytest.mark.parametrize(
    ("fmt", "hidden", "word"),
    [
        ("W4A16_G128", 192, "group_size 128 does not divide in_features 192"),
        ("NVFP4", 120, "group_size 16 does not divide in_features 120"),
        ("FP8_BLOCK", 192, "blocks of 128 do not divide in_features 192"),
        ("W8A16", 126, "does not fill int32 words"),
    ],
)
def test_shapes_that_a_format_cannot_store_are_refused(fmt: str, hidden: int, word: str) -> None:
    units = (unit("m.o_proj", "o", 0, {"m.o_proj": (64, hidden)}),)
    with pytest.raises(UsageError) as caught:
        check(quantization_config(units, plan_of(units, fmt)), units, plan_of(units, fmt))
    assert word in str(caught.value)


def test_fp8_blocks_may_end_in_the_last_shard_only() -> None:
    good = (unit("m.qkv_proj", "qkv", 0, {"m.q_proj": (256, 128), "m.v_proj": (64, 128)}),)
    bad = (unit("m.qkv_proj", "qkv", 0, {"m.q_proj": (192, 128), "m.v_proj": (128, 128)}),)

    assert (
        find_problems(quantization_config(good, plan_of(good, "FP8_BLOCK")), good, plan_of(good, "FP8_BLOCK"))
        == ()
    )
    assert (
        "m.q_proj"
        in find_problems(quantization_config(bad, plan_of(bad, "FP8_BLOCK")), bad, plan_of(bad, "FP8_BLOCK"))[
            0
        ].reason
    )


def test_every_expert_is_looked_at_not_only_the_first() -> None:
    units = (unit("m.experts", "expert_down", 0, {"m.experts.0.down_proj": (128, 64)}, copies=4),)
    plan = plan_of(units, "W8A8")
    config = quantization_config(units, plan)
    assert find_problems(config, units, plan) == ()
    config["config_groups"]["W8A8"]["targets"].remove("m.experts.3.down_proj")

    assert broken_units(config, units, plan) == {"m.experts"}


def test_names_that_the_engine_renames_are_followed() -> None:
    """Multimodal checkpoints: `model.language_model.` on disk, `language_model.model.` in the engine."""
    disk, engine = "model.language_model.layers.0.mlp", "language_model.model.layers.0.mlp"
    shapes = {f"{disk}.gate_proj": (128, 64), f"{disk}.up_proj": (128, 64)}
    units = (unit(f"{engine}.gate_up_proj", "gate_up", 0, shapes),)
    plan = plan_of(units, "W8A8")

    assert find_problems(quantization_config(units, plan), units, plan) == ()


def test_a_bad_pattern_is_a_usage_error() -> None:
    units = llama_units(1)
    plan = plan_of(units, "W8A8")
    config = copy.deepcopy(quantization_config(units, plan))
    config["ignore"].append("re:(")
    with pytest.raises(UsageError, match="not a regular expression"):
        check(config, units, plan)


PATTERNS = (
    "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj", "model.layers.1.self_attn.v_proj",
    QKV, "re:.*q_proj", "re:.*self_attn.*", "re:.*layers.1.*k_proj", "Linear", "re:model.layers.10.*",
)  # fmt: skip


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_the_rules_agree_with_the_engines_own() -> None:
    utils = pytest.importorskip("vllm.model_executor.layers.quantization.compressed_tensors.utils")
    packed = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}

    class QKVParallelLinear:
        pass

    @given(
        st.lists(st.sampled_from(PATTERNS), unique=True),
        st.sampled_from([QKV, "model.layers.10.mlp.down_proj"]),
    )
    def agree(patterns: list[str], layer: str) -> None:
        ours = find_matched_target(layer, "QKVParallelLinear", patterns, packed)
        assert ours == utils.find_matched_target(layer, QKVParallelLinear(), patterns, packed)
        try:
            theirs: object = utils.should_ignore_layer(layer, patterns, packed)
        except ValueError:
            theirs = ValueError
        try:
            mine: object = should_ignore_layer(layer, patterns, packed)
        except ValueError:
            mine = ValueError
        assert mine == theirs

    agree()
