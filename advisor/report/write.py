"""Render a report with jinja2: one HTML file that carries its charts and their library, and Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.report.charts import charts
from advisor.report.collect import collect
from advisor.report.schema import RunReport
from advisor.workspace import write_text
from profiles.errors import EnvironmentProblem
from tuners.nats import nats

if TYPE_CHECKING:
    from jinja2 import Environment

HTML, MARKDOWN = "report.html", "report.md"


def write_report(root: Path, *, html: Path | None = None, markdown: Path | None = None) -> RunReport:
    """Write the report of the run in `root`; by default to report.html and report.md inside it.

    Raises:
        UsageError: not a run directory.
        EnvironmentProblem: jinja2 or plotly is not installed, or the disk refuses.
    """
    if html is None and markdown is None:
        html, markdown = root / HTML, root / MARKDOWN
    report = collect(root)
    if markdown is not None:
        write_text(markdown, to_markdown(report))
    if html is not None:
        write_text(html, to_html(report))
    return report


def to_html(report: RunReport) -> str:
    """The whole page; its content security policy forbids every connection, so nothing can be fetched."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as exc:
        raise _missing("plotly") from exc
    page = _environment(autoescape=True).get_template("report.html.j2")
    return page.render(report=report, charts=_script_safe(charts(report)), plotly=get_plotlyjs())


def to_markdown(report: RunReport) -> str:
    """The same as Markdown, the plan as a grid of letters."""
    return (
        _environment(autoescape=False)
        .get_template("report.md.j2")
        .render(report=report, strip=letter_rows(report), hottest=_hottest(report))
    )


def letter_rows(report: RunReport) -> dict[str, str]:
    """Role -> one letter per block."""
    from advisor.report.charts import LETTERS
    from profiles.formats import get_format

    rows: dict[str, list[str]] = {}
    for cell in sorted(report.plan, key=lambda c: -1 if c.block is None else c.block):
        rows.setdefault(cell.role, []).append(LETTERS[get_format(cell.format).family])
    return {role: "".join(letters) for role, letters in rows.items()}


def _hottest(report: RunReport, count: int = 20) -> list[Any]:
    return sorted(report.sensitivity, key=lambda c: -c.kl)[:count]


def _script_safe(value: Any) -> str:
    """JSON that may stand inside a script element: no character that could end it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _environment(*, autoescape: bool) -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as exc:
        raise _missing("jinja2") from exc
    from advisor.cli.progress import duration
    from profiles.sizes import size

    env = Environment(
        loader=PackageLoader("advisor.report", "templates"), autoescape=autoescape,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    env.filters |= {"size": size, "duration": duration, "cell": _cell, "amount": _amount, "nats": nats}
    return env


def _amount(value: float | None, unit: str) -> str:
    from profiles.sizes import size

    if value is None:
        return "-"
    return size(value) if unit == "B" else f"{value:,.6g}"


def _cell(text: object, limit: int = 400) -> str:
    """Text for one cell of a Markdown table: model output is data, nothing in it may act."""
    flat = " ".join(str(text).split())
    flat = flat if len(flat) <= limit else flat[: limit - 1] + "…"
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`"), ("*", "\\*"),
                       ("_", "\\_"), ("[", "\\["), ("]", "\\]")):  # fmt: skip
        flat = flat.replace(mark, safe)
    return flat


def _missing(package: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{package} is not installed: it draws the report",
        next_step="pip install 'precision-advisor[report]', or --markdown FILE without --html",
    )
