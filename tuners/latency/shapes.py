"""The distinct layers of a model's units, as one rank runs them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tuners.latency.schema import Shape
from tuners.plan import ROW_PARALLEL_ROLES, Unit


def shapes_of(unit: Unit, tp: int = 1, experts_per_token: int = 0) -> tuple[Shape, ...]:
    """The matmuls of a unit: one for a fused layer, one per linear where inputs differ."""
    copies = max(m.copies for m in unit.linears)
    experts = copies if copies > 1 else 0
    each = experts_per_token if experts else 0
    if len({m.in_features for m in unit.linears}) == 1:
        pairs = [(unit.linears[0].in_features, sum(m.out_features for m in unit.linears))]
    else:
        pairs = [(m.in_features, m.out_features) for m in unit.linears]
    row = unit.role in ROW_PARALLEL_ROLES
    return tuple(
        Shape(inn // tp if row else inn, out if row else out // tp, experts, each) for inn, out in pairs
    )


def distinct(units: Iterable[Unit], tp: int = 1, experts_per_token: int = 0) -> list[tuple[Shape, str]]:
    """Every (shape, format) that some plan of the units needs, in a stable order."""
    seen: dict[tuple[Shape, str], None] = {}
    for unit in units:
        for shape in shapes_of(unit, tp, experts_per_token):
            seen.update(dict.fromkeys((shape, fmt) for fmt in [*unit.options, "BF16"]))
    return sorted(seen)


def weight_bytes(units: Sequence[Unit]) -> int:
    """16-bit bytes of all units."""
    return sum(u.numel for u in units) * 2
