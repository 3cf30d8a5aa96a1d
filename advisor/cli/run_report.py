"""`advisor report`: what a run found, as one HTML file that needs no network, and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from advisor.cli.options import Json


def report(
    *,
    run: Annotated[Path, Parameter(name="--run", help="The run directory.")],
    html: Annotated[Path | None, Parameter(name="--html", help="Where the page goes.")] = None,
    markdown: Annotated[Path | None, Parameter(name="--markdown", help="Where the Markdown goes.")] = None,
    json: Json = False,
) -> int:
    """Front, per-layer plan, sensitivity, predicted against measured, gates, reasons, and the source of
    every figure. Without --html and --markdown: report.html and report.md in the run directory; with
    --json alone the same content is printed and nothing is written."""
    from advisor.cli.output import console, print_json
    from advisor.report import collect, write_report
    from advisor.report.write import HTML, MARKDOWN

    if json and html is None and markdown is None:
        print_json(collect(run))
        return 0
    found = write_report(run, html=html, markdown=markdown)
    if json:
        print_json(found)
        return 0
    written = [p for p in (html, markdown) if p is not None] or [run / HTML, run / MARKDOWN]
    out = console()
    out.print(f"{found.title}: {found.verdict}", markup=False, soft_wrap=True)
    for path in written:
        out.print(f"written: {path}", markup=False, soft_wrap=True)
    return 0
