"""events.jsonl: every event of a run, appended as it comes and passed on to whoever shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from advisor.workspace import disk_errors
from tuners.events import ChildLog, Emit, Event, parse_event


class Journal:
    """Callable as an `Emit`: thread-safe, one JSON object per line, fan-out to listeners.

    Lines that children print go to the listeners and to logs/*.log, not into the journal.
    """

    def __init__(self, path: Path, *listeners: Emit) -> None:
        self.path = path
        self._listeners = list(listeners)
        self._lock = threading.Lock()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def __call__(self, event: Event) -> None:
        with self._lock:
            if not isinstance(event, ChildLog) and not self._file.closed:
                with disk_errors(self.path):
                    self._file.write(event.model_dump_json() + "\n")
            for listener in self._listeners:
                listener(event)

    def close(self) -> None:
        """Close the file; later events still reach the listeners."""
        with self._lock:
            self._file.close()


def read_journal(path: Path) -> Iterator[Event]:
    """The events of a run; a line cut by a crash is left out."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield parse_event(line)
            except ValidationError:
                continue
