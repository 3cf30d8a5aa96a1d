"""Engine versions: parsing, and from which one a rule holds."""

from __future__ import annotations

import re

from profiles.errors import UsageError

OLDEST, NEWEST = (0, 8), (0, 33)
"""Versions that the laws cover; newer ones are extrapolated and say so."""

HYBRID_MANAGER = (0, 10)
"""From here on layers of different kinds get their own block tables; before, windows were kept as full."""

TOKENS_BY_CONCURRENCY = (0, 20)
"""From here on "KV cache size" is int(concurrency x max_model_len); before, blocks x block / groups."""

GRAPHS_SUBTRACTED = (0, 21)
"""From here on the CUDA-graph estimate is taken from the KV cache."""

NEW_UTILIZATION = (0, 20)
"""From here on gpu_memory_utilization defaults to 0.92 (0.9 before)."""

MAMBA_ALIGN = (0, 30)
"""From here on hybrids cache prefixes by default, with two state pages per request (0.32 source)."""

ASYNC_IN_FLIGHT = (0, 30)
"""From here on windows reserve for two batches in flight (0.32 `max_in_flight_tokens`), one before."""

NULL_BLOCK = (0, 30)
"""From here on the start-up check holds one block back (0.32 `check_enough_kv_cache_memory`)."""

Version = tuple[int, int]


def parse_version(text: str) -> Version:
    """(minor, patch)-free version: "0.32.0" is (0, 32).

    Raises:
        UsageError: not a version, or one that no law covers.
    """
    match = re.match(r"^v?(\d{1,3})\.(\d{1,4})(?:[.+a-z0-9_-]{0,40})?$", text.strip().lower())
    if match is None:
        raise UsageError("not an engine version", got=text[:60], allowed="such as 0.32.0")
    found = (int(match[1]), int(match[2]))
    if found < OLDEST or found >= (1, 0):
        raise UsageError(
            "no law for this engine version",
            got=text[:60],
            allowed=f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}",
        )
    return found
