"""`advisor compare`: models, formats, devices and plans side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiles.footprint.schema import Footprint
from tuners.plan import uniform
from tuners.units import build_units

Cli = Callable[..., tuple[int, str, str]]
CliJson = Callable[..., Any]


def test_two_models_line_by_line(cli: Cli, cli_json: CliJson) -> None:
    pair = ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B", "--gpu", "rtx-4090", "--context", "8192")
    answer = cli_json("compare", *pair)
    large, small = (Footprint.model_validate(s["footprint"]) for s in answer["sides"])
    assert [s["name"] for s in answer["sides"]] == ["Qwen3-8B", "Qwen3-0.6B"]
    assert large.weights.value > 10 * small.weights.value
    rows = {d["figure"]: d for d in answer["differences"]}
    assert rows["weights"]["best"] == "Qwen3-0.6B"
    assert rows["weights"]["ratio"] == pytest.approx(large.weights.value / small.weights.value)
    assert rows["decode_tokens_s"]["best"] == "Qwen3-0.6B"
    code, out, _ = cli("compare", *pair)
    assert code == 0
    assert "weights, per rank: less in Qwen3-0.6B than in Qwen3-8B" in out
    assert "~" in out


def test_one_model_on_two_devices_in_two_formats(cli_json: CliJson) -> None:
    answer = cli_json(
        "compare", "Qwen/Qwen3-8B", "--gpu", "rtx-4090", "--gpu", "h100",
        "--format", "int8", "--format", "int4",
    )  # fmt: skip
    assert [s["name"] for s in answer["sides"]] == [
        "int8, RTX 4090", "int4, RTX 4090", "int8, H100 80GB HBM3", "int4, H100 80GB HBM3",
    ]  # fmt: skip
    faster = next(d for d in answer["differences"] if d["figure"] == "decode_tokens_s")
    assert (faster["best"], faster["worst"]) == ("int4, H100 80GB HBM3", "int8, RTX 4090")


def test_it_agrees_with_fit(cli_json: CliJson, tiny: Path) -> None:
    here = ("--gpu", "rtx-4090", "--context", "256")
    sides = cli_json("compare", tiny, *here, "--format", "int8", "--format", "int4")["sides"]
    plans = cli_json("fit", tiny, *here)["plans"]
    for side, label in zip(sides, ("uniform int8", "uniform int4"), strict=True):
        assert side["footprint"]["kv_bytes"] == plans[label]["kv_bytes"]
        assert side["footprint"]["itl_ms"] == plans[label]["itl_ms"]


def test_two_plans_of_one_model(cli: Cli, cli_json: CliJson, tiny: Path, tmp_path: Path) -> None:
    from profiles.hardware import planned
    from profiles.models import read_model

    units = build_units(read_model(str(tiny)), planned("rtx-4090", 1).device)
    files = []
    for family in ("int8", "int4"):
        files.append(tmp_path / f"{family}.yaml")
        files[-1].write_text(uniform(units, family, label=f"all {family}").to_yaml())
    answer = cli_json("compare", *files, "--model", tiny, "--gpu", "rtx-4090")
    assert [s["name"] for s in answer["sides"]] == ["all int8", "all int4"]
    eight, four = (s["footprint"]["weights"]["value"] for s in answer["sides"])
    assert four < eight

    for other in ("Qwen/Qwen3-0.6B", "microsoft/Phi-3-mini-4k-instruct"):  # more layers, other names
        code, _, err = cli("compare", *files, "--model", other, "--gpu", "h100")
        assert code == 2
        assert "another model" in err


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ((), "two sides"),
        (("Qwen/Qwen3-8B",), "two sides"),
        (("Qwen/Qwen3-8B", "a.yaml"), "--model"),
        (("Qwen/Qwen3-8B", "nobody/nothing"), "catalogue"),
        (("Qwen/Qwen3-8B", "--format", "int4", "--format", "int3"), "int3"),
        (("Qwen/Qwen3-8B", "--gpu", "h100", "--gpu", "zx81"), "zx81"),
        (("Qwen/Qwen3-8B",) * 7, "too many"),
    ],
)
def test_wrong_questions_are_refused(cli: Cli, tokens: tuple[str, ...], words: str) -> None:
    code, out, err = cli("compare", *tokens)
    assert code in (2, 3)
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_nothing_that_fits_is_exit_1(cli: Cli) -> None:
    code, out, _ = cli("compare", "Qwen/Qwen2.5-72B-Instruct", "--gpu", "rtx-3060", "--gpu", "rtx-4060")
    assert code == 1
    assert "does not fit" in out
