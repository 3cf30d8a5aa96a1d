"""`advisor sensitivity`: how much a task suffers on this model at lower precision, measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from advisor.cli.options import Count, Formats, Gpu, Json, Offline, Quiet, TrustToRun
from tuners.nats import nats, signed

if TYPE_CHECKING:
    from profiles.models.schema import ModelProfile
    from profiles.provenance import Figure
    from profiles.tasks import TaskProfile
    from tuners.plan import Unit
    from tuners.sensitivity.task_schema import TaskSensitivity, TasksResult, TasksSpec

DEFAULT_BITS = 5.0
"""Average bits per weight of the plans that are compared when no --budget is given."""

GRID = {"early": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "late": (2 / 3, 1.01)}
"""Depth of a block as a share of all blocks."""


def sensitivity(
    model: Annotated[str, Parameter(help="A folder with config.json and safetensors, or a Hub id.")],
    /,
    *,
    task: Annotated[
        list[str],
        Parameter(
            name="--task",
            consume_multiple=True,
            negative="",
            help="Tasks (code,math), files of your own, or a mixture (code:0.7,chat:0.3).",
        ),
    ],
    budget: Annotated[
        str | None, Parameter(name="--budget", help="Size at which plans are compared, as for tune.")
    ] = None,
    exact: Annotated[
        bool, Parameter(name="--exact", negative="", help="Measure every unit one by one (slower).")
    ] = False,
    gpu: Gpu = None,
    count: Count = 1,
    formats: Formats = None,
    trust_remote_code: TrustToRun = False,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Profile tasks: uniform formats on the task's own tokens, which units matter, whether plans differ.

    Measuring stops when the decision no longer changes. `advisor recommend` uses the result afterwards.
    """
    from advisor.cli.output import print_json
    from advisor.cli.progress import renderer
    from advisor.machine import read_hardware
    from advisor.recommend.posterior import beliefs
    from advisor.task_memory import cache_root, remember
    from profiles.models import read_model
    from tuners.child import run_child
    from tuners.sensitivity.task_schema import TasksResult
    from tuners.units import build_units

    chosen = parse_tasks(task)
    known = read_model(model, offline=offline, trust_remote_code=trust_remote_code)
    hardware = read_hardware(gpu, count)
    units = tuple(build_units(known, hardware.device, formats=tuple(formats) if formats else None))
    spec = make_spec(known, units, chosen, budget, exact=exact, trust_remote_code=trust_remote_code)
    shown = renderer(quiet=quiet)
    try:
        found = TasksResult.model_validate(
            run_child(
                "tuners.sensitivity.tasks",
                spec,
                emit=shown,
                log_path=cache_root() / "sensitivity.log",
                stage="sensitivity",
            )
        )
    finally:
        shown.close()
    for profile, measured in zip(chosen, found.tasks, strict=True):
        remember(known, profile, measured)
    believed = {p.name: beliefs(p, s) for p, s in zip(chosen, found.tasks, strict=True)}
    if json:
        print_json({**found.model_dump(mode="json"), "beliefs": believed, "map": maps(found.tasks)})
    else:
        show(found, chosen)
    return 0


def parse_tasks(texts: list[str]) -> tuple[TaskProfile, ...]:
    """`code,math` names two tasks; parts with weights make one mixture.

    Raises:
        UsageError: unknown, or named twice.
    """
    from profiles.errors import UsageError
    from profiles.tasks import load_task
    from profiles.tasks.mixture import is_mixture

    names: list[str] = []
    for text in texts:
        names += [text] if is_mixture(text) else [part for part in text.split(",") if part.strip()]
    found = tuple(load_task(name) for name in names)
    if not found or len({t.name for t in found}) < len(found):
        raise UsageError(
            "name each task once", got=", ".join(names) or "none", next_step="advisor tasks lists them"
        )
    return found


def make_spec(
    model: ModelProfile,
    units: tuple[Unit, ...],
    tasks: tuple[TaskProfile, ...],
    budget: str | None,
    *,
    exact: bool,
    trust_remote_code: bool,
) -> TasksSpec:
    """What the child is asked.

    Raises:
        UsageError: the weights are not on this machine, or the budget is none.
    """
    from pathlib import Path

    from advisor.task_memory import cache_root
    from profiles.errors import UsageError
    from profiles.tasks import load_task
    from tuners.budget import parse_budget
    from tuners.sensitivity.task_schema import ProfileSettings, TasksSpec
    from tuners.units import fixed_bytes

    if model.path is None:
        raise UsageError(
            "the model's weights are not on this machine",
            got=f"{model.model_id} ({model.source})",
            next_step="download the model and give its folder",
        )
    fixed = fixed_bytes(model, units)
    if budget is None:
        weights = sum(u.numel for u in units)
        smallest = sum(min(u.bytes_as(f) for f in u.options) for u in units) * 8 / weights
        budget = f"{max(DEFAULT_BITS, 1.15 * smallest):.4f}bits"
    return TasksSpec(
        model_path=Path(model.path),
        model_id=model.model_id,
        units=units,
        budget_bytes=parse_budget(budget, units, fixed).unit_bytes,
        tasks=tasks,
        calibration=load_task("generic"),
        cache_dir=cache_root(),
        settings=ProfileSettings(exact=exact),
        trust_remote_code=trust_remote_code,
    )


