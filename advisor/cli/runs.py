"""`advisor runs`: the run directories and how far each came."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from advisor.cli.options import Json


def runs(
    directory: Annotated[Path, Parameter(help="Where the run directories are.")] = Path("advisor-runs"),
    /,
    *,
    json: Json = False,
) -> int:
    """List runs: the question, the finished stages, the verdict."""
    from advisor.cli.output import console, print_json, table

    found = [describe(p.parent) for p in sorted(directory.glob("*/inputs.yaml"))]
    if json:
        print_json(found)
        return 0
    out = console()
    if not found:
        out.print(f"no runs in {directory}: advisor tune MODEL --budget 5.5bits starts one")
        return 0
    listing = table(None, ["run", "budget", "task", "finished", "last words"])
    for run in found:
        listing.add_row(
            run["run"], run["budget"] or "derived", run["task"], " ".join(run["stages"]), run["summary"]
        )
    out.print(listing)
    return 0


def describe(root: Path) -> dict[str, Any]:
    """One run as data; a damaged one says so instead of hiding the others."""
    from advisor.pipeline.inputs import load_inputs
    from advisor.workspace import Workspace
    from profiles.errors import UsageError

    workspace = Workspace.read_only(root)
    records = workspace.records()
    try:
        inputs = load_inputs(workspace)
        model, budget, task = inputs.model, inputs.budget, inputs.task
    except UsageError as exc:
        model, budget, task = f"unreadable: {exc.got}", None, "-"
    last = list(records.values())[-1] if records else None
    return {
        "run": str(root),
        "model": model,
        "budget": budget,
        "task": task,
        "stages": list(records),
        "seconds": sum(r.seconds for r in records.values()),
        "summary": last.summary if last else "nothing finished",
    }
