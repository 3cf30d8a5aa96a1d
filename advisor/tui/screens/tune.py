"""Tune: start the search as a process of its own and watch what it measures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Grid
from textual.widget import Widget

from advisor.tui import run_files
from advisor.tui.run_state import FULL
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.session import Session
from advisor.tui.widgets.front_plot import MARKS, FrontItem, FrontPlot, Sizes
from advisor.tui.widgets.layer_grid import plan_text
from advisor.tui.widgets.lists import Scroll, Table
from advisor.tui.widgets.sheet import Sheet
from advisor.tui.widgets.stages import Stages
from advisor.tui.widgets.tune_form import TuneForm
from advisor.tui.words import duration, plain, size
from profiles.errors import AdvisorError
from tuners.events import Event, TrialFinished
from tuners.nats import nats

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
 e         edit the question: enter goes to the next field, left and right change a choice, escape
           goes back to the stages. ms/token: the slowest decoding step that is accepted, as
           predicted from timed layers (empty: any). method: how weights become codes (auto: what
           measured best for each format). recover: steps of training the checkpoint afterwards
 m         more fields, or fewer. objective fastest: the fastest plan that loses at most max KL (nats
           per token). memory: how the search holds the model (auto, resident, streamed, 4GiB).
           sensitivity: how layers are measured. latency: time layers here (auto), or estimate
 tab       stages, plan, trials, then the form

The run is a process of its own: it goes on when this window closes, and 7 opens it again.
Plot: o trial, x pruned, U uniform, E exact solution of the measured scores, f of the whole front,
 * best trial so far, then the chosen plan. enter on a trial shows its plan."""
    AUTO_FOCUS = "#stages-panel"
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "tune.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "edit", "Edit", id="edit"),
        Binding("m", "more", "More", id="more"),
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
        self._picked: TrialFinished | None = None
        self._items: list[FrontItem] = []
        self._trials: list[FrontItem] = []
        self._best = math.inf
        self._strip: tuple[object, object, int] = (None, None, 0)
        """What the strip of the plan was drawn from: drawing it takes longer than looking."""
        self._dirty = True
        self._problem = ""

    def body(self) -> Iterable[Widget]:
        """The question above; stages, front, plan and trials below."""
        yield TuneForm(self.session, id="form")
        yield Sheet(id="problem", classes="error")
        with Grid(id="panels"):
            yield Stages("no run: s starts one, d the demo, 7 opens an earlier one")
            plot = FrontPlot(id="front", classes="panel")
            plot.border_subtitle = " ".join(f"{mark} {kind}" for kind, (mark, _) in MARKS.items())
            yield plot
            with Scroll(id="plan-panel", classes="panel") as plan:
                plan.border_title = "Plan"
                yield Sheet(id="plan")
            trials = Table(
                ">trial", "state", ">KL", ">bits", ">ms/token", ">s", "plan", id="history", classes="panel"
            )
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

    @on(TuneForm.Changed)
    def _asked(self) -> None:
        self.query_one(TuneForm).take(self.session)
        self._complain("")
        self.refresh_lines()

    def action_edit(self) -> None:
        """To the first field of the form."""
        self.set_focus(self.query_one("#budget"))

    def action_more(self) -> None:
        """Open the fold of the form, or close it."""
        form = self.query_one(TuneForm)
        form.unfold(not form.unfolded)

    @on(TuneForm.Done)
    def _done(self) -> None:
        self.set_focus(self.query_one("#stages-panel"))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """One run at a time."""
        return action not in {"start", "demo"} or self.advisor.working() is None

    def action_start(self) -> None:
        """Start the run, or go on with it."""
        if self.session.model is None:
            self._complain("no model is chosen: 2 lists models, d runs the demo")
            return
        if not self.query_one(TuneForm).check():
            self._complain("")
            return
        try:
            root = run_files.run_for(self.session)
        except AdvisorError as exc:
            self._complain(str(exc))
            return
        self._complain("")
        self.session.run, self.session.opened = root, self.session.question
        self.advisor.start_work(self.session.tune_command(), root)
        self.refresh_lines()

    def _complain(self, text: str) -> None:
        """Say below the form what is wrong with it; else what ended the run."""
        self._problem = text
        text = text or self.query_one(TuneForm).problem
        if not text and self.advisor.working() is None:
            text = self.state.error_text
        problem = self.query_one("#problem", Sheet)
        problem.set_class(bool(text), "-shown")
        problem.show(text)

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
        """The line alone: no point is placed again."""
        self._line, self._picked = line, None
        budget = self._budget()
        line = self._line_at(budget)
        self.query_one("#front", FrontPlot).move_line(line)
        self._say_line(line, budget)
        self._draw_plan(line)

    @on(Table.Selected, "#history")
    def _chosen(self) -> None:
        self._picked = self.state.trials[self.query_one("#history", Table).cursor_row]
        self._draw_plan(None)

    # what is shown

    def run_opened(self) -> None:
        """Another run."""
        self._line, self._picked, self._trials = None, None, []
        self.query_one("#history", Table).refill([])
        self.shown_again()

    def run_changed(self, events: list[Event]) -> None:
        """Draw at the next tick."""
        self._dirty = True

    def shown_again(self) -> None:
        """The session may have changed on another screen."""
        self.query_one(TuneForm).show(self.session)
        self._dirty, self._problem = True, ""
        self._redraw()

    def on_resize(self) -> None:
        """The strip is wrapped to the width."""
        self._dirty = True

    def _redraw(self) -> None:
        if not self._dirty or not self.is_current:
            return
        self._dirty = False
        state = self.state
        self.query_one(Stages).show(state, self.advisor.working())
        self._complain(self._problem)
        self._draw_trials()
        self._draw_front()

    def _draw_front(self) -> None:
        budget = self._budget()
        line = self._line_at(budget)
        self._items = self.items()
        plot = self.query_one("#front", FrontPlot)
        plot.draw(self._items, line, None if budget is None else budget[1])
        self._say_line(line, budget)
        self._draw_plan(line)

    def _line_at(self, budget: tuple[float, Sizes] | None) -> float | None:
        """Where the user moved it, or the run's budget."""
        return self._line if self._line is not None else None if budget is None else budget[0]

    def _say_line(self, line: float | None, budget: tuple[float, Sizes] | None) -> None:
        title = "Front: KL against size"
        if line is not None and budget is not None:
            title += f", line at {line:.2f} bits = {size(budget[1].at(line))}"
        self.query_one("#front", FrontPlot).border_title = title

    def _budget(self) -> tuple[float, Sizes] | None:
        return None if self.state.root is None else run_files.budget(self.state.root)

    def items(self) -> list[FrontItem]:
        """Every measured plan as a point; held-out measurements are left to the report."""
        state = self.state
        if len(self._trials) > len(state.trials):
            self._trials = []
        for t in state.trials[len(self._trials) :]:
            kind = "pruned" if t.state == "pruned" else "trial"
            kl = math.inf if t.kl is None else t.kl
            self._trials.append(
                FrontItem(kind, t.bits_per_weight, kl, t.label, t.formats, "search", t.decode_ms)
            )
        out = [*self._trials]
        final = None if state.root is None else run_files.plan(state.root)
        if final is None and (best := state.best_trial) is not None:
            out.append(
                FrontItem(
                    "best",
                    best.bits_per_weight,
                    best.kl or 0,
                    best.label,
                    best.formats,
                    "search",
                    best.decode_ms,
                )
            )
        chosen = "" if final is None else final.label.removeprefix("Advisor (").removesuffix(")")
        for p in state.front:
            if p.split != "evaluate":
                kind = "best" if p.label == chosen else _kind(p.label)
                out.append(FrontItem(kind, p.bits_per_weight, p.kl, p.label, p.formats, p.split, p.decode_ms))
        return out

    def _draw_trials(self) -> None:
        """Only the new ones are added; a star marks what was the best when it came."""
        trials, listing = self.state.trials, self.query_one("#history", Table)
        if len(trials) < listing.row_count:
            listing.refill([])
        if not listing.row_count:
            self._best = math.inf
        rows = []
        for t in trials[listing.row_count :]:
            better = t.kl is not None and t.state in FULL and t.kl < self._best
            self._best = t.kl if better and t.kl is not None else self._best
            style = "bold green" if better else "dim" if t.state == "pruned" else ""
            cells = (
                f"{'* ' if better else ''}{t.number}",
                t.state,
                "-" if t.kl is None else nats(t.kl),
                f"{t.bits_per_weight:.3f}",
                "-" if t.decode_ms is None else f"{t.decode_ms:.3g}",
                f"{t.seconds:.1f}",
                t.label,
            )
            rows.append((str(t.number), tuple(plain(c, style) for c in cells)))
        if rows:
            listing.extend(rows)
        title = f"Trials {len(trials)}" if trials else "Trials"
        if len(trials) > 1 and trials[-1].time > trials[0].time:
            per_second = (len(trials) - 1) / (trials[-1].time - trials[0].time)
            left = trials[-1].trials_total - len(trials)
            title += f" of {trials[-1].trials_total}, {per_second * 60:.1f} per minute"
            title += f", ETA {duration(left / per_second)}" if left > 0 and self.advisor.working() else ""
        listing.border_title = title

    def _draw_plan(self, line: float | None) -> None:
        panel, state = self.query_one("#plan-panel"), self.state
        formats: dict[str, str] = {}
        title = "Plan: none measured yet"
        final = None if state.root is None or self._line is not None else run_files.plan(state.root)
        if self._picked is not None:
            t = self._picked
            formats, title = t.formats, f"Trial {t.number}: {t.label}, {t.bits_per_weight:.3f} bits"
            title += "" if t.kl is None else f", KL {nats(t.kl)} measured"
        elif final is not None:
            formats, title = final.formats, f"Plan: {final.label or 'plan.yaml'}"
        elif line is not None:
            under = [i for i in self._items if i.bits <= line + 1e-6 and i.kind != "pruned" and i.formats]
            # Plans measured on the selection text are compared with each other, trials among themselves.
            under = [i for i in under if i.split == "select"] or under
            if under:
                found = min(under, key=lambda i: i.kl)
                formats = found.formats
                title = f"Best under {line:.2f} bits: {found.label}, {found.bits:.3f} bits, "
                title += f"KL {nats(found.kl)} measured"
                if found.decode_ms is not None:
                    title += f", {found.decode_ms:.3g} ms/token predicted"
            else:
                title = f"Nothing measured under {line:.2f} bits"
        panel.border_title = title
        places, width = self.advisor.unit_places(), max(40, panel.size.width - 4)
        before = self._strip
        if formats is not before[0] or places is not before[1] or width != before[2]:
            self._strip = (formats, places, width)
            self.query_one("#plan", Sheet).show(plan_text(formats, places, width) if formats else Text(""))


def _kind(label: str) -> str:
    """What a measured plan of the front is, by the label that the search gives it."""
    kinds = {"uniform": "uniform", "exact": "exact", "front": "front"}
    return next((kind for begin, kind in kinds.items() if label.startswith(begin)), "trial")


SCREEN = TuneScreen
