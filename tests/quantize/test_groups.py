"""Plan to config groups: exact names, one group per format, nothing lost."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given

from profiles.errors import UsageError
from profiles.formats import MENU
from tests.quantize.models import llama_units, plan_of, unit, units_and_plan
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize import config_groups, module_names, quantization_config, scheme_of


@given(units_and_plan())
def test_every_linear_is_in_its_group_or_ignored_exactly_once(
    case: tuple[tuple[Unit, ...], PrecisionPlan],
) -> None:
    units, plan = case
    config = quantization_config(units, plan)
    placed = [t for g in config["config_groups"].values() for t in g["targets"]] + config["ignore"]

    assert sorted(placed) == sorted([*plan.by_linear(units), "lm_head"])
    for name, group in config["config_groups"].items():
        assert {plan.by_linear(units)[t] for t in group["targets"]} == {name}


def test_formats_of_several_kinds_make_a_mixed_checkpoint_and_one_kind_names_itself() -> None:
    units = llama_units(2)

    assert quantization_config(units, plan_of(units, "W8A8", "W4A16_G32"))["format"] == "mixed-precision"
    assert quantization_config(units, plan_of(units, "W4A16_G32", "W4A16_G64"))["format"] == "pack-quantized"


def test_scheme_of_each_format_has_its_bits_and_grain() -> None:
    assert scheme_of(MENU["W4A16_G64"]) == {
        "weights": {
            "num_bits": 4,
            "type": "int",
            "symmetric": True,
            "dynamic": False,
            "strategy": "group",
            "group_size": 64,
        },
        "input_activations": None,
    }
    assert scheme_of(MENU["FP8_BLOCK"])["weights"]["block_structure"] == [128, 128]
    assert scheme_of(MENU["W8A8"])["input_activations"]["strategy"] == "token"
    assert scheme_of(MENU["NVFP4"])["weights"]["strategy"] == "tensor_group"


def test_only_16_bit_scales_are_rounded_while_calibrating_in_float32() -> None:
    groups = config_groups(
        llama_units(1), plan_of(llama_units(1), "W8A8", "NVFP4", "BF16"), scale_dtype="torch.bfloat16"
    )

    assert groups["W8A8"]["weights"]["scale_dtype"] == "torch.bfloat16"
    assert groups["NVFP4"]["weights"]["scale_dtype"] == "torch.float8_e4m3fn"


def test_a_plan_without_anything_to_quantize_is_refused() -> None:
    units = llama_units(1)
    with pytest.raises(UsageError, match="nothing to quantize"):
        quantization_config(units, plan_of(units, "BF16"))


def test_a_plan_of_another_model_is_refused_with_the_unit_named() -> None:
    small, large = llama_units(1), llama_units(2)
    with pytest.raises(UsageError, match=r"gives no format for model\.layers\.1\."):
        config_groups(large, plan_of(small, "W8A8"))
    with pytest.raises(UsageError, match=r"names model\.layers\.1\..*, which the model does not have"):
        config_groups(small, plan_of(large, "W8A8"))


def test_identical_experts_are_spelled_out_one_by_one() -> None:
    experts = unit("m.experts", "expert_down", 0, {"m.experts.0.down_proj": (128, 64)}, copies=3)

    assert module_names(experts.linears[0]) == tuple(f"m.experts.{i}.down_proj" for i in range(3))
    with pytest.raises(UsageError, match="no expert index"):
        module_names(unit("m.x", "o", 0, {"m.x": (8, 8)}, copies=2).linears[0])


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, tuners.quantize, tuners.quantize.job; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
