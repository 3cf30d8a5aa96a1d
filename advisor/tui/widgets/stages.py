"""The panel of a run's stages: while the run is at work the running stage stays in sight."""

from __future__ import annotations

from advisor.tui.run_state import RunState
from advisor.tui.stage_words import NO_RUN, stage_lines
from advisor.tui.widgets.lists import Scroll
from advisor.tui.widgets.sheet import Sheet


class Stages(Scroll):
    """Stages and last messages, followed to the end like a log until the reader scrolls away from it."""

    BORDER_TITLE = "Stages"

    def __init__(self, without: str = NO_RUN) -> None:
        self._without = without
        self._pid: int | None = None
        self._is_scrolling = False
        self._sheet = Sheet(id="stages")
        super().__init__(self._sheet, id="stages-panel", classes="panel")

    def show(self, state: RunState, pid: int | None) -> None:
        """Draw; `pid` is the process that works on the run, None when nothing does."""
        follow = self._is_scrolling or self.max_scroll_y - self.scroll_y < 2 or pid != self._pid
        self._pid = pid
        self._sheet.show(stage_lines(state, pid, without=self._without))
        if pid is not None and follow:
            self._is_scrolling = True  # until the next drawing: another call may come before it
            self.scroll_end(animate=False, on_complete=self._scrolled)

    def _scrolled(self) -> None:
        self._is_scrolling = False
