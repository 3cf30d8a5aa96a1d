"""`advisor tasks`: what a model may be for, how sensitive each use is said to be, and its own texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from advisor.cli.options import Json

if TYPE_CHECKING:
    from profiles.tasks import TaskProfile

OWN_FORMAT = (
    "your own task is a file, --task PATH:",
    "  .txt, .md   documents separated by blank lines; every token counts",
    '  .jsonl      one item a line: {"text": ...}, or {"prompt": ..., "answer": ...} where only the answer',
    '              counts ("choices": [...] beside them makes it a choice), or {"messages": [{"role": ...,',
    '              "content": ...}]} where the assistant\'s last turn counts; "id" and "genre" are ignored',
    "  UTF-8, at least 3 items (100 or more give usable intervals); the items are split by their hash:",
    "  half searches, a fifth chooses among finalists, three tenths are held out",
    "a mixture of tasks is a task: --task 'code:0.7,chat:0.3'",
)


def tasks(
    name: Annotated[
        str | None, Parameter(help="A task, a file of your own, or a mixture; none lists.")
    ] = None,
    /,
    *,
    json: Json = False,
) -> int:
    """List the tasks, or show one: prior with its sources, texts, scorer, public data."""
    from advisor.cli.output import print_json
    from advisor.recommend.posterior import beliefs
    from profiles.tasks import list_tasks, load_task

    if name is None:
        found = list_tasks()
        if json:
            print_json([summary(task) for task in found])
        else:
            _list(found)
        return 0
    task = load_task(name)
    if json:
        print_json(
            {
                **summary(task),
                "expected_loss": {b.family: b.prior for b in beliefs(task, None)},
                "prior_losses": task.prior_losses,
                "hub": task.hub,
                "notes": task.notes,
            }
        )
    else:
        _show(task)
    return 0


def summary(task: TaskProfile) -> dict[str, Any]:
    """A task without its texts."""
    return {
        "name": task.name,
        "title": task.title,
        "sensitivity": task.prior,
        "sensitivity_source": task.prior_source,
        "quality_floor_ppl_ratio": task.quality_floor_ppl_ratio,
        "scorers": sorted({item.scorer for item in task.items}),
        "items": {part: len(getattr(task.splits, part)) for part in ("search", "select", "evaluate")},
        "answers_weighted": bool(task.splits.answers) or any(p.splits.answers for p in task.parts),
        "tokens_per_sequence": task.seq_len,
        "origin": task.origin,
        "licence": task.licence,
    }


def _list(found: list[TaskProfile]) -> None:
    from advisor.cli.output import console, table

    rows = table(None, ["task", "", "prior", "floor", "search/select/held out", "scorer"], right=(3, 4))
    for task in found:
        facts = summary(task)
        rows.add_row(
            task.name, task.title, task.prior, f"{task.quality_floor_ppl_ratio:.2f} x ppl",
            "/".join(str(n) for n in facts["items"].values()), ", ".join(facts["scorers"]),
        )  # fmt: skip
    out = console()
    out.print(rows)
    out.print("\nprior: what the decision framework says before anything is measured", markup=False)
    for text in OWN_FORMAT:
        out.print(text, markup=False)
    out.print("next: advisor tasks NAME shows one, advisor sensitivity MODEL --task NAME measures it")


def _show(task: TaskProfile) -> None:
    from advisor.cli.output import console, table
    from advisor.recommend.posterior import beliefs

    out, facts = console(), summary(task)
    out.print(f"{task.name}: {task.title}", markup=False)
    out.print(f"sensitivity {task.prior}: {task.prior_source}", markup=False)
    floor = f"quality floor: at most {task.quality_floor_ppl_ratio:g} times the original's perplexity"
    out.print(f"{floor} ({task.quality_floor_source})", markup=False)
    counts = ", ".join(f"{count} {part}" for part, count in facts["items"].items())
    counted = "the answer's tokens count" if facts["answers_weighted"] else "every token counts"
    out.print(f"texts: {counted}; {counts}; {task.origin} ({task.licence})", markup=False)
    out.print(f"scorer: {', '.join(facts['scorers']) or 'none'}", markup=False)
    out.print("\nexpected loss before anything is measured (estimated)", markup=False)
    for belief in beliefs(task, None):
        loss = belief.prior
        known = f"{loss.value:.1f} ({loss.low:.1f} to {loss.high:.1f}) {loss.unit}"
        out.print(f"  {belief.family}: {known}: {loss.source}", markup=False)
    if task.prior_losses:
        rows = table("\npublished losses", ["format", "method", "benchmark", "model", "lost", "source"])
        for prior in task.prior_losses:
            loss = prior.loss
            rows.add_row(
                prior.family, prior.method, prior.benchmark, prior.model,
                f"{loss.value:g} ({loss.low:g} to {loss.high:g}) {loss.unit}", loss.source,
            )  # fmt: skip
        out.print(rows)
    for source in task.hub:
        config = f" {source.config}" if source.config else ""
        out.print(
            f"public data for {source.use}: {source.dataset}{config}, {source.split} at {source.revision} "
            f"(licence: {source.licence}; revision as public code pins it; never downloaded by itself)",
            markup=False,
        )
    for note in task.notes:
        out.print(f"note: {note}", markup=False)
