"""Export: the files to deploy with a preview, the server they start, and a chat with it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from rich.syntax import Syntax
from rich.text import Text
from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import get_current_worker

from advisor.tui import run_files, server
from advisor.tui.messages import ChatPiece, ServerChanged
from advisor.tui.process import open_folder
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.session import at_home
from advisor.tui.stage_words import NO_RUN
from advisor.tui.widgets.chat import Chat
from advisor.tui.widgets.lists import Scroll, Table
from advisor.tui.words import plain, size
from tuners.events import Event

PREVIEW_BYTES = 64 * 2**10
"""A preview is for reading; weights and long tables are named with their size."""
LOOK_GAP_S = 0.5
"""Between two looks whether the server answers."""
LEXERS = {
    ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "bash", ".md": "markdown",
    ".py": "python", ".toml": "toml", ".txt": "text",
}  # fmt: skip


class ExportScreen(AdvisorScreen):
    """Key 6."""

    NAME = "export"
    HELP_TEXT = """\
 s         write the bundle of the run that is open (validates first if that was not done)
 v         start the bundle's server on a free port of this machine, and chat with it; v again stops it
 y         copy the command that starts the server     p    copy the path of the file
 o         open the folder in the desktop's file manager
 x         stop the run                                tab  to the preview or the chat

