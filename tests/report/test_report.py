"""The report: complete, self-contained, honest about what was not measured, safe with a model's text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from advisor.report import RunReport, collect, write_report
from advisor.report.charts import charts
from advisor.report.write import to_html, to_markdown

RunDir = Callable[..., Path]


class Page(HTMLParser):
    """Attributes that would load something, scripts, and the text outside of them."""

    LOADS = {"src", "href", "srcset", "data", "poster", "action", "background"}

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {k}={v}" for k, v in attrs if k in self.LOADS]
        named = dict(attrs)
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self.tags and self.tags[-1] == "script" else self.text).append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    return page


def test_the_page_loads_nothing_and_forbids_every_connection(run_dir: RunDir) -> None:
    html = to_html(collect(run_dir()))
    page = parsed(html)

    assert page.loads == []
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    assert "default-src 'none'" in page.policy
    assert "http" not in page.policy
    assert not re.search(r"@import|url\(\s*['\"]?https?:", html.partition("</style>")[0])


def test_what_a_model_wrote_cannot_act(run_dir: RunDir) -> None:
    report = collect(run_dir())
    page = parsed(to_html(report))

    assert len([t for t in page.tags if t == "script"]) == 3  # the library, the data, the drawing
    assert any("alert(1)" in t for t in page.text)  # shown, as text
    row = next(x for x in to_markdown(report).splitlines() if "alert" in x)
    assert "<" not in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_every_part_is_in_both_forms(run_dir: RunDir) -> None:
    report = collect(run_dir())
    html, markdown = "".join(parsed(to_html(report)).text), to_markdown(report)

    for words in ("Gates", "Front", "block by block", "Sensitivity", "Why", "Predicted against measured",
                  "how it is known", "Greedy answers", "Stages"):  # fmt: skip
        assert words in html, words
        assert words in markdown, words
    assert "measured" in {f.provenance.value for f in report.figures}
    assert "estimated" in {f.provenance.value for f in report.figures}
    assert all(f.source for f in report.figures)
    assert "NOT OK" in html
    assert "| ★ Advisor (TPE 7) | evaluate |" in markdown


def test_the_charts_are_what_plotly_takes(run_dir: RunDir) -> None:
    graph = pytest.importorskip("plotly.graph_objects")
    report = collect(run_dir())
    drawn = charts(report)

    assert set(drawn) == {"front", "plan", "heat", "promise"}
    for chart in drawn.values():
        graph.Figure(chart)  # refuses unknown properties and bad values
    html = to_html(report)
    data = re.search(r'id="charts">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == json.loads(json.dumps(drawn))
    plan = drawn["plan"]["data"][0]
    assert plan["y"] == ["qkv", "o", "gate_up", "down"]
    assert [len(row) for row in plan["z"]] == [2, 2, 2, 2]
    assert drawn["promise"]["data"][0]["x"] == [pytest.approx(3.0)]


def test_a_run_that_stopped_early_says_so(run_dir: RunDir) -> None:
    report = collect(run_dir(validated=False))

    assert report.outcome == "not validated"
    assert "not validated" in report.verdict.lower()
    assert (report.plan, report.points, report.gates) == ((), (), ())
    assert parsed(to_html(report)).loads == []
    assert "Gates" not in to_markdown(report)


def test_a_failed_gate_is_the_verdict(run_dir: RunDir) -> None:
    report = collect(run_dir(passed=False))

    assert report.outcome == "failed"
    assert "FAILED" in report.verdict
    assert "kernels" in report.verdict


def test_a_validation_of_another_plan_is_not_reported(run_dir: RunDir) -> None:
    root = run_dir()
    text = (root / "validation.json").read_text()
    found = json.loads(text)
    found["plan_key"] = "another"
    (root / "validation.json").write_text(json.dumps(found))

    assert collect(root).outcome == "not validated"


def test_nothing_tells_a_path_of_this_machine(run_dir: RunDir, tmp_path: Path) -> None:
    root = run_dir()
    write_report(root)

    assert str(tmp_path) not in (root / "report.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in (root / "report.html").read_text(encoding="utf-8")


def test_the_command_writes_prints_and_refuses(
    run_dir: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from advisor.__main__ import run

    root = run_dir()
    assert run(["report", "--run", str(root), "--markdown", str(tmp_path / "only.md")]) == 0
    assert (tmp_path / "only.md").exists()
    assert not (root / "report.html").exists()
    capsys.readouterr()

    assert run(["report", "--run", str(root), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert RunReport.model_validate(found).outcome == "passed"

    assert run(["report", "--run", str(tmp_path / "nowhere")]) == 2
    assert "next:" in capsys.readouterr().err
