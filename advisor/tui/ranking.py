"""The catalogue as rows of a table: for each model the best uniform format that fits a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from profiles.footprint import Ranked, ServingSpec
    from profiles.hardware import HardwareProfile
    from profiles.models import CatalogueEntry

FAMILIES = ("16-bit", "fp8", "int8", "int4")
"""Formats of the verdict, the most precise first."""
ORDERS = ("name", "params", "fits", "context", "tok/s")


class Row(NamedTuple):
    """A model and what the ranking says of it; None before the ranking is there."""

    entry: CatalogueEntry
    best: Ranked | None


def best_answers(hardware: HardwareProfile, spec: ServingSpec) -> dict[str, Ranked]:
    """The first answer of every model: what fits before what does not, then the best precision."""
    from advisor.cli.rank import with_dtype
    from profiles.footprint import Residuals, offered, rank_models

    out: dict[str, Ranked] = {}
    served = with_dtype(spec, hardware.device)
    families = offered(hardware.device, FAMILIES)
    for answer in rank_models(hardware, served, families, residuals=Residuals.load()):
        out.setdefault(answer.model_id, answer)
    return out


def select(
    entries: Sequence[CatalogueEntry],
    answers: Mapping[str, Ranked],
    *,
    words: str = "",
    tag: str | None = None,
    fits_only: bool = False,
    order: str = "name",
) -> list[Row]:
    """Rows with every word in name, licence or tags, ordered; the largest or best first but for names."""
    wanted = words.lower().split()
    found = [
        Row(e, answers.get(e.id))
        for e in entries
        if (tag is None or tag in e.tags)
        and all(w in f"{e.id} {e.license} {' '.join(e.tags)}".lower() for w in wanted)
    ]
    if fits_only:
        found = [r for r in found if r.best is not None and r.best.verdict.value == "fits"]
    return sorted(found, key=_KEYS[order])


def _precision(row: Row) -> tuple[int, int]:
    if row.best is None:
        return 9, 0
    rank = {"fits": 0, "fits if": 1}.get(row.best.verdict.value, 2)
    return rank, FAMILIES.index(row.best.family)


_KEYS: dict[str, Callable[[Row], tuple[float | str, ...]]] = {
    "name": lambda r: (r.entry.id.lower(),),
    "params": lambda r: (-r.entry.params, r.entry.id),
    "fits": lambda r: (*_precision(r), -r.entry.params, r.entry.id),
    "context": lambda r: (-(r.best.longest_context if r.best else 0), r.entry.id),
    "tok/s": lambda r: (-((r.best.decode_tokens_s if r.best else 0) or 0), r.entry.id),
}