A bundle whose validation failed is for inspection: its run.sh refuses to serve."""
    AUTO_FOCUS = "#files"
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "export.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "Write", id="export.start"),
        Binding("v", "serve", "Serve/chat", id="serve"),
        Binding("y", "serve_command", "Copy serve", show=False, id="serve.copy"),
        Binding("o", "folder", "Folder", id="folder"),
        Binding("p", "path", "Copy path", show=False, id="path"),
        Binding("x", "app.stop_work", "Stop", show=False, id="stop"),
    ]

    def body(self) -> Iterable[Widget]:
        """Verdict above, files on the left, preview or chat on the right."""
        yield Static("", id="summary", markup=False)
        with Horizontal(id="split"):
            files = Table("~file", ">size", id="files", classes="panel")
            files.border_title = "Bundle"
            yield files
            with Scroll(id="preview-panel", classes="panel") as preview:
                preview.border_title = "Preview"
                yield Static("", id="preview", markup=False)
            yield Chat(id="chat", classes="panel")

    def on_mount(self) -> None:
        """List what is there."""
        super().on_mount()
        self.shown_again()

    def twin(self) -> list[str]:
        """`advisor export --run DIR`."""
        return self.session.stage_command("export")

    @property
    def _bundle(self) -> Path | None:
        return None if self.session.run is None else self.session.run / "bundle"

    def run_opened(self) -> None:
        """Another run, another bundle."""
        self.shown_again()

    def run_changed(self, events: list[Event]) -> None:
        """A stage that ended may have written it."""
        if not events or any(e.kind in ("stage_finished", "stage_failed") for e in events):
            self.shown_again()

    def shown_again(self) -> None:
        """Files and verdict as they are now."""
        folder, summary = self._bundle, self.query_one("#summary", Static)
        self.set_class(self.advisor.server is not None, "-serving")
        found: list[Path] = []
        if folder is not None and folder.is_dir():
            found = sorted(p for p in folder.rglob("*") if p.is_file())
        rows = []
        for path in found:
            name = str(path.relative_to(folder)) if folder else path.name
            rows.append((name, (name, size(path.stat().st_size))))
        self.query_one("#files", Table).refill(rows)
        if not found:
            words = "4 starts a run, 7 opens an earlier one" if folder is None else "s writes it"
            summary.update(plain(f"no bundle yet: {words}", "dim"))
            if self.state.error is not None and self.advisor.working() is None:
                summary.update(plain(self.state.error_text, "red"))
            self.query_one("#preview", Static).update("")
            return
        report = run_files.validation(folder.parent) if folder else None
        passed = report is not None and report.passed
        verdict = Text()
        verdict.append(
            "✓ validated" if passed else "✗ for inspection only: the validation did not pass",
            "green" if passed else "red",
        )
        verdict.append(f"  {at_home(folder or '')}\nserve: {at_home(self.serve_command())}")
        summary.update(verdict)
        self._preview()

    def serve_command(self) -> str:
        """What starts the server."""
        return f"{self._bundle}/run.sh"

    @on(Table.Highlighted, "#files")
    def _preview(self) -> None:
        name, folder = self.query_one("#files", Table).row_key, self._bundle
        if name is None or folder is None:
            return
        panel = self.query_one("#preview-panel")
        panel.border_title = name
        self.query_one("#preview", Static).update(preview(folder / name, dark=self.app.current_theme.dark))
        panel.scroll_home(animate=False)

    def action_start(self) -> None:
        """Run the stages up to the bundle."""
        if self.session.run is None:
            self.notify(NO_RUN, severity="warning")
            return
        self.advisor.start_work(self.twin(), self.session.run)

    def action_serve_command(self) -> None:
        """Copy it."""
        if self._bundle is None or not (self._bundle / "run.sh").exists():
            self.notify("there is no bundle yet", severity="warning")
            return
        self.app.copy_to_clipboard(self.serve_command())
        self.notify(f"copied: {self.serve_command()}", markup=False)

    def action_path(self) -> None:
        """Copy the path of the file."""
        name, folder = self.query_one("#files", Table).row_key, self._bundle
        if name is not None and folder is not None:
            self.app.copy_to_clipboard(str((folder / name).resolve()))
            self.notify(f"copied: {(folder / name).resolve()}", markup=False)

    def action_folder(self) -> None:
        """Open the folder; say where it is where there is no desktop."""
        folder = self._bundle
        if folder is None or not folder.is_dir():
            self.notify("there is no bundle yet", severity="warning")
        elif not open_folder(folder):
            self.notify(f"there is no desktop here; the folder is {folder.resolve()}", markup=False)

    # the server

    def action_serve(self) -> None:
        """Start the server, or stop the one that runs."""
        if self.advisor.server is not None:
            self.advisor.stop_server()
            self.remove_class("-serving")
            self.set_focus(self.query_one("#files"))
            self.notify("the server is stopped")
            return
        if self._bundle is None:
            self.notify(NO_RUN, severity="warning")
            return
        try:
            found = self.advisor.server = server.start(self._bundle)
        except OSError as exc:
            self.notify(str(exc), severity="error", markup=False)
            return
        chat = self.query_one(Chat)
        chat.clear()
        chat.state(f"Server: starting, {found.address}")
        self.add_class("-serving")
        self._watch_server(found)

    @work(thread=True, exclusive=True, exit_on_error=False, group="server")
    def _watch_server(self, found: server.Server) -> None:
        worker, told = get_current_worker(), ""
        while self.advisor.server is found and found.running and not worker.is_cancelled:
            found.ready = found.ready or found.healthy()
            now = f"{found.ready} {'' if found.ready else found.tail()[-80:]}"
            if now != told:
                told = now
                self.post_message(ServerChanged(found))
            time.sleep(LOOK_GAP_S)
        if not worker.is_cancelled:
            self.post_message(ServerChanged(found))

    @on(ServerChanged)
    def _server_changed(self, message: ServerChanged) -> None:
        found, chat = message.server, self.query_one(Chat)
        if found is not self.advisor.server:
            return
        if not found.running:
            code = found.launched.process.returncode
            chat.state(f"Server: ended with exit code {code}")
            chat.say(
                f"{found.tail()[-1500:]}\nthe whole log: {found.launched.log}; v starts it again\n", "red"
            )
            self.advisor.server = None
            return
        if found.ready:
            chat.state(f"Server: ready, {found.address}")
            chat.border_subtitle = found.sampling
            chat.query_one("#question").focus()
        else:
            last = (found.tail().splitlines() or [""])[-1]
            chat.state(f"Server: starting, {found.address}")
            chat.border_subtitle = last[-60:]

    @on(Chat.Asked)
    def _asked(self, event: Chat.Asked) -> None:
        found, chat = self.advisor.server, self.query_one(Chat)
        if found is None or not found.ready:
            chat.say("the server does not answer yet\n", "yellow")
            return
        chat.say(f"you    {event.text}\n", "bold")
        chat.say("model  ", "dim")
        self._answer(found, event.text)

    @work(thread=True, exclusive=True, exit_on_error=False, group="answer")
    def _answer(self, found: server.Server, text: str) -> None:
        try:
            for piece in found.ask(text):
                self.post_message(ChatPiece(piece))
            self.post_message(ChatPiece("\n\n"))
        except OSError as exc:
            self.post_message(ChatPiece(f"{exc}\n", "red"))

    @on(ChatPiece)
    def _piece(self, message: ChatPiece) -> None:
        self.query_one(Chat).say(message.text, message.style)


def preview(path: Path, *, dark: bool) -> Text | Syntax:
    """The text of a file, highlighted by its ending; what is not text is named."""
    try:
        with path.open("rb") as file:
            data = file.read(PREVIEW_BYTES)
    except OSError as exc:
        return plain(f"cannot read {path}: {exc.strerror}", "red")
    if b"\0" in data:
        return plain(f"{path.name}: {size(path.stat().st_size)}, not text", "dim")
    text = data.decode("utf-8", "replace")
    if len(data) == PREVIEW_BYTES:
        text += f"\n... ({size(path.stat().st_size)} in all)"
    lexer = LEXERS.get(path.suffix, "text")
    return Syntax(
        text, lexer, theme="ansi_dark" if dark else "ansi_light", word_wrap=True, line_numbers=False
    )


SCREEN = ExportScreen
