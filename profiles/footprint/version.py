"""Engine versions: parsing, and from which one a rule holds."""

from __future__ import annotations

import re
from collections.abc import Iterable

from profiles.errors import UsageError

OLDEST, NEWEST = (0, 8), (0, 33)
"""Versions that the laws cover."""

EXTRAPOLATED = 2
"""Minor versions beyond the newest that are answered with widened intervals; further ones must be taught."""

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

_VERSION = re.compile(
    r"v?(\d{1,3})\.(\d{1,4})(?:\.\d{1,4}){0,2}(?:\.?(?:a|b|rc|post|dev)\d{0,6}){0,3}(?:[-+][a-z0-9._+-]{1,40})?$"
)

Version = tuple[int, int]


def parse_version(text: str) -> Version:
    """(minor, patch)-free version: "0.32.0" is (0, 32).

    Raises:
        UsageError: not a version, or one that no law covers.
    """
    match = _VERSION.match(text.strip().lower())
    if match is None:
        raise UsageError(
            "not an engine version",
            got=text[:60],
            allowed=f"a release of vLLM, {_words(OLDEST)} to {_words(NEWEST)}, such as 0.32.0",
            next_step="python -c 'import vllm; print(vllm.__version__)' prints the installed one",
        )
    found = (int(match[1]), int(match[2]))
    if found < OLDEST or found >= (1, 0):
        raise UsageError(
            "no law for this engine version",
            got=text[:60],
            allowed=f"{_words(OLDEST)} to {_words(NEWEST)}",
            next_step="the nearest known is "
            f"--engine-version {_words(OLDEST if found < OLDEST else NEWEST)}.0",
        )
    return found


def check_known(text: str, taught: Iterable[Version] = ()) -> None:
    """Refuse a version that neither the laws nor boot logs ingested here come near.

    Raises:
        UsageError: not a version, older than the laws, or far newer; with the nearest known versions.
    """
    found, seen = parse_version(text), sorted(set(taught))
    if found[1] <= NEWEST[1] + EXTRAPOLATED or found in seen:
        return
    newer = [v for v in seen if v > NEWEST]
    ingested = f", and {', '.join(map(_words, newer))} from boot logs ingested here" if newer else ""
    nearest = min([NEWEST, *newer], key=lambda v: abs(v[1] - found[1]))
    raise UsageError(
        "unknown engine version: too far from those that were measured",
        got=text[:60],
        allowed=f"vLLM {_words(OLDEST)} to {_words(NEWEST)}, up to {NEWEST[0]}.{NEWEST[1] + EXTRAPOLATED} "
        f"with wider intervals{ingested}",
        next_step=f"the nearest known is --engine-version {_words(nearest)}.0; if vLLM {_words(found)} is "
        "installed, advisor ingest LOG teaches it from a boot log",
    )


def _words(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
