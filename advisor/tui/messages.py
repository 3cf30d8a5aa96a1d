"""What worker threads tell the interface. Threads only post these; handlers alone touch widgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message
from textual.worker import NoActiveWorker, Worker, get_current_worker

if TYPE_CHECKING:
    from advisor.tui.server import Server
    from profiles.footprint import Ranked
    from profiles.footprint.schema import Footprint
    from profiles.hardware import DeviceLive, HardwareProfile
    from profiles.models import CatalogueEntry
    from tuners.events import Event


class Answer(Message):
    """What a thread found. An exclusive worker that is sent again cannot stop the thread it had sent before,
    and either may come back last."""

    def __init__(self) -> None:
        super().__init__()
        self._worker: Worker[object] | None
        try:
            self._worker = get_current_worker()
        except NoActiveWorker:
            self._worker = None

    @property
    def late(self) -> bool:
        """Whether the same question has been asked again since: what is here is not to be shown."""
        return self._worker is not None and self._worker.is_cancelled


class HardwareRead(Answer):
    """The profile of this machine, or of the simulated one."""

    def __init__(self, hardware: HardwareProfile) -> None:
        super().__init__()
        self.hardware = hardware


class DevicesLooked(Message):
    """What the devices do now."""

    def __init__(self, devices: list[DeviceLive]) -> None:
        super().__init__()
        self.devices = devices


class CatalogueRead(Answer):
    """The rows of the model catalogue."""

    def __init__(self, entries: list[CatalogueEntry]) -> None:
        super().__init__()
        self.entries = entries


class FitsChecked(Answer):
    """The best answer of every model, by id. `key` names the question that was asked."""

    def __init__(self, key: str, answers: dict[str, Ranked]) -> None:
        super().__init__()
        self.key = key
        self.answers = answers


class Estimated(Answer):
    """The predicted boot log of a model under one serving specification."""

    def __init__(self, model: str, footprint: Footprint, families: tuple[str, ...], facts: str) -> None:
        super().__init__()
        self.model = model
        self.footprint = footprint
        self.families = families
        self.facts = facts


class Failed(Answer):
    """Something could not be read; `text` says what, why and the next step."""

    def __init__(self, text: str, group: str = "") -> None:
        super().__init__()
        self.text = text
        self.group = group


class Loaded(Answer):
    """The result of a read that one screen asked for; `what` says which."""

    def __init__(self, what: str, value: object) -> None:
        super().__init__()
        self.what = what
        self.value = value


class RunEvents(Message):
    """New events of the run that is followed, and which process works on it."""

    def __init__(self, root: Path, events: list[Event], owner: int | None, paused: bool = False) -> None:
        super().__init__()
        self.root = root
        self.events = events
        self.owner = owner
        self.paused = paused


class ServerChanged(Message):
    """The bundle's server came up, printed something, or ended."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server


class ChatPiece(Message):
    """A piece of an answer, or what went wrong with it."""

    def __init__(self, text: str, style: str = "") -> None:
        super().__init__()
        self.text = text
        self.style = style
