"""Gates of behaviour: the quantized checkpoint against the original, in the same engine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.validate.examples import cpu_device, measurement, plan, predictions, units
from tuners.validate.behaviour import behaviour_gates, load_lines
from tuners.validate.report import compare
from tuners.validate.schema import EngineChecks, LoadPoint


def checks(**changes: Any) -> EngineChecks:
    facts: dict[str, Any] = {
        "asked_twice": 6, "same_answers": 6, "asked_to_stop": 3, "stopped": 2, "leaked": 0,
        "chat_template_sha256": "aa", "long_tokens": 2048, "long_ok": True,
    }  # fmt: skip
    return EngineChecks.model_validate(facts | changes)


def failed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    gates = behaviour_gates(
        measurement(quantized=False, checks=checks(**before)), measurement(checks=checks(**after))
    )
    return [g.name for g in gates if not g.passed]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, []),
        ({}, {"same_answers": 5}, ["same answer twice"]),
        ({"same_answers": 5}, {"same_answers": 5}, []),  # the engine itself is not repeatable here
        ({}, {"stopped": 0}, ["chat template and stop token"]),
        ({"stopped": 0}, {"stopped": 0}, []),  # a base model never stops
        ({}, {"stopped": 1}, []),
        ({}, {"chat_template_sha256": None}, ["chat template and stop token"]),
        ({}, {"leaked": 1}, ["chat template and stop token"]),
        ({}, {"long_ok": False}, ["long prompt"]),
    ],
)
def test_worse_than_the_original_fails(
    before: dict[str, Any], after: dict[str, Any], expected: list[str]
) -> None:
    assert failed(before, after) == expected


def test_what_was_not_measured_has_no_gate() -> None:
    assert list(behaviour_gates(measurement(quantized=False), measurement())) == []
    half = behaviour_gates(measurement(quantized=False, checks=checks()), measurement())
    assert list(half) == []


def test_the_report_has_them_and_they_decide() -> None:
    def passed(**after: Any) -> bool:
        report = compare(
            measurement(quantized=False, checks=checks()), measurement(checks=checks(**after)), plan=plan(),
            units=units(), device=cpu_device(), predicted=predictions(), floor=1.05,
        )  # fmt: skip
        assert {"same answer twice", "long prompt"} <= {g.name for g in report.gates}
        return report.passed

    assert passed()
    assert not passed(long_ok=False)


def test_load_is_told_beside_the_original() -> None:
    def point(n: int, scale: float = 1.0) -> LoadPoint:
        return LoadPoint(concurrency=n, ttft_ms=10 * n * scale, itl_ms=5 * scale, output_tokens_s=100 / scale)

    lines = list(
        load_lines(
            measurement(quantized=False, load=(point(1), point(4))),
            measurement(load=(point(1, 2), point(4, 2), point(16, 2))),
        )
    )
    assert [x.name for x in lines][:3] == [f"{x}, 1 request at once" for x in ("TTFT", "ITL", "output")]
    assert len(lines) == 6  # sixteen at once has no counterpart
    assert lines[0].note == "original 10, 2.00 times it"
    assert all(x.ok is None for x in lines)
