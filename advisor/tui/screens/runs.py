"""Runs: every run directory here; open, compare two plans, delete."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Input, Static

from advisor.tui import run_files
from advisor.tui.messages import Failed, Loaded
from advisor.tui.process import owner
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.session import Session, at_home
from advisor.tui.widgets.lists import Table
from advisor.tui.words import duration, plain
from advisor.workspace import RUNS_DIR
from tuners.events import Event
from tuners.nats import nats


class RunsScreen(AdvisorScreen):
    """Key 7."""

    NAME = "runs"
    HELP_TEXT = """\
 enter     open: the other screens show this run; a run that works is followed live
 r         resume: the stages that are missing, up to the bundle
 space     mark, then v on another run: what differs between the two plans
 v         compare the marked run's plan with this one
 D         delete the run directory, after a question
 /         filter           R    look again

A run whose process still works cannot be deleted: stop it first (4, then x)."""
    AUTO_FOCUS = "#runs"
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "runs.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        # Priority: letters typed right after it must find the field focused, not a list with keys of its own.
        Binding("slash", "filter", "Filter", key_display="/", id="filter", priority=True),
        Binding("down", "filter_done", "To the list", show=False),
        Binding("r", "resume", "Resume", id="resume"),
        Binding("v", "compare", "Compare", id="compare"),
        Binding("D", "delete", "Delete", id="delete"),
        Binding("space", "mark", "Mark", show=False, id="mark"),
        Binding("R", "reread", "Look again", show=False, id="reread"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[dict[str, Any]] = []
        self._marked: str | None = None

    def body(self) -> Iterable[Widget]:
        """Filter, table, and the words of the run under the cursor."""
        with Vertical(id="runs-panel", classes="panel") as panel:
            panel.border_title = "Runs"
            yield Input(placeholder="/ filter: model, task, stage", id="filter", compact=True)
            yield Table(
                "", "~run", "budget", "task", "last stage", ">bits", ">KL", "verdict", ">time", id="runs"
            )
        yield Static("", id="words", markup=False)

    def on_mount(self) -> None:
        """Look for runs in a thread."""
        super().on_mount()
        self._read()

    def twin(self) -> list[str]:
        """`advisor runs`."""
        return ["runs"]

    def shown_again(self) -> None:
        """Stages may have finished."""
        self._read()

    def run_changed(self, events: list[Event]) -> None:
        """A stage that ended changes its row."""
        if not events or any(e.kind in ("stage_finished", "stage_failed") for e in events):
            self._read()

    def action_reread(self) -> None:
        """Look again."""
        self._read()

    @work(thread=True, exclusive=True, exit_on_error=False, group="runs")
    def _read(self) -> None:
        from advisor.cli.runs import describe

        roots = {p.parent for p in Path(RUNS_DIR).glob("*/inputs.yaml")}
        if self.session.run is not None and (self.session.run / "inputs.yaml").exists():
            roots = {r for r in roots if r.resolve() != self.session.run.resolve()} | {self.session.run}
        found = [{**describe(r), "owner": owner(r), "outcome": run_files.outcome(r)} for r in sorted(roots)]
        self.post_message(Loaded("runs", found))

    @on(Loaded)
    def _loaded(self, message: Loaded) -> None:
        if isinstance(message.value, list) and not message.late:
            self._runs = message.value
            self._fill()

    def _fill(self) -> None:
        words = self.query_one("#filter", Input).value.lower().split()
        opened = str(self.session.run)
        rows = []
        for run in self._runs:
            text = f"{run['run']} {run['model']} {run['task']} {' '.join(run['stages'])}".lower()
            if all(w in text for w in words):
                signs = (
                    ("●" if run["run"] == opened else " ")
                    + ("▶" if run["owner"] else " ")
                    + ("+" if run["run"] == self._marked else " ")
                )
                rows.append(
                    (
                        run["run"],
                        (
                            signs,
                            Path(run["run"]).name,
                            run["budget"] or "derived",
                            Path(run["task"]).name,
                            _last_stage(run["stages"]),
                            *_outcome(run["outcome"]),
                            duration(run["seconds"]),
                        ),
                    )
                )
        self.query_one("#runs", Table).refill(rows)
        self.query_one("#runs-panel").border_title = (
            f"Runs: {len(rows)} in {RUNS_DIR} (● open, ▶ working, + marked)"
            if self._runs
            else f"no runs in {RUNS_DIR}: 4 starts one"
        )
        self._describe()

    @property
    def _here(self) -> dict[str, Any] | None:
        key = self.query_one("#runs", Table).row_key
        return next((r for r in self._runs if r["run"] == key), None)

    @on(Table.Highlighted, "#runs")
    def _describe(self) -> None:
        run = self._here
        text = "" if run is None else f"{at_home(run['model'])}\n{run['summary']}"
        self.query_one("#words", Static).update(text)

    @on(Table.Selected, "#runs")
    def _open(self) -> None:
        run = self._here
        if run is not None:
            self.advisor.open_run(Path(run["run"]))
            self._fill()
            self.notify(f"open: {run['run']}", markup=False)

    def action_resume(self) -> None:
        """Run the stages that are missing, with the question that the run was asked."""
        run = self._here
        if run is None:
            return
        root = Path(run["run"])
        session = Session(through="export")
        run_files.adopt(session, root)
        if "search" in run["stages"]:
            arguments = session.stage_command("export")
        elif session.model is not None:
            arguments = session.tune_command()
        else:
            self.notify(f"{root}: its inputs.yaml cannot be read", severity="error", markup=False)
            return
        self.advisor.start_work(arguments, root)

    def action_mark(self) -> None:
        """Mark for a comparison, or take the mark away."""
        run = self._here
        if run is not None:
            self._marked = None if self._marked == run["run"] else run["run"]
            self._fill()

    def action_compare(self) -> None:
        """What differs between the marked plan and this one."""
        run = self._here
        if run is None or self._marked is None or self._marked == run["run"]:
            self.notify("mark one run with space, then press v on another")
            return
        from advisor.tui.screens.compare import CompareScreen

        self.app.push_screen(CompareScreen(Path(self._marked), Path(run["run"])))

    def action_delete(self) -> None:
        """Delete after a question; never a run that works."""
        run = self._here
        if run is None:
            return
        root = Path(run["run"])
        if owner(root) is not None:
            self.notify("a process works in this run: stop it first", severity="warning")
            return
        from advisor.tui.screens.confirm import Choice, ConfirmScreen

        def decided(answer: str | None) -> None:
            if answer == "delete":
                self._delete(root)

        self.app.push_screen(
            ConfirmScreen(
                f"Delete {root} with its checkpoint, study and bundle? This cannot be undone.",
                (Choice("delete", "Delete", "D"), Choice("keep", "Keep", "escape")),
            ),
            decided,
        )

    @work(thread=True, exit_on_error=False, group="delete")
    def _delete(self, root: Path) -> None:
        if not (root / "inputs.yaml").exists() or owner(root) is not None:
            self.post_message(Failed(f"{root} is not a run that can be deleted now"))
            return
        try:
            shutil.rmtree(root)
        except OSError as exc:
            self.post_message(Failed(f"cannot delete {root}: {exc}"))
        self.app.call_from_thread(self._deleted, root)

    def _deleted(self, root: Path) -> None:
        if self.session.run == root:
            self.advisor.close_run()
        self._read()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In a field, / is a letter."""
        return not (action == "filter" and isinstance(self.focused, Input))

    def action_filter(self) -> None:
        """To the filter."""
        self.set_focus(self.query_one("#filter"))

    def action_leave_field(self) -> None:
        """Escape empties the filter and goes back to the table."""
        self.query_one("#filter", Input).value = ""
        self.set_focus(self.query_one("#runs"))

    @on(Input.Changed, "#filter")
    def _filtered(self) -> None:
        self._fill()

    @on(Input.Submitted, "#filter")
    def action_filter_done(self) -> None:
        """From the filter to the list."""
        self.set_focus(self.query_one("#runs"))


def _last_stage(stages: list[str]) -> str:
    """The furthest stage that is finished."""
    order = (
        "profile",
        "footprint",
        "latency",
        "search",
        "quantize",
        "measure-original",
        "validate",
        "export",
    )
    return next((name for name in reversed(order) if name in stages), "nothing yet")


def _outcome(found: run_files.Outcome) -> tuple[str | Text, ...]:
    verdict = plain("-", "dim")
    if found.passed is not None:
        verdict = plain("✓ passed", "green") if found.passed else plain("✗ failed", "red")
    return (
        "-" if found.bits is None else f"{found.bits:.3f}",
        "-" if found.kl is None else nats(found.kl),
        verdict,
    )


SCREEN = RunsScreen
