"""`advisor front`: one search measured plans of every size; a changed budget is answered from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advisor.cli.options import Json

if TYPE_CHECKING:
    from tuners.search.schema import Front, MeasuredPlan


def front(
    *,
    run: Annotated[Path, Parameter(name="--run", help="The run directory.")],
    budget: Annotated[
        str | None,
        Parameter(name="--budget", help="Another budget (96MiB, 5bits, 40%): the best plan below it."),
    ] = None,
    plan_out: Annotated[
        Path | None, Parameter(name="--plan-out", help="Write that plan here, for `advisor quantize --plan`.")
    ] = None,
    json: Json = False,
) -> int:
    """List the measured plans from the smallest to the largest, or answer another budget at once.

    KL is measured on the selection split. Nothing is computed: `advisor tune --budget` searches at a budget.
    """
    from advisor.cli.output import console, print_json, size
    from profiles.errors import UsageError
    from tuners.budget import budget_within
    from tuners.search.front import load_front, nearest_below

    known = load_front(run / "front.json")
    if budget is None:
        if plan_out is not None:
            raise UsageError(
                "--plan-out needs a budget", got=str(plan_out), next_step="add --budget, for example 5bits"
            )
        if json:
            print_json(known)
        else:
            _table(known)
        return 0
    asked = budget_within(
        budget,
        weights=known.weights,
        smallest=known.smallest_bytes,
        largest=known.largest_bytes,
        fixed_bytes=known.fixed_bytes,
    )
    point = nearest_below(known, asked)
    if plan_out is not None:
        from advisor.workspace import write_text

        write_text(plan_out, point.plan.to_yaml())
    if json:
        print_json(point)
        return 0
    out = console()
    out.print(
        f"{budget}: {_words(point)}, checkpoint {size(point.unit_bytes + known.fixed_bytes)} of "
        f"{size(asked.total_bytes)} allowed",
        markup=False,
    )
    if plan_out is not None:
        out.print(f"written to {plan_out}", markup=False)
    out.print(f"advisor tune MODEL --budget {budget} searches at exactly this budget", markup=False)
    return 0


def _words(point: MeasuredPlan) -> str:
    counts = ", ".join(f"{n} x {f}" for f, n in point.plan.counts().most_common())
    return f"{point.bits_per_weight:.3f} bits per weight, KL {point.quality.kl:.4f} measured ({counts})"


def _table(known: Front) -> None:
    from advisor.cli.output import console, size, table

    listing = table(
        "measured on the selection split",
        ["bits", "checkpoint", "KL", "perplexity", "plan"],
        right=(0, 1, 2, 3),
    )
    for point in known.points:
        listing.add_row(
            f"{point.bits_per_weight:.3f}",
            size(point.unit_bytes + known.fixed_bytes),
            f"{point.quality.kl:.4f}",
            f"{point.quality.perplexity:.2f}",
            ", ".join(f"{n} x {f}" for f, n in point.plan.counts().most_common()),
        )
    console().print(listing)
