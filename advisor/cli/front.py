"""`advisor front`: one search measured plans of every size; a changed budget is answered from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advisor.cli.options import Json
from tuners.nats import nats

if TYPE_CHECKING:
    from tuners.budget import Budget
    from tuners.search.schema import Front, MeasuredPlan


def front(
    *,
    run: Annotated[Path, Parameter(name="--run", help="The run directory.")],
    budget: Annotated[
        str | None,
        Parameter(name="--budget", help="Another budget (96MiB, 5bits, 40%): the best plan below it."),
    ] = None,
    max_ms_per_token: Annotated[
        float | None,
        Parameter(
            name=["--max-ms-per-token", "--target-itl"],
            help="The best plan predicted to take at most so many milliseconds per token (one request).",
        ),
    ] = None,
    max_kl: Annotated[
        float | None, Parameter(name="--max-kl", help="The fastest plan by prediction with KL at most this.")
    ] = None,
    plan_out: Annotated[
        Path | None, Parameter(name="--plan-out", help="Write that plan here, for `advisor quantize --plan`.")
    ] = None,
    json: Json = False,
) -> int:
    """List the measured plans from the smallest to the largest, or answer another budget at once.

    KL is measured on the selection split; times are predicted from the layers' own, see latency.json.
    Nothing is searched: `advisor tune --budget` searches at a budget.
    """
    from advisor.cli.output import console, print_json
    from profiles.errors import UsageError
    from profiles.sizes import size
    from tuners.search.front import fastest_below, load_front, nearest_below

    known = _with_times(load_front(run / "front.json"), run)
    if max_ms_per_token is not None and max_kl is not None:
        raise UsageError(
            "two questions at once",
            got="--max-ms-per-token and --max-kl",
            allowed="one: the best plan that is so fast, or the fastest that loses so little",
        )
    if budget is None and max_ms_per_token is None and max_kl is None:
        if plan_out is not None:
            raise UsageError(
                "--plan-out needs a budget", got=str(plan_out), next_step="add --budget, for example 5bits"
            )
        if json:
            print_json(known)
        else:
            _table(known)
        return 0
    asked = _budget(known, budget)
    if max_kl is not None:
        point = fastest_below(known, asked, max_kl)
    else:
        point = nearest_below(known, asked, max_ms_per_token)
    if plan_out is not None:
        from advisor.workspace import write_text

        write_text(plan_out, point.plan.to_yaml())
    if json:
        print_json(point)
        return 0
    out = console()
    limits = [budget] if budget else []
    limits += [f"{max_ms_per_token:g} ms per token"] if max_ms_per_token is not None else []
    limits += [f"KL {max_kl:g}"] if max_kl is not None else []
    held = size(point.unit_bytes + known.fixed_bytes)
    held += f" of {size(asked.total_bytes)} allowed" if budget else ""
    out.print(f"{', '.join(limits)}: {_words(point)}, checkpoint {held}", markup=False)
    if point.speed is not None:
        from advisor.cli.report import speed_words

        out.print(speed_words(point.speed), markup=False)
    if plan_out is not None:
        out.print(f"written to {plan_out}", markup=False)
    if budget:
        out.print(f"advisor tune MODEL --budget {budget} searches at exactly this budget", markup=False)
    return 0


def _budget(known: Front, text: str | None) -> Budget:
    """The budget asked for, or one that holds every plan."""
    from tuners.budget import Budget, budget_within

    if text is not None:
        return budget_within(
            text,
            weights=known.weights,
            smallest=known.smallest_bytes,
            largest=known.largest_bytes,
            fixed_bytes=known.fixed_bytes,
        )
    return Budget(
        text="any size", unit_bytes=known.largest_bytes, fixed_bytes=known.fixed_bytes,
        smallest_bytes=known.smallest_bytes, largest_bytes=known.largest_bytes, weights=known.weights,
    )  # fmt: skip


def _with_times(known: Front, run: Path) -> Front:
    """Predicted times as of now: the original's measured speed, once the run has it, calibrates them."""
    from advisor.pipeline.latency import calibrated_now
    from tuners.search.front import timed

    return timed(known, calibrated_now(run))


def _words(point: MeasuredPlan) -> str:
    counts = ", ".join(f"{n} x {f}" for f, n in point.plan.counts().most_common())
    return f"{point.bits_per_weight:.3f} bits per weight, KL {nats(point.quality.kl)} measured ({counts})"


def _table(known: Front) -> None:
    from advisor.cli.output import console, table
    from profiles.sizes import size

    timed = all(point.speed is not None for point in known.points)
    listing = table(
        "measured on the selection split" + (", ms per token predicted" if timed else ""),
        ["bits", "checkpoint", "KL", "perplexity", *(["ms/token"] if timed else []), "plan"],
        right=(0, 1, 2, 3, *((4,) if timed else ())),
    )
    for point in known.points:
        listing.add_row(
            f"{point.bits_per_weight:.3f}",
            size(point.unit_bytes + known.fixed_bytes),
            nats(point.quality.kl),
            f"{point.quality.perplexity:.2f}",
            *([f"{point.speed.decode_ms.value:.3g}"] if timed and point.speed else []),
            ", ".join(f"{n} x {f}" for f, n in point.plan.counts().most_common()),
        )
    console().print(listing)
    if timed and known.points and (first := known.points[0].speed):
        console().print(
            f"ms per token: one request decoding; {first.decode_ms.provenance.value}, "
            f"{first.decode_ms.source}",
            markup=False,
        )
