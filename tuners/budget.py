"""Memory budgets: what the user types, turned into bytes over the decision units."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

from profiles.errors import InfeasibleError, UsageError
from profiles.provenance import Contract
from tuners.plan import Unit

_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12} | {
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_BITS = frozenset({"bit", "bits", "bpw", "b/w"})
_PATTERN = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z%/]+)\s*$", re.IGNORECASE)


class Budget(Contract):
    """A budget as bytes over the units, with the smallest and largest plan around it.

    `total_bytes` is the checkpoint's whole size under the budget: units plus `fixed_bytes`.
    """

    text: str
    unit_bytes: int
    fixed_bytes: int
    smallest_bytes: int
    largest_bytes: int
    weights: int

    @property
    def total_bytes(self) -> int:
        """Checkpoint bytes that the budget allows."""
        return self.unit_bytes + self.fixed_bytes

    @property
    def bits_per_weight(self) -> float:
        """The budget as average bits per quantizable weight, scales included."""
        return self.unit_bytes * 8 / self.weights


def parse_budget(text: str, units: Iterable[Unit], fixed_bytes: int) -> Budget:
    """`5.5bits` is an average over the quantizable weights (scales included); `96MiB`, `1.2GB` bound the
    whole checkpoint; `40%` is a share of the original checkpoint.

    Raises:
        UsageError: not a budget, or one above the original model (nothing needs quantizing).
        InfeasibleError: below the smallest plan that the menu allows; the message says the minimum.
    """
    listed = list(units)
    return budget_within(
        text,
        weights=sum(u.numel for u in listed),
        smallest=sum(min(u.bytes_as(f) for f in u.options) for u in listed),
        largest=sum(u.bytes_as("BF16") for u in listed),
        fixed_bytes=fixed_bytes,
    )


def no_limit(units: Iterable[Unit], fixed_bytes: int) -> Budget:
    """A budget that holds every plan, for questions about speed."""
    listed = list(units)
    return Budget(
        text="no limit",
        unit_bytes=sum(max(u.bytes_as(f) for f in [*u.options, "BF16"]) for u in listed),
        fixed_bytes=fixed_bytes,
        smallest_bytes=sum(min(u.bytes_as(f) for f in u.options) for u in listed),
        largest_bytes=sum(u.bytes_as("BF16") for u in listed),
        weights=sum(u.numel for u in listed),
    )


def budget_within(text: str, *, weights: int, smallest: int, largest: int, fixed_bytes: int) -> Budget:
    """The same for units whose count of weights, smallest and largest bytes are known.

    Raises:
        UsageError, InfeasibleError: as `parse_budget`.
    """
    number, unit = check_budget(text)
    if unit in _BITS:
        unit_bytes = math.floor(number * weights / 8)
    elif unit == "%":
        unit_bytes = math.floor(number / 100 * (largest + fixed_bytes)) - fixed_bytes
    else:
        unit_bytes = math.floor(number * _SIZES[unit]) - fixed_bytes
    if unit_bytes >= largest:
        raise UsageError(
            "nothing needs quantizing: the original already fits this budget",
            got=f"{text} = {_mib(unit_bytes + fixed_bytes)} for the checkpoint",
            allowed=f"below {_mib(largest + fixed_bytes)}, the size of the original (16 bits per weight)",
            next_step="serve the original, or give a smaller --budget",
        )
    if unit_bytes < smallest:
        raise InfeasibleError(
            "the budget is below the smallest possible plan",
            got=f"{text} = {_mib(max(0, unit_bytes + fixed_bytes))} for the checkpoint",
            allowed=f"at least {_mib(smallest + fixed_bytes)} = {smallest * 8 / weights:.3f} bits per "
            f"quantizable weight ({_mib(fixed_bytes)} of it, embeddings and norms, stay 16-bit)",
            next_step=f"--budget {math.ceil((smallest + fixed_bytes) / 2**20)}MiB, or a smaller model",
        )
    return Budget(
        text=text,
        unit_bytes=unit_bytes,
        fixed_bytes=fixed_bytes,
        smallest_bytes=smallest,
        largest_bytes=largest,
        weights=weights,
    )


def check_budget(text: str) -> tuple[float, str]:
    """Number and unit of a budget, whether or not a model can meet it.

    Raises:
        UsageError: not a budget.
    """
    match = _PATTERN.match(text)
    if match is None:
        raise _not_a_budget(text)
    number, unit = float(match[1]), match[2].lower()
    if not (math.isfinite(number) and number > 0 and unit in {*_BITS, *_SIZES, "%"}):
        raise _not_a_budget(text)
    return number, unit


def parse_memory(text: str) -> tuple[Literal["auto", "resident", "streamed"], int | None]:
    """How a search holds the model (auto, resident, streamed) and the bytes that it may take, if given.

    Raises:
        UsageError: neither one of the words nor a size.
    """
    match text.strip().lower():
        case "auto" | "resident" | "streamed" as word:
            return word, None
    found = _PATTERN.match(text)
    if found is None or found[2].lower() not in _SIZES or float(found[1]) <= 0:
        raise UsageError(
            "not a memory limit",
            got=text,
            allowed="auto, resident, streamed, or a size (4GiB)",
            next_step="--memory 4GiB",
        )
    return "auto", math.floor(float(found[1]) * _SIZES[found[2].lower()])


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _not_a_budget(text: str) -> UsageError:
    return UsageError(
        "not a memory budget",
        got=text,
        allowed="a size (96MiB, 1.2GB), an average (5.5bits per weight) or a share (40%)",
        next_step="--budget 5.5bits",
    )
