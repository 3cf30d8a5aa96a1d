"""Validate: stages, what was promised against what the engine measured, answers side by side, verdict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from rich.table import Table as RichTable
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Grid
from textual.widget import Widget

from advisor.tui import run_files
from advisor.tui.process import tail
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.stage_words import NO_RUN
from advisor.tui.widgets.lists import Scroll, Table
from advisor.tui.widgets.sheet import Sheet
from advisor.tui.widgets.stages import Stages
from advisor.tui.words import plain, size
from tuners.events import Event, Measured

if TYPE_CHECKING:
    from tuners.validate.schema import Line, ValidationReport

LOGS = ("validate", "measure-original", "quantize", "search")
"""The log that is shown is the first of these that exists and was written last."""
REDRAW_GAP_S = 0.3
SIDE_BY_SIDE = 100
"""Columns of the terminal from which two answers stand beside each other."""


class ValidateScreen(AdvisorScreen):
    """Key 5."""

    NAME = "validate"
    HELP_TEXT = """\
 s         quantize if needed, then load original and checkpoint in the engine and compare
 x         stop
 l         the engine's (or quantizer's) log instead of the answers, and back
 tab       stages, measurements, answers: each scrolls

A gate that fails is a result: the verdict says which and why, and the bundle refuses to serve."""
    AUTO_FOCUS = "#lines"
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "validate.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "Validate", id="validate.start"),
        Binding("x", "app.stop_work", "Stop", id="stop"),
        Binding("l", "log", "Log", id="log"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._log = False
        self._dirty = True

    def body(self) -> Iterable[Widget]:
        """Verdict above; stages and measurements; answers or log below."""
        yield Sheet(id="verdict")
        with Grid(id="panels"):
            yield Stages()
            lines = Table("ok", "line", ">predicted", ">measured", ">off by", id="lines", classes="panel")
            lines.border_title = "Predicted and measured"
            yield lines
            with Scroll(id="answers-panel", classes="panel"):
                yield Sheet(id="answers")

    def on_mount(self) -> None:
        """Draw what is known, then as events come."""
        super().on_mount()
        self.set_interval(REDRAW_GAP_S, self._redraw)
        self.shown_again()

    def twin(self) -> list[str]:
        """`advisor validate --run DIR`."""
        return self.session.stage_command("validate")

    def action_start(self) -> None:
        """Run the stages up to validation."""
        if self.session.run is None:
            self.notify(NO_RUN, severity="warning")
            return
        self.advisor.start_work(self.twin(), self.session.run)

    def action_log(self) -> None:
        """Log or answers."""
        self._log = not self._log
        self._dirty = True
        self._redraw()

    def run_opened(self) -> None:
        """Another run."""
        self.shown_again()

    def run_changed(self, events: list[Event]) -> None:
        """Draw at the next tick."""
        self._dirty = True

    def on_resize(self) -> None:
        """Answers stand beside each other where there is room."""
        self._dirty = True

    def shown_again(self) -> None:
        """Draw now."""
        self._dirty = True
        self._redraw()

    def _redraw(self) -> None:
        if not self.is_current or not (self._dirty or self._log):
            return
        root = self.state.root
        if self._log:
            self._draw_log()
        if not self._dirty:
            return
        self._dirty = False
        self.query_one(Stages).show(self.state, self.advisor.working())
        report = None if root is None else run_files.validation(root)
        self.query_one("#verdict", Sheet).show(self._verdict(report))
        measured: Iterable[Line | Measured] = self.state.measured.values() if report is None else report.lines
        self.query_one("#lines", Table).refill([(m.name, _line(m)) for m in measured])
        if not self._log:
            panel = self.query_one("#answers-panel")
            panel.border_title = "Answers of the original and the quantized model (l: log)"
            self.query_one("#answers", Sheet).show(
                Text("no answers yet", style="dim")
                if report is None
                else _answers(report, side_by_side=panel.size.width >= SIDE_BY_SIDE)
            )

    def _verdict(self, report: ValidationReport | None) -> Text:
        state = self.state
        if state.error is not None and self.advisor.working() is None:
            return plain(state.error_text, "red")
        if state.root is None:
            return plain(NO_RUN, "dim")
        if report is None and self.advisor.working() is not None:
            return plain("not validated yet: the run is at work; x stops it", "dim")
        if report is None:
            return plain("not validated yet: s quantizes and validates the run that is open", "dim")
        words = ("✓ PASSED", "bold green") if report.passed else ("✗ FAILED", "bold red")
        found = report.quantized
        out = Text.assemble(
            words, f"  measured in vLLM {found.engine_version}, {found.dtype}; plan {report.plan_key}"
        )
        for gate in (g for g in report.gates if not g.passed):
            out.append(f"\n✗ {gate.name}", style="bold red")
            out.append(f": {gate.reason}", style="red")
        for gate in (g for g in report.gates if g.mark == "open"):
            out.append(f"\n? {gate.name}", style="yellow")
            out.append(f": {gate.reason}")
        good = [g for g in report.gates if g.mark == "pass"]
        if self.narrow and good:
            out.append(f"\n✓ {', '.join(g.name for g in good)}", style="green")
        else:
            for gate in good:
                out.append(f"\n✓ {gate.name}", style="green")
                out.append(f": {gate.reason}")
        for module, (planned, chosen) in list(report.kernel_mismatches.items())[:3]:
            out.append(f"\nkernel of {module}: planned {planned}, chosen {chosen}", style="yellow")
        return out

    def _draw_log(self) -> None:
        panel, root = self.query_one("#answers-panel", Scroll), self.state.root
        files = [] if root is None else [root / "logs" / f"{name}.log" for name in LOGS]
        files = sorted((f for f in files if f.exists()), key=lambda f: f.stat().st_mtime)
        if not files:
            panel.border_title = "Log (l: answers)"
            self.query_one("#answers", Sheet).show("no child process has printed anything yet")
            return
        panel.border_title = f"Log: {files[-1]} (l: answers)"
        at_end = panel.max_scroll_y - panel.scroll_y < 2
        self.query_one("#answers", Sheet).show(plain(tail(files[-1])))
        if at_end:
            panel.scroll_end(animate=False)


def _line(line: Line | Measured) -> tuple[str | Text, ...]:
    ok = "" if line.ok is None else "✓" if line.ok else "✗"
    off = ""
    if line.predicted and line.predicted != line.measured:
        off = f"{(line.measured / line.predicted - 1) * 100:+.2f}%"
    return (
        plain(ok, "green" if line.ok else "bold red"),
        line.name,
        "-" if line.predicted is None else _number(line.predicted, line.unit),
        _number(line.measured, line.unit),
        off,
    )


def _number(value: float, unit: str) -> str:
    if unit == "B":
        return size(value)
    short = {"perplexity": "", "ratio": "x", "share": "", "nats/token": "nats"}.get(unit, unit)
    return f"{value:,.5g} {short}".rstrip() if value < 1e4 else f"{value:,.0f} {short}".rstrip()


def _answers(report: ValidationReport, *, side_by_side: bool) -> RichTable | Text:
    prompts = report.quantized.prompts or report.original.prompts
    pairs = [
        tuple(
            m.generations[i].strip() if i < len(m.generations) else "-"
            for m in (report.original, report.quantized)
        )
        for i in range(len(prompts))
    ]
    if side_by_side:
        table = RichTable.grid(padding=(0, 2, 1, 0), expand=True)
        for _ in range(2):
            table.add_column(ratio=1)
        table.add_row(Text("original", "bold"), Text("quantized", "bold"))
        for prompt, pair in zip(prompts, pairs, strict=True):
            table.add_row(*(Text.assemble((f"{prompt.strip()}\n", "dim italic"), answer) for answer in pair))
        return table
    out = Text()
    for prompt, pair in zip(prompts, pairs, strict=True):
        out.append(f"{prompt.strip()}\n", style="bold")
        for name, answer in zip(("original ", "quantized"), pair, strict=True):
            out.append(f"{name} │ ", style="dim")
            out.append(f"{answer}\n")
        out.append("\n")
    return out


SCREEN = ValidateScreen
