"""Reading a run's event stream as it grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuners.events import Event

CHUNK_BYTES = 1 << 20
"""Read at one time: some 4,000 events, a fraction of a second to parse."""


class Follower:
    """Events appended to a file since the last look; a line that is still being written waits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Event]:
        """The new events; lines that are no events are left out."""
        from pydantic import ValidationError

        from tuners.events import parse_event

        try:
            with self.path.open("rb") as file:
                file.seek(0, 2)
                if file.tell() < self._offset:  # the run was deleted and made anew
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                data = file.read(CHUNK_BYTES)
        except OSError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        out: list[Event] = []
        for line in lines:
            try:
                out.append(parse_event(line))
            except ValidationError:
                continue
        return out
