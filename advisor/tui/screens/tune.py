"""Tune: start the search as a process of its own and watch what it measures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Grid, Horizontal
from textual.widget import Widget
from textual.widgets import Input, Static

from advisor.tui import run_files
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.session import Session
from advisor.tui.stage_words import stage_lines
from advisor.tui.widgets.front_plot import MARKS, FrontItem, FrontPlot, Sizes
from advisor.tui.widgets.layer_grid import plan_text
from advisor.tui.widgets.lists import Scroll, Table
from advisor.tui.widgets.sheet import Sheet
from advisor.tui.widgets.stepper import Stepper
from advisor.tui.words import duration, plain, size
from profiles.errors import AdvisorError
from tuners.events import Event

THROUGH = ("search", "quantize", "validate", "export")
REDRAW_GAP_S = 0.4
"""The plot is drawn at most this often, however many events come."""
LINE_STEP = 0.25
"""Bits per weight that < and > move the budget line."""
DEMO_RUN = Path("advisor-runs/demo")


class TuneScreen(AdvisorScreen):
    """Key 4."""

    NAME = "tune"
    HELP_TEXT = """\
 s         start, or go on with the run that was stopped: finished steps are kept
 x         stop, as Ctrl-C would
 p         pause: the run's processes are suspended and keep their memory; p again goes on
 d         the demo: a small real model through every stage
 < >       move the budget line on the plot (or drag it with the mouse); the plan below is the
           best one measured under it.  =  back to the budget of the run
 tab       budget, trials and last stage; then the lists

