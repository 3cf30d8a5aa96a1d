"""Keys one after the other: each is done before the next one is looked at.

Textual hands a key to what has the focus when the key is read; what the key does comes later, when it has
bubbled up to the application. On a busy machine two keys are read together, and the second one still goes
where the first one was about to leave: `6bits⏎2` puts the 2 into the budget. Here a key waits until the one
before it has gone all its way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from textual import events
from textual.app import App
from textual.message_pump import MessagePump

PATIENCE_S = 1.0
"""A widget that does not answer for this long (it waits for something itself) holds no keys back."""


class KeysInOrder(App[int]):
    """An application that looks at a key when the one before it is done."""

    def __init__(self, *, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self._typed: deque[events.Key | events.Paste] = deque()
        self._typing: asyncio.Task[None] | None = None

    async def on_event(self, event: events.Event) -> None:
        """Line up what was typed; everything else at once."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
            return
        self._typed.append(event)
        if self._typing is None or self._typing.done():
            self._typing = asyncio.create_task(self._type())

    async def _type(self) -> None:
        """Hand over one after the other; an error ends the application as it would in its own loop."""
        try:
            while self._typed and self._running:
                way = [*(self.focused or self.screen).ancestors_with_self]
                await super().on_event(self._typed.popleft())
                for node in way:
                    await _reached(node)
        except Exception as exc:
            self._handle_exception(exc)


async def _reached(node: MessagePump) -> None:
    """Until a node has looked at everything that was sent to it before now."""
    done = asyncio.Event()
    if node.call_later(done.set):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), PATIENCE_S)
