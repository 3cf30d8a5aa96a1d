"""Task: what the model is for, what is recommended and why, and what was measured on the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Static

from advisor.tui.messages import Failed, Loaded
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.stage_words import NO_RUN
from advisor.tui.widgets.layer_grid import heat_text
from advisor.tui.widgets.lists import Scroll, Table
from advisor.tui.widgets.sheet import Sheet
from advisor.tui.words import plain, size
from tuners.events import Event, SensitivityMeasured

if TYPE_CHECKING:
    from advisor.recommend.schema import Recommendation
    from profiles.tasks import TaskProfile

REDRAW_GAP_S = 0.4
STANCE = {"for": ("+", "green"), "against": ("-", "red"), "neutral": ("·", "dim")}


class TaskScreen(AdvisorScreen):
    """Key 3."""

    NAME = "task"
    HELP_TEXT = """\
 enter     choose the task
 u         what the deployment is for: quality, production, cost, personal, edge
 o         your own text: a folder or a file
 tab       to the recommendation and the sensitivity map, to scroll them

Recommendation: + speaks for, - against, · is evidence without a vote. Priors come from the decision
framework; the map below is measured on this model by the run that is open."""
    AUTO_FOCUS = "#tasks"
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "task.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "use", "Use", id="use"),
        Binding("o", "own", "Own text", id="own"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[str, TaskProfile] = {}
        self._dirty = False

    def body(self) -> Iterable[Widget]:
        """Tasks on the left, recommendation on the right, the map below."""
        with Horizontal(id="upper"):
            with Vertical(id="tasks-panel", classes="panel") as panel:
                panel.border_title = "Tasks"
                yield Table("", "task", "prior", "floor", id="tasks")
            with Scroll(id="advice-panel", classes="panel") as advice:
                advice.border_title = "Recommendation"
                yield Static("", id="advice")
        with Scroll(id="heat-panel", classes="panel") as heat:
            heat.border_title = "Measured sensitivity"
            yield Sheet(id="heat")

    def on_mount(self) -> None:
        """Tasks are read in a thread: their texts take a moment."""
        super().on_mount()
        self.set_interval(REDRAW_GAP_S, self._redraw)
        self._read()

    def twin(self) -> list[str]:
        """The task is an option of `advisor tune`."""
        return self.session.tune_command()

    @work(thread=True, exclusive=True, exit_on_error=False, group="tasks")
    def _read(self) -> None:
        from profiles.tasks import list_tasks

        self.post_message(Loaded("tasks", list_tasks()))

    @work(thread=True, exclusive=True, exit_on_error=False, group="advice")
    def _advise(self) -> None:
        from advisor.recommend import recommend
        from advisor.tui.estimating import prepared
        from profiles.errors import AdvisorError

        session = self.session
        try:
            model = None
            if session.model is not None and session.hardware is not None:
                model = prepared(session.model, session.hardware, session.tp).model
            found = recommend(session.task, use=session.use, hardware=session.hardware, model=model)
            self.post_message(Loaded("advice", found))
        except AdvisorError as exc:
            self.post_message(Failed(str(exc), "advice"))

    @on(Failed)
    def _no_advice(self, message: Failed) -> None:
        message.stop()
        if not message.late:
            self.query_one("#advice", Static).update(plain(message.text, "red"))

    @on(Loaded)
    def _loaded(self, message: Loaded) -> None:
        from advisor.recommend.schema import Recommendation

        if message.late:
            return
        if isinstance(message.value, Recommendation):
            self.query_one("#advice", Static).update(_advice(message.value))
        elif isinstance(message.value, list):
            self._tasks = {t.name: t for t in message.value}
            self._fill()
            table = self.query_one("#tasks", Table)
            names = list(self._tasks)
            if self.session.task in names:
                table.move_cursor(row=names.index(self.session.task))
            self.shown_again()

    def _fill(self) -> None:
        rows = [
            (
                t.name,
                (
                    "●" if t.name == self.session.task else " ",
                    t.title,
                    t.prior,
                    f"{t.quality_floor_ppl_ratio:.2f} x ppl",
                ),
            )
            for t in self._tasks.values()
        ]
        self.query_one("#tasks", Table).refill(rows)

    @on(Table.Selected, "#tasks")
    def _chosen(self) -> None:
        name = self.query_one("#tasks", Table).row_key
        if name:
            self.session.task = name
            self._fill()
            self.shown_again()
            self.refresh_lines()

    def action_use(self) -> None:
        """The next use."""
        from advisor.recommend.schema import Use

        uses = [None, *(u.value for u in Use)]
        self.session.use = uses[(uses.index(self.session.use) + 1) % len(uses)]
        self.shown_again()

    def action_own(self) -> None:
        """Text of the user's own."""
        from advisor.tui.screens.picker import PromptScreen

        def given(text: str | None) -> None:
            if text:
                self.session.task = text
                self._fill()
                self.shown_again()
                self.refresh_lines()

        self.app.push_screen(
            PromptScreen("Your own text", "a folder, or a .txt, .md or .jsonl file", folders=True), given
        )

    def hardware_changed(self) -> None:
        """Another device: other kernels."""
        self.shown_again()

    def shown_again(self) -> None:
        """Recommendation and map for what is chosen now."""
        self.query_one(
            "#advice-panel"
        ).border_title = (
            f"Recommendation for {self.session.task}, use: {self.session.use or 'any'} (u changes)"
        )
        chosen = self._tasks.get(self.session.task)
        self.query_one("#tasks-panel").border_subtitle = (
            ""
            if chosen is None
            else f"sensitivity {chosen.prior}; floor {chosen.quality_floor_ppl_ratio:.2f} x perplexity"
        )
        self._advise()
        self._draw()

    def run_opened(self) -> None:
        """Another run: another map."""
        self._draw()

    def run_changed(self, events: list[Event]) -> None:
        """New cells of the map: drawn at the next tick, however many come."""
        self._dirty = self._dirty or any(isinstance(e, SensitivityMeasured) for e in events)

    def _redraw(self) -> None:
        if self._dirty and self.is_current:
            self._dirty = False
            self._draw()

    def on_resize(self) -> None:
        """The map is wrapped to the width."""
        if self.is_mounted:
            self._draw()

    def _draw(self) -> None:
        panel = self.query_one("#heat-panel")
        state = self.state
        if state.root is None:
            text = Text(NO_RUN, style="dim")
        else:
            text = heat_text(state.sensitivity, self.advisor.unit_places(), max(40, panel.size.width - 4))
        self.query_one("#heat", Sheet).show(text)
        cells = sum(len(row) for row in state.sensitivity.values())
        panel.border_title = "Measured sensitivity: KL with one unit in that format" + (
            f", {cells} cells" if cells else ""
        )