The run is a process of its own: it goes on when this window closes, and 7 opens it again.
Plot: o trial, x pruned, U uniform, E exact solution of the measured scores, * chosen plan."""
    AUTO_FOCUS = "#stages-panel"
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "tune.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "Start/resume", id="start"),
        Binding("x", "app.stop_work", "Stop", id="stop"),
        Binding("p", "app.pause_work", "Pause", id="pause"),
        Binding("d", "demo", "Demo", id="demo"),
        Binding("less_than_sign", "line(-1)", "Budget line down", show=False),
        Binding("greater_than_sign", "line(1)", "Budget line up", show=False),
        Binding("equals_sign", "line(0)", "Budget line back", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._line: float | None = None
        self._shown_trials = 0
        self._best = math.inf
        self._dirty = True

    def body(self) -> Iterable[Widget]:
        """The question above; stages, front, plan and trials below."""
        with Horizontal(id="form"):
            yield Static("budget", classes="label")
            yield Input(self.session.budget, placeholder="from the device", id="budget", compact=True)
            yield Static("trials", classes="label")
            yield Input(str(self.session.trials), type="integer", id="trials", compact=True)
            through = Stepper("through", [(t, t) for t in THROUGH], id="through")
            through.choose(self.session.through)
            yield through
        yield Sheet(id="problem", classes="error")
        with Grid(id="panels"):
            with Scroll(id="stages-panel", classes="panel") as stages:
                stages.border_title = "Stages"
                yield Sheet(id="stages")
            plot = FrontPlot(id="front", classes="panel")
            plot.border_subtitle = " ".join(f"{mark} {kind}" for kind, (mark, _) in MARKS.items())
            yield plot
            with Scroll(id="plan-panel", classes="panel") as plan:
                plan.border_title = "Plan"
                yield Sheet(id="plan")
            trials = Table("trial", "state", "KL", "bits", "s", id="history", classes="panel")
            trials.border_title = "Trials"
            yield trials

    def on_mount(self) -> None:
        """Draw what is known; then as events come."""
        super().on_mount()
        self.set_interval(REDRAW_GAP_S, self._redraw)
        self.shown_again()

    def twin(self) -> list[str]:
        """`advisor tune MODEL --budget ...`."""
        return self.session.tune_command()

    @on(Input.Changed)
    @on(Stepper.Changed)
    def _asked(self) -> None:
        self.session.budget = self.query_one("#budget", Input).value.strip()
        trials = self.query_one("#trials", Input).value
        self.session.trials = int(trials) if trials.isdigit() else self.session.trials
        self.session.through = str(self.query_one("#through", Stepper).value)
        self.refresh_lines()

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.set_focus(self.query_one("#stages-panel"))

    def action_start(self) -> None:
        """Start the run, or go on with it."""
        problem = self.query_one("#problem", Sheet)
        if self.session.model is None:
            problem.show("no model is chosen: 2 lists models, d runs the demo")
            return
        try:
            root = run_files.run_for(self.session)
        except AdvisorError as exc:
            problem.show(str(exc))
            return
        problem.show("")
        self.session.run = root
        self.advisor.start_work(self.session.tune_command(), root)
        self.refresh_lines()

    def action_demo(self) -> None:
        """The demo, in a run directory of its own."""
        session, plain_session = self.session, Session()
        arguments = ["demo", "--run", str(DEMO_RUN)]
        if session.budget and session.budget != plain_session.budget:
            arguments += ["--budget", session.budget]
        if session.trials != plain_session.trials:
            arguments += ["--trials", str(session.trials)]
        self.advisor.start_work(arguments, DEMO_RUN)

    def action_line(self, step: int) -> None:
        """Another budget: which measured plan is the best under it?"""
        budget = self._budget()
        line = self._line if self._line is not None else None if budget is None else budget[0]
        if line is not None:
            self._move(max(1.0, min(16.0, line + step * LINE_STEP)) if step else None)

    @on(FrontPlot.LineMoved)
    def _dragged(self, event: FrontPlot.LineMoved) -> None:
        self._move(event.bits)

    def _move(self, line: float | None) -> None:
        self._line = line
        self._draw_front()

    # what is shown

    def run_opened(self) -> None:
        """Another run."""
        self._line, self._shown_trials, self._best = None, 0, math.inf
        self.query_one("#history", Table).refill([])
        self.shown_again()

    def run_changed(self, events: list[Event]) -> None:
        """Draw at the next tick."""
        self._dirty = True

    def shown_again(self) -> None:
        """The session may have changed on another screen."""
        for name, value in (("#budget", self.session.budget), ("#trials", str(self.session.trials))):
            field = self.query_one(name, Input)
            if field.value != value and not field.has_focus:
                field.value = value
        self._dirty = True
        self._redraw()

    def on_resize(self) -> None:
        """The strip is wrapped to the width."""
        self._dirty = True

    def _redraw(self) -> None:
        if not self._dirty or not self.is_current:
            return
        self._dirty = False
        state = self.state
        self.query_one("#stages", Sheet).show(stage_lines(state, self.advisor.working()))
        self.query_one("#problem", Sheet).show(state.error_text if self.advisor.working() is None else "")
        self._draw_trials()
        self._draw_front()

    def _draw_front(self) -> None:
        items, budget = self.items(), self._budget()
        line = self._line if self._line is not None else None if budget is None else budget[0]
        plot = self.query_one("#front", FrontPlot)
        plot.draw(items, line, None if budget is None else budget[1])
        plot.border_title = "Front: KL against size" + (
            ""
            if line is None or budget is None
            else f", line at {line:.2f} bits = {size(budget[1].at(line))}"
        )
        self._draw_plan(items, line)

    def _budget(self) -> tuple[float, Sizes] | None:
        return None if self.state.root is None else run_files.budget(self.state.root)

    def items(self) -> list[FrontItem]:
        """Every measured plan as a point; held-out measurements are left to the report."""
        best = self.state.best_trial
        out = [
            FrontItem(
                "best" if t is best else "pruned" if t.state == "pruned" else "trial",
                t.bits_per_weight,
                t.kl,
                t.label,
                t.formats,
                "search",
            )
            for t in self.state.trials
            if t.kl is not None
        ]
        for p in self.state.front:
            if p.split != "evaluate":
                kind = "uniform" if "uniform" in p.label else "exact" if "exact" in p.label else "best"
                out.append(FrontItem(kind, p.bits_per_weight, p.kl, p.label, p.formats, p.split))
        return out

    def _draw_trials(self) -> None:
        """Only the new ones are added; a star marks what was the best when it came."""
        trials, table = self.state.trials, self.query_one("#history", Table)
        if len(trials) < self._shown_trials:
            self._shown_trials, self._best = 0, math.inf
            table.refill([])
        rows = []
        for index in range(self._shown_trials, len(trials)):
            t = trials[index]
            better = t.kl is not None and t.state in {"complete", "known"} and t.kl < self._best
            self._best = t.kl if better and t.kl is not None else self._best
            rows.append(
                (
                    str(index),
                    (
                        plain(f"{'*' if better else ' '}{t.number}", "bold green" if better else ""),
                        plain(t.state, "dim" if t.state == "pruned" else ""),
                        "-" if t.kl is None else f"{t.kl:.3g}",
                        f"{t.bits_per_weight:.3f}",
                        f"{t.seconds:.1f}",
                    ),
                )
            )
        if not rows:
            return
        self._shown_trials = len(trials)
        table.extend(rows)
        title = f"Trials {len(trials)}"
        if len(trials) > 1 and trials[-1].time > trials[0].time:
            per_second = (len(trials) - 1) / (trials[-1].time - trials[0].time)
            left = trials[-1].trials_total - len(trials)
            title += f" of {trials[-1].trials_total}, {per_second * 60:.1f} per minute"
            title += f", ETA {duration(left / per_second)}" if left > 0 and self.advisor.working() else ""
        table.border_title = title

    def _draw_plan(self, items: list[FrontItem], line: float | None) -> None:
        panel, state = self.query_one("#plan-panel"), self.state
        formats: dict[str, str] = {}
        title = "Plan: none measured yet"
        final = None if state.root is None or self._line is not None else run_files.plan(state.root)
        if final is not None:
            formats, title = dict(final.formats), f"Plan: {final.label or 'plan.yaml'}"
        elif line is not None:
            under = [i for i in items if i.bits <= line + 1e-6 and i.kind != "pruned" and i.formats]
            # Plans measured on the selection text are compared with each other, trials among themselves.
            under = [i for i in under if i.split == "select"] or under
            if under:
                found = min(under, key=lambda i: i.kl)
                formats = found.formats
                title = f"Best under {line:.2f} bits: {found.label}, {found.bits:.3f} bits, "
                title += f"KL {found.kl:.3g} measured"
            else:
                title = f"Nothing measured under {line:.2f} bits"
        panel.border_title = title
        text = Text("")
        if formats:
            text = plan_text(formats, self.advisor.unit_places(), max(40, panel.size.width - 4))
        self.query_one("#plan", Sheet).show(text)


SCREEN = TuneScreen
