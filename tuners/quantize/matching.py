"""vLLM's matching of modules to compressed-tensors schemes, restated so that no engine is needed.

From vLLM 0.32: `quantization/compressed_tensors/utils.py` (`should_ignore_layer`,
`find_matched_target`, `_match_fused_layer`), `quantization/utils/config_utils.py`
(`find_matching_patterns`, `is_equal_or_regex_match`) and
`CompressedTensorsConfig._quantization_scheme_map_from_config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from profiles.errors import UsageError


def should_ignore_layer(layer: str, ignore: Sequence[str], packed: Mapping[str, Sequence[str]]) -> bool:
    """vLLM's rule of the same name. Raises ValueError when only some shards of a layer are ignored."""
    if any(matches(layer, pattern) for pattern in ignore):
        return True
    last = last_name(layer)
    if last not in packed:
        return False
    shards = [layer.replace(last, shard) for shard in packed[last]]
    hits = [any(matches(shard, pattern) for pattern in ignore) for shard in shards]
    if any(hits) and not all(hits):
        partly = ", ".join(s for s, hit in zip(shards, hits, strict=True) if hit)
        raise ValueError(f"only {partly} of its shards is ignored: the engine refuses to load it")
    return all(hits)


def find_matched_target(
    layer: str, class_name: str, targets: Iterable[str], packed: Mapping[str, Sequence[str]]
) -> str | None:
    """vLLM's rule of the same name: the layer's own name, else its shards (the first one's target), else
    its class."""
    listed = list(targets)
    by_name = first_match(layer, listed)
    if by_name is not None:
        return by_name
    fused = next((key for key in packed if layer.endswith(key)), None)
    if fused is not None:
        hits = [first_match(layer.replace(fused, shard), listed) for shard in packed[fused]]
        if all(hits):
            return hits[0]
    return next((t for t in listed if matches(class_name, t, contains=True)), None)


def matches(value: str, target: str, *, contains: bool = False) -> bool:
    """vLLM's `is_equal_or_regex_match`: equal, a `re:` pattern, or (for class names) contained."""
    if target.startswith("re:"):
        try:
            return re.match(target[3:], value) is not None
        except re.error as exc:
            raise UsageError("a target is not a regular expression", got=f"{target}: {exc}") from exc
    return target.lower() in value.lower() if contains else target == value


def first_match(value: str, targets: Iterable[str]) -> str | None:
    """The first target that matches, as the engine picks it."""
    return next((t for t in targets if matches(value, t)), None)


def last_name(name: str) -> str:
    """The last part of a dotted name."""
    return name.rsplit(".", 1)[-1]


def scheme_map(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Target to scheme in the engine's order; a target named twice keeps its place, the last one wins."""
    schemes: dict[str, Mapping[str, Any]] = {}
    for group in (config.get("config_groups") or {}).values():
        targets = list(group.get("targets") or ())
        if len(targets) == 1 and targets[0].endswith("Attention"):
            continue  # coupled with the KV cache in vLLM: the group is skipped
        for target in targets:
            schemes[target] = {**group, "format": group.get("format") or config.get("format")}
    return schemes
