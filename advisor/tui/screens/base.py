"""What every screen has: the bar of screens, the body, the command that does the same, the status line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Static

from advisor.tui.keymap import SCREENS
from advisor.tui.session import Session, shown
from advisor.tui.widgets.sheet import Sheet

if TYPE_CHECKING:
    from advisor.tui.app import AdvisorApp
    from advisor.tui.run_state import RunState
    from tuners.events import Event


WIDE_COLUMNS = 110
"""Columns of the terminal from which panels stand beside each other."""


class AdvisorScreen(Screen[None]):
    """Base of the seven screens; `body` is what differs."""

    NAME: ClassVar[str] = ""
    HELP_TEXT: ClassVar[str] = ""
    CSS_PATH = "base.tcss"
    AUTO_FOCUS: ClassVar[str | None] = (
        None  # each screen says what has the focus: a key typed early must not fall into a field
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave_field", "Back", show=False),
        Binding("right_square_bracket", "app.go_next(1)", "Next screen", show=False),
        Binding("left_square_bracket", "app.go_next(-1)", "Previous screen", show=False),
    ]

    @property
    def advisor(self) -> AdvisorApp:
        """The application, typed."""
        return cast("AdvisorApp", self.app)

    @property
    def session(self) -> Session:
        """What was chosen so far."""
        return self.advisor.session

    @property
    def state(self) -> RunState:
        """The run that is followed."""
        return self.advisor.run_state

    @property
    def narrow(self) -> bool:
        """Whether the style sheets lay this out as narrow; known before the class `-narrow` is set."""
        return self.app.size.width < WIDE_COLUMNS

    def compose(self) -> ComposeResult:
        """Bar, body, command, status, footer."""
        tabs = "  ".join(
            f"[reverse] {n} {name.capitalize()} [/]"
            if name == self.NAME
            else f"[@click=app.go('{name}')]{n} {name.capitalize()}[/]"
            for n, name in enumerate(SCREENS, 1)
        )
        yield Static(tabs, id="tabs")
        with Container(id="body"):
            yield from self.body()
        yield Sheet(id="twin")
        yield Sheet(id="status")
        yield Footer(show_command_palette=False)

    def body(self) -> Iterable[Widget]:
        """The widgets of the screen."""
        raise NotImplementedError

    def twin(self) -> list[str]:
        """The command line that does what this screen does."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Show the command and the status as soon as the screen is there."""
        self.refresh_lines()

    def on_screen_resume(self) -> None:
        """Other screens may have changed what this one shows."""
        self.refresh_lines()
        self.shown_again()

    def shown_again(self) -> None:
        """Bring the body up to date after another screen was open."""

    def run_changed(self, events: list[Event]) -> None:
        """New events of the run, or its process came or went."""

    def refresh_lines(self) -> None:
        """The two lines at the bottom."""
        if self.is_mounted:
            self.query_one("#twin", Sheet).show(f"$ {shown(self.twin())}")
            self.query_one("#status", Sheet).show(self.advisor.status_text())

    def action_leave_field(self) -> None:
        """Escape leaves the field or the filter and goes back to the first list."""
        if self.AUTO_FOCUS:
            self.set_focus(self.query_one(self.AUTO_FOCUS))
