"""From a plan to a checkpoint on disk. Nothing here imports torch; `tuners.quantize.job` does, in a child."""

from tuners.quantize.groups import config_groups, ignored, module_names, quantization_config, scheme_of
from tuners.quantize.methods import METHODS, Method, parse_methods
from tuners.quantize.preflight import Problem, check, find_problems
from tuners.quantize.schema import QuantizeResult, QuantizeSpec

__all__ = [
    "METHODS",
    "Method",
    "Problem",
    "QuantizeResult",
    "QuantizeSpec",
    "check",
    "config_groups",
    "find_problems",
    "ignored",
    "module_names",
    "parse_methods",
    "quantization_config",
    "scheme_of",
]
