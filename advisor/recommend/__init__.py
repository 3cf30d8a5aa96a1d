"""The decision framework: which precision, method, engine and KV dtype, and why."""

from advisor.recommend.hardware_class import hardware_classes
from advisor.recommend.recommend import parse_use, recommend
from advisor.recommend.rulebook import methods, reference_table
from advisor.recommend.schema import (
    Choice,
    Conflict,
    HardwareClass,
    Method,
    ModelFacts,
    Reason,
    Recommendation,
    ReferenceRow,
    Use,
)

__all__ = [
    "Choice",
    "Conflict",
    "HardwareClass",
    "Method",
    "ModelFacts",
    "Reason",
    "Recommendation",
    "ReferenceRow",
    "Use",
    "hardware_classes",
    "methods",
    "parse_use",
    "recommend",
    "reference_table",
]
