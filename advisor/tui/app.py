"""The application: seven screens over one session, one followed run, and no work of its own."""

from __future__ import annotations

import gc
import importlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import SystemCommand
from textual.binding import BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.worker import get_current_worker

from advisor.tui import keymap, run_files, themes
from advisor.tui.follow import Follower
from advisor.tui.key_order import KeysInOrder
from advisor.tui.messages import Failed, HardwareRead, RunEvents
from advisor.tui.process import Launched, launch, owner, pause, paused, stop, stop_group
from advisor.tui.run_state import RunState
from advisor.tui.screens.base import WIDE_COLUMNS, AdvisorScreen
from advisor.tui.session import Session, shown
from advisor.tui.widgets.layer_grid import Place

if TYPE_CHECKING:
    from advisor.tui.server import Server

FOLLOW_GAP_S = 0.15
"""Between two looks at the event stream: under what feels late, far above what it costs."""


def _screen(name: str) -> Callable[[], Screen[Any]]:
    def build() -> Screen[Any]:
        module = importlib.import_module(f"advisor.tui.screens.{name}")
        return module.SCREEN()  # type: ignore[no-any-return]

    return build


class AdvisorApp(KeysInOrder):
    """`advisor` without arguments."""

    TITLE = "advisor"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        name: _screen(name) for name in keymap.SCREENS
    }
    DEFAULT_MODE = keymap.SCREENS[0]
    BINDINGS: ClassVar[list[BindingType]] = keymap.APP_KEYS
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE_COLUMNS, "-wide")]
    ENABLE_COMMAND_PALETTE = True

    def __init__(self, session: Session | None = None, config: Path | None = None) -> None:
        # Without colours the terminal's own are used, and nothing else (https://no-color.org).
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") else None)
        self.session = session or Session()
        self.run_state = RunState()
        self.launched: Launched | None = None
        self.server: Server | None = None
        self._leaving = False
        self._offered = False
        self._kept: set[str] = set()
        self._places: tuple[Path, dict[str, Place]] | None = None
        self._config = config or keymap.config_path()

    def on_mount(self) -> None:
        """Keys and theme of the user, the hardware, and the run that was open."""
        self.register_theme(themes.HIGH_CONTRAST)
        keys, theme, problem = keymap.read_config(self._config)
        if keys:
            self.set_keymap(keys)
        if theme is not None and theme in self.available_themes:
            self.theme = theme
        elif theme is not None:
            problem = problem or f"{self._config}: no theme {theme!r}"
        if problem:
            self.notify(problem, severity="warning")
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """What needs imports comes after the first picture."""
        self._keep(self.current_mode)
        self.read_hardware()
        if self.session.run is not None:
            self.open_run(self.session.run)
        elif live := run_files.live_runs():
            self.open_run(live[0])
            self.notify(f"attached to {live[0]}, which is being worked on", markup=False)

    # hardware

    @work(thread=True, exclusive=True, exit_on_error=False, group="hardware")
    def read_hardware(self) -> None:
        """Read this machine, or plan the simulated device."""
        from advisor.machine import read_hardware
        from profiles.errors import AdvisorError

        try:
            self.post_message(HardwareRead(read_hardware(self.session.gpu, self.session.count)))
        except AdvisorError as exc:
            self.post_message(Failed(str(exc), "hardware"))

    @on(HardwareRead)
    def _hardware_read(self, message: HardwareRead) -> None:
        if message.late:
            return
        self.session.hardware = message.hardware
        self._tell("hardware_changed")

    @on(Failed)
    def _failed(self, message: Failed) -> None:
        self.notify(message.text, severity="error", timeout=12, markup=False)

    def simulate(self, gpu: str | None, count: int = 1) -> None:
        """Plan for a device of the catalogue; None goes back to this machine."""
        self.session.gpu, self.session.count = gpu, count
        self.read_hardware()

    # runs

    def open_run(self, root: Path) -> None:
        """Follow a run directory from its first event, and choose what it was asked."""
        before = (self.session.gpu, self.session.count)
        run_files.adopt(self.session, root)
        if (self.session.gpu, self.session.count) != before:
            self.read_hardware()
        self.run_state = RunState(root=root)
        self._follow(root)
        self._tell("run_opened")

    def close_run(self) -> None:
        """Follow nothing."""
        self.workers.cancel_group(self, "follow")
        self.session.run, self.run_state = None, RunState()
        self._tell("run_opened")

    @work(thread=True, exclusive=True, exit_on_error=False, group="follow")
    def _follow(self, root: Path) -> None:
        worker = get_current_worker()
        follower, last = Follower(root / "events.jsonl"), object()
        while not worker.is_cancelled:
            events, pid = follower.read(), owner(root)
            now = (pid, paused(pid))
            if events or now != last:
                self.post_message(RunEvents(root, events, *now))
                last = now
            if not events:
                time.sleep(FOLLOW_GAP_S)

    @on(RunEvents)
    def _run_events(self, message: RunEvents) -> None:
        if message.root != self.run_state.root:
            return
        self.run_state.owner, self.run_state.paused = message.owner, message.paused
        self.run_state.apply(message.events)
        if self.session.opened is None and message.events:
            run_files.adopt(self.session, message.root)
        self._tell("run_changed", message.events)

    def start_work(self, arguments: list[str], root: Path) -> bool:
        """Start a command on a run directory as a process of its own and follow it."""
        if self.working():
            self.notify("a run is already being worked on: x stops it", severity="warning")
            return False
        try:
            self.launched = launch(arguments, keymap.log_path())
        except OSError as exc:
            self.notify(f"cannot start {shown(arguments)}: {exc}", severity="error", markup=False)
            return False
        if self.run_state.root != root:
            self.open_run(root)
        self._watch_launched(self.launched)
        self.notify(f"started: {shown(arguments)}", markup=False)
        self._tell("run_changed", [])
        return True

    @work(thread=True, exclusive=True, exit_on_error=False, group="launched")
    def _watch_launched(self, launched: Launched) -> None:
        worker = get_current_worker()
        while launched.running and not worker.is_cancelled:
            time.sleep(FOLLOW_GAP_S)
        if not launched.running:
            self.call_from_thread(self._launched_ended, launched)

    def _launched_ended(self, launched: Launched) -> None:
        code = launched.process.returncode
        if code == 0:
            self.notify(f"finished: {shown(launched.arguments)}", markup=False)
        elif code == 130:
            self.notify("stopped: finished work is kept, start again to resume", markup=False)
        else:
            words = launched.tail() or "it printed nothing"
            title = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            last = "\n".join(words.splitlines()[-8:])
            self.notify(last, title=title, severity="error", timeout=20, markup=False)
        self._tell("run_changed", [])

    def unit_places(self) -> dict[str, Place]:
        """Where every unit of the run stands; read again until the profile stage has written it."""
        root = self.run_state.root
        if root is not None and (self._places is None or self._places[0] != root or not self._places[1]):
            self._places = (root, run_files.unit_places(root))
        return {} if root is None or self._places is None else self._places[1]

    def working(self) -> int | None:
        """The process that works on the followed run, if one does."""
        if self.launched is not None and self.launched.running:
            return self.launched.process.pid
        return self.run_state.owner

    def action_stop_work(self) -> None:
        """Stop the run; what is finished is kept."""
        pid = self.working()
        if pid is None:
            self.notify("nothing is running")
        elif stop(pid):
            self.notify("stopping: the step that runs now ends first")
        else:
            self.notify(f"process {pid} cannot be stopped from here", severity="warning")

    def stop_server(self) -> None:
        """End the bundle's server; it does not outlive the interface."""
        if self.server is not None:
            found, self.server = self.server, None
            stop_group(found.launched)

    def on_unmount(self) -> None:
        """However the interface ends."""
        self.stop_server()

    def action_pause_work(self) -> None:
        """Suspend the run, or let it go on."""
        pid = self.working()
        if pid is None:
            self.notify("nothing is running")
            return
        on = not paused(pid)
        if pause(pid, on=on):
            self.run_state.paused = on
            self.notify("paused: its memory stays taken, p goes on" if on else "going on")
            self._tell("run_changed", [])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The footer offers to stop and to pause while something runs."""
        return action not in {"stop_work", "pause_work"} or self.working() is not None

    # what all screens share

    def _tell(self, method: str, *arguments: Any) -> None:
        screen = self.screen_stack[0] if self.screen_stack else None
        if isinstance(screen, AdvisorScreen) and screen.is_mounted:
            if hasattr(screen, method):
                getattr(screen, method)(*arguments)
            screen.refresh_lines()
        if (working := self.working() is not None) != self._offered:
            self._offered = working
            self.refresh_bindings()

    def status_text(self) -> str:
        """Device, model, task, and where the run stands."""
        from advisor.tui.words import status

        return status(self.session, self.run_state, self.working())

    def action_go(self, name: str) -> None:
        """Open a screen; keys typed ahead of the end open none."""
        if len(self.screen_stack) == 1 and not self._leaving:
            self.switch_mode(name)
            self._keep(name)

    def _keep(self, name: str) -> None:
        """What a screen brought with it stays: the collector need not look at it again.

        Looking at all of it took 85 ms, now and then between two keys (benchmarks/tui_latency.py).
        """
        if name not in self._kept and not self.is_headless:
            self._kept.add(name)
            self.call_after_refresh(gc.freeze)

    def action_go_next(self, step: int) -> None:
        """The screen beside this one."""
        names = keymap.SCREENS
        self.action_go(names[(names.index(self.current_mode) + step) % len(names)])

    def action_copy_command(self) -> None:
        """Copy the command line that does what this screen does."""
        screen = self.screen_stack[0]
        if isinstance(screen, AdvisorScreen):
            text = shown(screen.twin())
            self.copy_to_clipboard(text)
            self.notify(f"copied: {text}", markup=False)

    def action_next_theme(self) -> None:
        """Dark, light, high contrast, the terminal's own colours."""
        self.theme = themes.following(self.theme)
        self.notify(f"theme: {self.theme}")

    def action_help(self) -> None:
        """The keys of this screen."""
        from advisor.tui.screens.help import HelpScreen

        screen = self.screen_stack[0]
        if len(self.screen_stack) == 1 and isinstance(screen, AdvisorScreen):
            self.push_screen(HelpScreen(screen.NAME, screen.HELP_TEXT))

    def action_jump(self) -> None:
        """A letter on every field and list; the one pressed gets the keyboard."""
        from advisor.tui.screens.jump import JumpScreen, targets

        screen = self.screen_stack[0]

        def chosen(target: Widget | str | None) -> None:
            if isinstance(target, str):
                self.action_go(target)
            elif target is not None:
                screen.set_focus(target)

        if len(self.screen_stack) == 1:
            self.push_screen(JumpScreen(targets(screen)), chosen)

    def action_quit_asking(self) -> None:
        """Leave; ask while work runs, which may go on without us."""
        pid = self.working()
        if pid is None:
            self._leave()
            return
        from advisor.tui.screens.confirm import Choice, ConfirmScreen

        def decided(answer: str | None) -> None:
            if answer == "stop":
                stop(pid)
            if answer in {"stop", "leave"}:
                self._leave()

        self.push_screen(
            ConfirmScreen(
                f"Process {pid} is working on {self.session.run}.",
                (
                    Choice("leave", "Leave it running", "l"),
                    Choice("stop", "Stop it and quit", "s"),
                    Choice("stay", "Stay here", "escape"),
                ),
            ),
            decided,
        )

    def _leave(self) -> None:
        self._leaving = True
        self.exit(0)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Textual's own commands, the screens, and the run's."""
        yield from super().get_system_commands(screen)
        for number, name in enumerate(keymap.SCREENS, 1):
            yield SystemCommand(name.capitalize(), f"Open this screen (key {number})", _go(self, name))
        yield SystemCommand("Jump", "A letter goes to each field and list (ctrl+o)", self.action_jump)
        yield SystemCommand("Copy command", "Copy the command line of this screen", self.action_copy_command)
        yield SystemCommand("Pause the run", "Suspend it, or let it go on", self.action_pause_work)
        yield SystemCommand("Stop the run", "As Ctrl-C: finished work is kept", self.action_stop_work)


def _go(app: AdvisorApp, name: str) -> Callable[[], None]:
    return lambda: app.action_go(name)


def main() -> int:
    """Open the interface."""
    return AdvisorApp().run() or 0