def show(found: TasksResult, profiles: tuple[TaskProfile, ...]) -> None:
    """The result for people."""
    from advisor.cli.output import console
    from advisor.cli.progress import duration
    from advisor.recommend.posterior import beliefs

    out = console()
    for profile, measured in zip(profiles, found.tasks, strict=True):
        _show_uniform(measured, profile)
        for belief in beliefs(profile, measured):
            out.print(f"  {belief.sentence}", markup=False)
        stop = measured.stopped
        out.print(
            f"samples: {stop.sequences} sequence(s), {stop.tokens:,} counted tokens, {stop.items} item(s) "
            f"scored, {stop.skipped} skipped, {duration(measured.seconds)}; stopped: {stop.why}",
            markup=False,
        )
        if measured.check is not None:
            out.print(
                f"units: second-order KL scaled to the measured one; rank correlation with units measured "
                f"one by one {measured.check:.2f}; halves of the text agree at {measured.reliability:.2f}",
                markup=False,
            )
        for note in measured.notes:
            out.print(f"note: {note}", markup=False)
    _show_map(found.tasks)
    _show_crossings(found)
    out.print(f"\n{found.conclusion}", markup=False)
    out.print("next: advisor tune MODEL --task TASK --budget ... searches the plan", markup=False)


def _show_uniform(measured: TaskSensitivity, profile: TaskProfile) -> None:
    from advisor.cli.output import console, table

    score, known = measured.original_score, measured.scorer
    original = (
        ""
        if score is None
        else f"; the original scores {score.value:.2f} ({score.low:.2f} to {score.high:.2f}, {known})"
    )
    rows = table(
        f"\n{profile.name}: {profile.title}{original}\nmeasured on the counted tokens, 95 % intervals; "
        f"quality floor {profile.quality_floor_ppl_ratio:g} x perplexity",
        ["uniform", "KL", "same top token", "perplexity x", "floor", "score", "change, paired"],
        right=(1, 2, 3, 5, 6),
    )
    few = measured.stopped.sequences < 2
    for row in measured.uniform:
        change, scored = row.score_change, row.score
        rows.add_row(
            row.family,
            _span(row.kl, nats, few=few),
            _span(row.top1, "{:.0%}".format, few=few),
            _span(row.perplexity_ratio, "{:.3f}".format, few=few),
            row.verdict,
            "-" if scored is None else f"{scored.value:.2f}",
            "-" if change is None else f"{change.value:+.2f} ({change.low:+.2f} to {change.high:+.2f})",
        )
    console().print(rows)


def _span(figure: Figure, form: Callable[[float], str], *, few: bool) -> str:
    """A value with its interval; a single sample has none."""
    value, low, high = (form(x) for x in (figure.value, figure.low, figure.high))
    return f"{value} (1 sample)" if few else f"{value} ({low}-{high})"


def unit_map(measured: TaskSensitivity) -> dict[tuple[str, str], float]:
    """(role, depth) to its share of the loss in the units' most costly format; the shares sum to 1."""
    worst: dict[str, float] = {}
    place: dict[str, tuple[str, int]] = {}
    for cell in measured.units:
        worst[cell.unit] = max(worst.get(cell.unit, 0.0), cell.kl)
        place[cell.unit] = (cell.role, cell.block or 0)
    last = max((block for _, block in place.values()), default=0) + 1
    total = sum(worst.values()) or 1.0
    out: dict[tuple[str, str], float] = {}
    for unit, loss in worst.items():
        role, block = place[unit]
        depth = next(name for name, (low, high) in GRID.items() if low <= block / last < high)
        out[role, depth] = out.get((role, depth), 0.0) + loss / total
    return out


def maps(tasks: tuple[TaskSensitivity, ...]) -> list[dict[str, Any]]:
    """Rows of role, depth and each task's share of its loss, in the order of `GRID`."""
    found = {t.task: unit_map(t) for t in tasks}
    keys = dict.fromkeys(key for shares in found.values() for key in shares)
    return [
        {
            "role": role,
            "depth": depth,
            "shares": {name: shares.get((role, depth), 0.0) for name, shares in found.items()},
        }
        for role, depth in sorted(keys, key=lambda k: (k[0], list(GRID).index(k[1])))
    ]


def _show_map(tasks: tuple[TaskSensitivity, ...]) -> None:
    from advisor.cli.output import console, table

    rows = table(
        "\nwhich units matter: share of the loss at the lowest precision",
        ["units", "blocks", *(t.task for t in tasks)],
        right=tuple(range(2, 2 + len(tasks))),
    )
    for row in maps(tasks):
        rows.add_row(row["role"], row["depth"], *(f"{share:.1%}" for share in row["shares"].values()))
    console().print(rows)
    for task in tasks:
        top = sorted(task.units, key=lambda u: -u.kl)[:5]
        named = ", ".join(f"{u.unit.removeprefix('model.')} {nats(u.kl)}±{nats(u.error)}" for u in top)
        console().print(f"{task.task}, most sensitive: {named}", markup=False)


def _show_crossings(found: TasksResult) -> None:
    from advisor.cli.output import console, table

    if not found.crossings:
        return
    out = console()
    for pair in found.correlations:
        out.print(
            f"{pair.a} and {pair.b}: rank correlation of the units {pair.rank:.2f} (two measurements of one "
            f"task would reach {pair.ceiling:.2f})",
            markup=False,
        )
    rows = table(
        f"\nplans at {found.budget_bits:.2f} bits per weight on selection text that neither has seen",
        ["plan for", "measured on", "KL", "cost against its own plan, 95 %", "", ""],
        right=(2, 4),
    )
    for cross in found.crossings:
        against = f"{signed(cross.difference)} ({signed(cross.low)} to {signed(cross.high)})"
        own = cross.verdict == "own plan"
        share = f"{cross.difference / max(cross.own_kl, 1e-12):+.0%}"
        rows.add_row(
            cross.plan_for, cross.measured_on, nats(cross.kl), "" if own else against,
            "" if own else share, cross.verdict,
        )  # fmt: skip
    out.print(rows)
