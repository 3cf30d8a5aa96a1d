"""How a quantized checkpoint stores one weight: the tensors that take its place, by scheme.

Layouts of compressed-tensors 0.19 (`compressors/`), AutoAWQ, GPTQModel, ModelOpt exports and the FP8 blocks
of DeepSeek-V3; checked against published headers in tests/models.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

Parts = list[tuple[str, tuple[int, ...], str]]
"""(suffix that replaces `.weight`, shape, safetensors dtype)."""

SIXTEEN_BIT = ("lm_head", "embed", "norm", "conv1d", "gate.weight", "router", "indexer.weights_proj", "A_log")
"""Parts that published quantized checkpoints keep in 16 bits."""


class Scheme(NamedTuple):
    """What `quantization_config` says about the weights; `bits` 0: nothing is packed here."""

    method: str
    bits: int = 0
    kind: str = "int"  # int float
    group: int = 0  # inputs per scale; 0: per output channel, -1: per tensor
    block: tuple[int, int] | None = None
    activations: bool = False
    skip: tuple[str, ...] = ()
    skip_patterns: tuple[re.Pattern[str], ...] = ()

    def takes(self, name: str, shape: tuple[int, ...], prefix: str) -> bool:
        """Whether the tensor of that name in a block is quantized."""
        if not self.bits or len(shape) < 2 or not name.endswith(".weight") or not prefix:
            return False
        module = prefix + name.removesuffix(".weight").replace(".*.", ".0.")
        if any(p.match(module) for p in self.skip_patterns):
            return False
        return not any(word in name or word == module for word in (*SIXTEEN_BIT, *self.skip))

    def parts(self, shape: tuple[int, ...], dtype: str) -> Parts:
        """The tensors in place of a weight (..., out, in)."""
        *lead, rows, columns = shape
        stack = tuple(lead)
        groups = math.ceil(columns / self.group) if self.group > 0 else 1
        if self.method == "awq":
            return [
                (".qweight", (*stack, columns, rows * self.bits // 32), "I32"),
                (".qzeros", (*stack, groups, rows * self.bits // 32), "I32"),
                (".scales", (*stack, groups, rows), "F16"),
            ]
        if self.method == "gptq":
            return [
                (".qweight", (*stack, columns * self.bits // 32, rows), "I32"),
                (".qzeros", (*stack, groups, rows * self.bits // 32), "I32"),
                (".scales", (*stack, groups, rows), "F16"),
                (".g_idx", (*stack, columns), "I32"),
            ]
        if self.block is not None:
            tiles = (math.ceil(rows / self.block[0]), math.ceil(columns / self.block[1]))
            return [(".weight", shape, "F8_E4M3"), (".weight_scale_inv", (*stack, *tiles), "F32")]
        if self.kind == "float" and self.bits == 4:
            packed = ".weight_packed" if self.method == "compressed-tensors" else ".weight"
            return [
                (packed, (*stack, rows, columns // 2), "U8"),
                (".weight_scale", (*stack, rows, groups), "F8_E4M3"),
                (".weight_global_scale", (*stack, 1), "F32"),
                (".input_global_scale", (*stack, 1), "F32"),
            ]
        if self.kind == "int" and not self.activations:
            per_word = 32 // self.bits
            return [
                (".weight_packed", (*stack, rows, math.ceil(columns / per_word)), "I32"),
                (".weight_scale", (*stack, rows, groups), dtype),
                (".weight_shape", (*stack, 2), "I64"),
            ]
        scale: tuple[int, ...] = (*stack, 1) if self.group == -1 else (*stack, rows, 1)
        stored = "F8_E4M3" if self.kind == "float" else "I8"
        return [(".weight", shape, stored), (".weight_scale", scale, dtype)]


NOTHING = Scheme("")


def scheme_of(raw: Any) -> Scheme:
    """The scheme of a checked `quantization_config`: its first group, what its ignore list names aside."""
    if not isinstance(raw, dict):
        return NOTHING
    method = str(raw.get("quant_method") or ("compressed-tensors" if "config_groups" in raw else ""))
    words, patterns = _skipped(raw.get("modules_to_not_convert") or raw.get("ignore"))
    if method == "fp8":
        return Scheme("fp8", 8, "float", -1, _pair(raw.get("weight_block_size")), True, words, patterns)
    if method in ("awq", "gptq"):
        bits = raw.get("bits") if raw.get("bits") in (2, 4, 8) else 4
        group = raw.get("group_size")
        size = group if type(group) is int and group > 0 else 0
        return Scheme(method, int(bits or 4), "int", size, None, False, words, patterns)
    if method.startswith("modelopt") or "config_groups" in raw:
        return _grouped(raw, method, words, patterns)
    return Scheme(method)


def _grouped(
    raw: dict[str, Any], method: str, words: tuple[str, ...], patterns: tuple[re.Pattern[str], ...]
) -> Scheme:
    groups = raw.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    if not isinstance(weights, dict) or weights.get("num_bits") not in (4, 8):
        return Scheme(method)
    group = weights.get("group_size")
    size = group if type(group) is int and group > 0 else 0
    if weights.get("strategy") == "tensor":
        size = -1
    return Scheme(
        method,
        int(weights["num_bits"]),
        str(weights.get("type") or "int"),
        size,
        _pair(weights.get("block_structure")),
        isinstance(first, dict) and isinstance(first.get("input_activations"), dict),
        words,
        patterns,
    )


def _pair(block: Any) -> tuple[int, int] | None:
    """Rows and columns of a block, or None for anything that is not two positive integers."""
    if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
        return block[0], block[1]
    return None


def _skipped(listed: Any) -> tuple[tuple[str, ...], tuple[re.Pattern[str], ...]]:
    words: list[str] = []
    patterns: list[re.Pattern[str]] = []
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, str) or len(item) > 300:
            continue
        if item.startswith("re:"):
            try:
                patterns.append(re.compile(item[3:]))
            except re.error:
                continue
        else:
            words.append(item.strip("*") or item)
    return tuple(words), tuple(patterns)
