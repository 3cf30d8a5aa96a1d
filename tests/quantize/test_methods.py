"""Which method makes which format, as asked on the command line and in plans; no model."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import UsageError
from profiles.formats import get_format
from profiles.formats.menu import MENU
from tests.quantize.models import llama_units, plan_of
from tuners.plan import PrecisionPlan
from tuners.quantize.methods import (
    METHODS,
    NAMES,
    by_format,
    default_method,
    method_of,
    methods_by_unit,
    parse_methods,
    refusal,
)

UNITS = llama_units(2)


def test_every_name_is_described() -> None:
    assert tuple(METHODS) == NAMES


@pytest.mark.parametrize("fmt", [f for f in MENU.values() if f.weight_bits < 16], ids=lambda f: f.name)
def test_the_default_can_make_its_format(fmt: object) -> None:
    known = get_format(fmt.name)  # type: ignore[attr-defined]
    assert refusal(default_method(known), known) is None


def test_a_key_is_a_format_a_beginning_or_a_family() -> None:
    asked = parse_methods(["W4A16=awq", "W4A16_G64=autoround", "int8=rtn", "W8A8=smoothquant"])
    found = {name: method_of(get_format(name), asked) for name in ("W4A16_G32", "W4A16_G64", "W8A16", "W8A8")}
    assert found == {"W4A16_G32": "awq", "W4A16_G64": "autoround", "W8A16": "rtn", "W8A8": "smoothquant"}
    assert method_of(get_format("FP8_DYNAMIC"), asked) == "smoothquant-pow2"


def test_a_method_alone_is_for_what_it_can_make() -> None:
    asked = parse_methods(["awq"])
    assert method_of(get_format("W4A16_ASYM_G64"), asked) == "awq"
    assert method_of(get_format("W8A8"), asked) == "smoothquant-pow2"
    assert method_of(get_format("NVFP4"), asked) == "gptq"


def test_auto_takes_a_choice_back() -> None:
    assert parse_methods(["auto"]) == {}
    assert parse_methods(["W4A16=auto", "W8A8=rtn"]) == {"W8A8": "rtn"}


@pytest.mark.parametrize(
    ("token", "what", "allowed"),
    [
        ("W4A16=awk", "unknown method 'awk'", "awq"),
        ("smothquant", "unknown method 'smothquant'", "smoothquant"),
        ("W4A15=awq", "no format is called 'W4A15'", "W4A16"),
        ("W8A8=awq", "awq cannot make W8A8", "smoothquant"),
        ("W4A16=smoothquant", "smoothquant cannot make W4A16", "autoround"),
        ("W4A16_ASYM_G64=autoround", "autoround cannot make W4A16_ASYM_G64", "awq-gptq"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(token: str, what: str, allowed: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        parse_methods([token])
    assert caught.value.allowed is not None
    assert allowed in caught.value.allowed


def test_the_plans_own_method_of_a_unit_comes_first() -> None:
    plan = plan_of(UNITS, "W4A16_G32", "W8A8")
    first = UNITS[0].name
    chosen = plan.model_copy(update={"methods": {first: "awq"}})
    found = methods_by_unit(UNITS, chosen, {"*": "rtn"})
    assert found[first] == "awq"
    assert set(found.values()) == {"awq", "rtn"}
    assert by_format(chosen, found) == {"W4A16_G32": "awq + rtn", "W8A8": "rtn"}


def test_another_method_is_another_plan() -> None:
    plan = plan_of(UNITS, "W4A16_G32")
    assert plan.model_copy(update={"methods": {UNITS[0].name: "awq"}}).key != plan.key


@pytest.mark.parametrize(
    ("methods", "what"),
    [
        ({"model.layers.7.mlp.down_proj": "awq"}, "does not have"),
        ({UNITS[0].name: "awg"}, "unknown method"),
        ({UNITS[1].name: "awq"}, "awq cannot make W8A8"),
    ],
)
def test_a_plan_with_a_wrong_method_is_refused(methods: dict[str, str], what: str) -> None:
    plan = plan_of(UNITS, "W4A16_G32", "W8A8").model_copy(update={"methods": methods})
    with pytest.raises(UsageError, match=what):
        methods_by_unit(UNITS, plan, {})


@given(st.dictionaries(st.sampled_from(["*", "W4A16", "int8", "W8A8", "fp8"]), st.sampled_from(NAMES)))
def test_what_is_taken_can_always_make_the_format(asked: dict[str, str]) -> None:
    for fmt in MENU.values():
        if fmt.weight_bits < 16:
            assert refusal(method_of(fmt, asked), fmt) is None


def test_a_plan_without_methods_reads_and_keeps_its_key(tmp_path: Path) -> None:
    plan = PrecisionPlan(formats={"a": "W8A8"})
    text = plan.to_yaml().replace("methods: {}\n", "")
    path = tmp_path / "plan.yaml"
    path.write_text(text)

    assert "methods" not in text
    assert PrecisionPlan.from_yaml(path).key == plan.key == "dc71cc3f6904f73c"
