"""rules.yaml as checked objects; every reader of the framework's data comes through here."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Self

from pydantic import model_validator
from ruamel.yaml import YAML

from advisor.recommend.schema import KvRule, Method, Option, ReferenceRow, Rule, TierName
from profiles.provenance import Contract, Figure


class Tier(Contract):
    """A level of precedence, and why it comes before the next."""

    name: TierName
    why: str


class CalibrationSamples(Contract):
    """How many samples calibration takes."""

    low: int
    high: int
    source: str


class RuleBook(Contract):
    """The whole framework."""

    tiers: tuple[Tier, ...]
    options: tuple[Option, ...]
    calibration_samples: CalibrationSamples
    rules: tuple[Rule, ...]
    kv_rules: tuple[KvRule, ...]
    reference: tuple[ReferenceRow, ...]
    methods: tuple[Method, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for rule in self.rules:
            for selector in (*rule.avoid, *(s for group in rule.prefer for s in group)):
                if not any(selects(selector, option) for option in self.options):
                    raise ValueError(f"rule {rule.id}: selector {selector!r} names no option")
        if len({r.id for r in self.rules}) != len(self.rules):
            raise ValueError("two rules share an id")
        return self

    def why(self, tier: TierName) -> str:
        """Why that tier comes before the ones after it."""
        return next(t.why for t in self.tiers if t.name == tier)

    def precedence(self, rule: Rule) -> tuple[int, int, str]:
        """Sort key: tier first, then the more specific rule."""
        order = [t.name for t in self.tiers]
        return order.index(rule.tier), -rule.specificity, rule.id


def selects(selector: str, option: Option) -> bool:
    """Whether a selector (`int4-awq`, `int4`, `int8@vllm`) names the option."""
    name, _, engine = selector.partition("@")
    return name in (option.id, option.family) and engine in ("", option.engine)


@cache
def rulebook() -> RuleBook:
    """The framework as shipped."""
    text = files("advisor.recommend").joinpath("rules.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = YAML(typ="safe").load(text)
    data["reference"] = [_reference_row(row, data["reference"]) for row in data["reference"]["rows"]]
    return RuleBook.model_validate(data)


def reference_table() -> tuple[ReferenceRow, ...]:
    """Perplexity and relative latency of LLaMA-2-70B by format, as the source document gives them."""
    return rulebook().reference


def methods() -> tuple[Method, ...]:
    """The methods and formats that the framework covers."""
    return rulebook().methods


def _reference_row(row: dict[str, Any], table: dict[str, Any]) -> ReferenceRow:
    def quoted(value: float, step: float, unit: str, source: str) -> Figure:
        half = step / 2
        return Figure.estimated(value, round(value - half, 4), round(value + half, 4), unit, source)

    return ReferenceRow(
        option=row["option"],
        name=row["name"],
        model=table["model"],
        perplexity=quoted(row["perplexity"], 0.01, "perplexity", table["source"]),
        relative_latency=quoted(row["relative_latency"], 0.1, "x FP16 latency", table["source"]),
        weights_gb=quoted(row["weights_gb"], 1, "GB", table["weights_source"]),
        condition=row.get("condition", ""),
    )
