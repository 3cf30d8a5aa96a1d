"""The question of a run as a form: the usual fields, and the rest behind a fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast, get_args

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from advisor.tui.session import Session, method_words
from advisor.tui.widgets.field import Field
from advisor.tui.widgets.stepper import Stepper
from profiles.errors import UsageError

if TYPE_CHECKING:
    from advisor.pipeline.inputs import RunInputs

THROUGH = ("search", "quantize", "validate", "export")
RECOVER = (0, 50, 100, 200, 400)
"""Steps of training towards the original after quantization; 200 are usual."""
FOLDED = ("objective", "max_kl", "memory", "sensitivity", "latency")
"""Fields of the session behind the fold: it is open when one of them is not as it begins."""


class TuneForm(Container):
    """Budget, effort and goals. A wrong value is marked when its field is left, and says why."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,down", "field(1)", "Next field", show=False),
        Binding("up", "field(-1)", "Field before", show=False),
    ]

    class Changed(Message):
        """A value was changed, or found wrong."""

    class Done(Message):
        """The keyboard leaves the form."""

    def __init__(self, session: Session, *, id: str) -> None:
        super().__init__(id=id)
        self._session = session

    def compose(self) -> ComposeResult:
        """Two lines of usual fields, two behind the fold; side by side where there is room."""
        from advisor.pipeline.inputs import RunInputs
        from tuners.quantize.methods import NAMES

        asked = self._session
        methods: list[tuple[dict[str, str], str]] = [({}, "auto"), *(({"*": n}, n) for n in NAMES)]
        with Container(classes="fields"):
            with Horizontal():
                yield Static("budget", classes="label")
                yield Field(asked.budget, placeholder="from the device", id="budget")
                yield Static("trials", classes="label")
                yield Field(str(asked.trials), type="integer", max_length=5, id="trials")
                yield Stepper("through", [(t, t) for t in THROUGH], id="through")
            with Horizontal():
                yield Static("ms/token", classes="label")
                yield Field(
                    _text(asked.max_ms_per_token), placeholder="any", type="number", max_length=7, id="speed"
                )
                yield Stepper("method", methods, id="method")
                yield Stepper("recover", [(n, f"{n} steps" if n else "no") for n in RECOVER], id="recover")
        with Container(classes="fields", id="folded"):
            with Horizontal():
                yield Stepper("objective", _choices(RunInputs, "objective"), id="objective")
                yield Static("max KL", classes="label")
                yield Field(_text(asked.max_kl), placeholder="none", type="number", max_length=7, id="max-kl")
                yield Static("memory", classes="label")
                yield Field(asked.memory, max_length=9, id="memory")
            with Horizontal():
                yield Stepper("sensitivity", _choices(RunInputs, "sensitivity"), id="sensitivity")
                yield Stepper("latency", _choices(RunInputs, "latency"), id="latency")

    # the fold

    @property
    def unfolded(self) -> bool:
        """Whether the rest is shown."""
        return self.has_class("-unfolded")

    def unfold(self, on: bool) -> None:
        """Show the rest and go there, or hide it."""
        self.set_class(on, "-unfolded")
        if on:
            self.query_one("#objective").focus()
        elif self.app.focused is not None and _folded(self.app.focused):
            self.post_message(self.Done())

    # the keyboard

    @on(Field.Left)
    def _left(self, event: Field.Left) -> None:
        event.stop()
        self.action_field(event.step)

    def action_field(self, step: int) -> None:
        """The neighbour; beyond the ends, or without a step, out of the form."""
        form = [w for w in self.query("Field, Stepper").results(Widget) if self.unfolded or not _folded(w)]
        focused = self.app.focused
        at = form.index(focused) + step if step and focused in form else -1
        if 0 <= at < len(form):
            form[at].focus()
        else:
            self.post_message(self.Done())

    # values

    def show(self, session: Session) -> None:
        """The values of a session, but not under the user's hands."""
        for name, value in (
            ("#budget", session.budget),
            ("#trials", str(session.trials)),
            ("#speed", _text(session.max_ms_per_token)),
            ("#max-kl", _text(session.max_kl)),
            ("#memory", session.memory),
        ):
            field = self.query_one(name, Field)
            if field.value != value and not field.has_focus and not field.has_class("-wrong"):
                field.value = value
        self.query_one("#method", Stepper).choose(session.methods, method_words(session.methods))
        for name in ("through", "objective", "sensitivity", "latency"):
            self.query_one(f"#{name}", Stepper).choose(getattr(session, name))
        self.query_one("#recover", Stepper).choose(session.recover_steps)
        begins = Session()
        if any(getattr(session, name) != getattr(begins, name) for name in FOLDED):
            self.set_class(True, "-unfolded")

    def take(self, session: Session) -> None:
        """Write the values into a session; of a number that is none the last good one stays."""
        session.budget = self._field("budget")
        session.memory = self._field("memory")
        if not self._trials_problem():
            session.trials = int(self._field("trials"))
        for name, attribute in (("speed", "max_ms_per_token"), ("max-kl", "max_kl")):
            if not _number_problem(self._field(name)):
                setattr(session, attribute, _number(self._field(name)))
        for name in ("through", "objective", "sensitivity", "latency"):
            setattr(session, name, cast("str", self.query_one(f"#{name}", Stepper).value))
        session.methods = cast("dict[str, str]", self.query_one("#method", Stepper).value)
        session.recover_steps = cast("int", self.query_one("#recover", Stepper).value)

    def _field(self, name: str) -> str:
        return self.query_one(f"#{name}", Field).value.strip()

    @on(Input.Changed)
    @on(Stepper.Changed)
    def _changed(self, event: Message) -> None:
        event.stop()
        self._follow_sensitivity()
        for field in self.query(Field):  # what is right now is no longer marked
            if field.has_class("-wrong") and not self._problem_of(field):
                field.remove_class("-wrong")
        self.post_message(self.Changed())

    def _follow_sensitivity(self) -> None:
        """Trials that nobody chose are those of the sensitivity that is chosen now."""
        from advisor.pipeline.inputs import default_trials

        before, now = self._session.sensitivity, str(self.query_one("#sensitivity", Stepper).value)
        trials = self.query_one("#trials", Field)
        if now != before and trials.value == str(default_trials(before, self._objective)):
            trials.value = str(default_trials(now, self._objective))

    # what is wrong

    @property
    def problem(self) -> str:
        """Why the first field that is marked cannot be taken; empty when none is."""
        return next((self._problem_of(f) for f in self.query(Field) if f.has_class("-wrong")), "")

    def check(self) -> bool:
        """Mark every wrong field and go to the first: whether there is none."""
        wrong = [f for f in self.query(Field) if self._mark(f)]
        if wrong:
            if _folded(wrong[0]):
                self.set_class(True, "-unfolded")
            wrong[0].focus()
        return not wrong

    def on_descendant_blur(self, event: events.DescendantBlur) -> None:
        """A field is looked at when it is left: half a number is not wrong yet."""
        if isinstance(event.widget, Field):
            before = event.widget.has_class("-wrong")
            if self._mark(event.widget) != before:
                self.post_message(self.Changed())

    def _mark(self, field: Field) -> bool:
        wrong = bool(self._problem_of(field))
        field.set_class(wrong, "-wrong")
        return wrong

    def _problem_of(self, field: Field) -> str:
        """What is wrong with a field, beginning with its name."""
        name, check = self._checks()[str(field.id)]
        found = check()
        return f"{name}: {found}" if found else ""

    def _checks(self) -> dict[str, tuple[str, Callable[[], str]]]:
        return {
            "budget": ("budget", self._budget_problem),
            "trials": ("trials", self._trials_problem),
            "speed": ("ms/token", self._speed_problem),
            "max-kl": ("max KL", self._kl_problem),
            "memory": ("memory", self._memory_problem),
        }

    def _budget_problem(self) -> str:
        from tuners.budget import check_budget

        budget = self._field("budget")
        if not budget or self._session.opened == self._session.question:
            return ""  # the device decides; or as the run that is open was asked
        return _refusal(lambda: check_budget(budget))

    def _trials_problem(self) -> str:
        return "" if self._field("trials").isdecimal() else "a whole number, 0 or more"

    def _speed_problem(self) -> str:
        from advisor.pipeline.inputs import check_goal

        found = _number_problem(self._field("speed"))
        limit = None if _number_problem(self._field("max-kl")) else _number(self._field("max-kl"))
        if found or limit is None:
            return found
        return _refusal(lambda: check_goal(self._objective, limit, _number(self._field("speed"))))

    def _kl_problem(self) -> str:
        from advisor.pipeline.inputs import check_goal

        kl = self._field("max-kl")
        return _number_problem(kl) or _refusal(lambda: check_goal(self._objective, _number(kl), None))

    def _memory_problem(self) -> str:
        from tuners.search.memory import check_memory

        sensitivity = str(self.query_one("#sensitivity", Stepper).value)
        return _refusal(lambda: check_memory(self._field("memory"), sensitivity))

    @property
    def _objective(self) -> str:
        return str(self.query_one("#objective", Stepper).value)


def _folded(widget: Widget) -> bool:
    """Whether a field is behind the fold."""
    return any(ancestor.id == "folded" for ancestor in widget.ancestors)


def _choices(inputs: type[RunInputs], name: str) -> list[tuple[object, str]]:
    """What a field of a run's inputs may be, as its type lists it."""
    choices: Iterable[Any] = get_args(inputs.model_fields[name].annotation)
    return [(c, str(c)) for c in choices]


def _text(value: float | None) -> str:
    """A number as the form shows it."""
    return "" if value is None else f"{value:g}"


def _number(text: str) -> float | None:
    return float(text) if text else None


def _number_problem(text: str) -> str:
    """What is wrong with a limit; none is given when it is empty."""
    if not text:
        return ""
    try:
        good = 0 < float(text) < float("inf")
    except ValueError:
        good = False
    return "" if good else "a number above 0, or nothing"


def _refusal(check: Callable[[], object]) -> str:
    """The error of a check in one line."""
    try:
        check()
    except UsageError as exc:
        return exc.what + (f"; allowed: {exc.allowed}" if exc.allowed else "")
    return ""
