"""A line to type in, whose footer says how to get out of it by the keyboard."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class Field(Input):
    """A compact input of a form. Enter and down go to the next field, up to the one before, escape leaves.

    What was in it is selected when the field is entered: typing replaces it.
    """

    DEFAULT_CSS = """
    Field { background: $surface; }
    Field:focus { background: $panel; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,down", "go(1)", "Next field", key_display="⏎"),
        Binding("up", "go(-1)", "Field before", show=False),
        Binding("escape", "leave", "Done", key_display="esc"),
    ]

    class Left(Message):
        """The user goes to the next field (1), the one before (-1), or has done (0)."""

        def __init__(self, field: Field, step: int) -> None:
            super().__init__()
            self.field = field
            self.step = step

        @property
        def control(self) -> Field:
            """The field that is left."""
            return self.field

    def __init__(self, value: str, *, id: str, **options: Any) -> None:
        super().__init__(value, id=id, compact=True, **options)

    def action_go(self, step: int) -> None:
        """To a neighbour."""
        self.post_message(self.Left(self, step))

    def action_leave(self) -> None:
        """Out of the form."""
        self.post_message(self.Left(self, 0))
