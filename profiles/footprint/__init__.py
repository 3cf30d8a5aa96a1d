"""What fits: the engine's boot log predicted line by line, speed as intervals, refusals and levers."""

from __future__ import annotations

from profiles.footprint.estimate import estimate
from profiles.footprint.explain import explain
from profiles.footprint.ingest import BootLog, Comparison, compare, parse_boot_log, read_boot_log
from profiles.footprint.quantize_cost import QuantizeCost, quantize_cost
from profiles.footprint.rank import Ranked, offered, rank_devices, rank_models
from profiles.footprint.residuals import Residuals, residuals_path
from profiles.footprint.schema import Footprint, Lever, ServingSpec, Verdict
from profiles.footprint.uniform import uniform_formats

__all__ = [
    "BootLog",
    "Comparison",
    "Footprint",
    "Lever",
    "QuantizeCost",
    "Ranked",
    "Residuals",
    "ServingSpec",
    "Verdict",
    "compare",
    "estimate",
    "explain",
    "offered",
    "parse_boot_log",
    "quantize_cost",
    "rank_devices",
    "rank_models",
    "read_boot_log",
    "residuals_path",
    "uniform_formats",
]
