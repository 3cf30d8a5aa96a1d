"""Models that the catalogue knows under another name: base and tuned, and quantized from a known one.

A name such as `RedHatAI/Qwen2.5-7B-Instruct-quantized.w8a8` stands for a known config and a published
quantization layout. What is concluded from the name is told as an assumption, never taken silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

BLOCK_FP8_OWNERS = frozenset({"qwen", "deepseek-ai", "zai-org", "moonshotai", "minimaxai", "stepfun-ai"})
"""Their own FP8 releases are in blocks of 128 x 128."""


def _compressed(bits: int, kind: str, strategy: str, group: int | None, activations: bool) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "group_size": group, "symmetric": True}
    inputs = {"num_bits": bits, "type": kind, "dynamic": True} if activations else None
    group_0 = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group_0},
        "ignore": ["lm_head"],
    }


FP8_BLOCK = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
LAYOUTS: tuple[tuple[re.Pattern[str], dict[str, Any]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), layout)
    for pattern, layout in (
        (r"[-.](?:quantized[-.])?w8a8(?:-int8)?$", _compressed(8, "int", "channel", None, True)),
        (r"[-.](?:quantized[-.])?w4a16(?:-g128)?$", _compressed(4, "int", "group", 128, False)),
        (r"[-.](?:quantized[-.])?w8a16$", _compressed(8, "int", "channel", None, False)),
        (r"-fp8-dynamic$", _compressed(8, "float", "channel", None, True)),
        (r"-fp8-block$", FP8_BLOCK),
        (r"-fp8$", _compressed(8, "float", "tensor", None, True)),
        (r"-(?:nvfp4|fp4)$", _compressed(4, "float", "group", 16, True)),
        (r"-nvfp4a16$", _compressed(4, "float", "group", 16, False)),
        (r"-awq(?:-int4|-4bit)?$", {"quant_method": "awq", "bits": 4, "group_size": 128}),
        (r"-gptq-(?:int8|8bit)$", {"quant_method": "gptq", "bits": 8, "group_size": 128}),
        (r"-gptq(?:-int4|-4bit)?$", {"quant_method": "gptq", "bits": 4, "group_size": 128}),
    )
)
"""Suffix of a repository's name to the layout that its publishers use."""

_TUNED = re.compile(r"-(?:instruct|it|chat|base|pt|hf|bf16)(?=-|$)")
_VERSIONED = re.compile(r"^meta-")


class Variant(NamedTuple):
    """A name resolved: the row that it stands on, the quantization to add, and the words for both."""

    row_id: str
    quantization: dict[str, Any] | None
    assumptions: tuple[str, ...]


def resolve(name: str, known: Iterable[str]) -> Variant | None:
    """The known row and layout behind `name`; None when its words do not lead to one."""
    owner, _, tail = name.rpartition("/")
    quantization: dict[str, Any] | None = None
    notes: list[str] = []
    for pattern, layout in LAYOUTS:
        match = pattern.search(tail)
        if match is not None:
            by_blocks = layout["quant_method"] == "compressed-tensors" and match[0].lower() == "-fp8"
            quantization = FP8_BLOCK if by_blocks and owner.lower() in BLOCK_FP8_OWNERS else layout
            tail = tail[: match.start()]
            notes.append(f"quantized as its name says ({match[0].strip('-.')}): layout of such releases")
            break
    wanted, exact = _key(tail), tail.lower()
    same = [row for row in known if _key(row.rpartition("/")[2]) == wanted]
    if not same:
        return None
    row = next((r for r in same if r.rpartition("/")[2].lower() == exact), None)
    row = row or next((r for r in same if r.rpartition("/")[0].lower() == owner.lower()), same[0])
    if row.rpartition("/")[2].lower() != exact:
        notes.append(f"shapes and context taken from {row}: base and tuned models of one release agree")
    return Variant(row, quantization, tuple(notes))


def _key(tail: str) -> str:
    """A name without the words that tell tuned from base."""
    return _TUNED.sub("", _VERSIONED.sub("", tail.lower()))