def _advice(found: Recommendation) -> Text:
    out = Text()
    device = found.device or "unknown hardware"
    model = found.model.name if found.model else "any model"
    out.append(f"{model} on {device}; sensitivity {found.sensitivity} ({found.sensitivity_source})\n")
    for choice in found.choices:
        out.append(f"\n{choice.rank}. {choice.option.title}", style="bold")
        out.append(f"  {choice.format}, {choice.kernel or choice.option.engine}")
        if choice.weights_bytes is not None:
            out.append(
                f", weights {size(choice.weights_bytes.value)} ({choice.weights_bytes.provenance.value})"
            )
        out.append(f", KV {choice.kv_cache_dtype}\n")
        for reason in choice.reasons:
            sign, style = STANCE[reason.stance]
            out.append(f"   {sign} {reason.text}", style=style)
            out.append(f"  [{reason.basis}: {reason.source}]\n", style="dim")
        for note in choice.notes:
            out.append(f"   note: {note}\n")
    for conflict in found.conflicts:
        out.append(f"\nconflict: {conflict.text}", style="yellow")
    for item in found.dropped:
        out.append(f"\nnot possible: {item.option.title}: {item.reason}", style="dim")
    for note in found.notes:
        out.append(f"\nnote: {note}")
    return out


SCREEN = TaskScreen
