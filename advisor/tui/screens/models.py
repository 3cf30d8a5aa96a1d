"""Models: the catalogue, a folder or a Hub id; what the engine would say at boot with each choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, Static

from advisor.tui import ranking
from advisor.tui.messages import CatalogueRead, Estimated, Failed, FitsChecked
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.session import at_home
from advisor.tui.widgets.boot_log import BootLog
from advisor.tui.widgets.lists import Table
from advisor.tui.widgets.memory_bar import MemoryBar, parts_of
from advisor.tui.widgets.stepper import Stepper
from advisor.tui.words import count, parameters, plain, shortened, size, tokens

if TYPE_CHECKING:
    from profiles.footprint import Ranked
    from profiles.models import CatalogueEntry

CONTEXTS = (None, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KV_DTYPES = ("auto", "fp8", "int8", "nvfp4")
TPS = (1, 2, 4, 8)
RANK_DELAY_S = 0.4
"""The whole catalogue is asked again when the steppers have rested for this long: the bar comes first."""


class ModelsScreen(AdvisorScreen):
    """Key 2."""

    NAME = "models"
    HELP_TEXT = """\
 /         filter as you type: name, tag or licence; several words must all match
 enter     choose the model; on a line of the boot log: the formula with its numbers (also ?)
 escape    back to the whole table (when the window is narrow, the detail covers it)
 o         open a folder or a Hub id that is not in the catalogue
 F         only models that fit          T    only models for one kind of task
 s         sort by name, parameters, best format that fits, context, speed (or click a header)
 tab       to the steppers: left and right (h l, - +) change context, concurrency, KV dtype,
           tensor parallel size and format, and the prediction with them

fits: the most precise uniform format that fits; ~ only with another setting; ✗ not at all.
context and tok/s of the table are estimates; every figure on the right says how it is known."""
    AUTO_FOCUS = "#catalogue"
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "models.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        # Priority: letters typed right after it must find the field focused, not a list with keys of its own.
        Binding("slash", "filter", "Filter", key_display="/", id="filter", priority=True),
        Binding("down", "filter_done", "To the list", show=False),
        Binding("o", "open", "Open", id="open"),
        Binding("F", "fits_only", "Fits only", id="fits"),
        Binding("T", "tag", "Task", id="tag"),
        Binding("s", "sort", "Sort", show=False, id="sort"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[CatalogueEntry] = []
        self._answers: dict[str, Ranked] = {}
        self._asked = ""
        self._fits_only = False
        self._tag: str | None = None
        self._order = ranking.ORDERS[0]
        self._family = "16-bit"
        self._ranking: Timer | None = None

    def body(self) -> ComposeResult:
        """Table on the left (above when narrow), detail on the right."""
        with Horizontal(id="split"):
            with Vertical(id="left", classes="panel") as left:
                left.border_title = "Models"
                yield Input(placeholder="/ filter: name, tag, licence", id="filter", compact=True)
                yield Table(
                    "fits", "~model", ">params", ">context", ">tok/s", ">weights", "tags", id="catalogue"
                )
            with Vertical(id="detail", classes="panel") as detail:
                detail.border_title = "What the engine will say"
                yield Static("enter on a model chooses it", id="verdict", markup=False)
                yield MemoryBar(id="memory")
                with Container(id="steppers"):
                    yield from self._steppers()
                yield BootLog(id="bootlog")

    def _steppers(self) -> Iterable[Widget]:
        session = self.session
        contexts = [(c, "auto" if c is None else f"{c:,}") for c in CONTEXTS]
        for stepper, value in (
            (Stepper("context", contexts, id="context"), session.context),
            (
                Stepper("concurrency", [(c, str(c)) for c in CONCURRENCIES], id="concurrency"),
                session.concurrency,
            ),
            (Stepper("KV", [(k, k) for k in KV_DTYPES], id="kv"), session.kv_cache_dtype),
            (Stepper("TP", [(t, str(t)) for t in TPS], id="tp"), session.tp),
            (Stepper("format", [("16-bit", "16-bit")], id="family"), "16-bit"),
        ):
            stepper.choose(value)
            yield stepper

    def on_mount(self) -> None:
        """Read the catalogue in a thread: the screen is there before it."""
        super().on_mount()
        self._read()

    def twin(self) -> list[str]:
        """`advisor fit MODEL ...`, or the ranking with the table's filters when none is chosen."""
        session = self.session
        if session.model is not None or session.gpu is None:
            return session.fit_command()
        tag = [] if self._tag is None else ["--task", self._tag]
        only = ["--fits-only"] if self._fits_only else []
        return ["fit", *session.device_arguments(), *session.serving_arguments(), *tag, *only]

    @work(thread=True, exclusive=True, exit_on_error=False, group="catalogue")
    def _read(self) -> None:
        from profiles.models import catalogue_index

        self.post_message(CatalogueRead(catalogue_index()))

    @on(CatalogueRead)
    def _catalogue_read(self, message: CatalogueRead) -> None:
        self._entries = message.entries
        self._fill()
        self.hardware_changed()

    # the table

    def _fill(self) -> None:
        found = ranking.select(
            self._entries,
            self._answers,
            words=self.query_one("#filter", Input).value,
            tag=self._tag,
            fits_only=self._fits_only,
            order=self._order,
        )
        table = self.query_one("#catalogue", Table)
        table.refill([(r.entry.id, _cells(r)) for r in found])
        shown = "" if len(found) == len(self._entries) else f"{len(found)} of "
        only = (f", {self._tag}" if self._tag else "") + (", only what fits" if self._fits_only else "")
        self.query_one("#left").border_title = f"Models: {shown}{len(self._entries)}, by {self._order}{only}"

    @on(Input.Changed, "#filter")
    def _filtered(self) -> None:
        self._fill()

    @on(Input.Submitted, "#filter")
    def action_filter_done(self) -> None:
        """From the filter to the list."""
        self.set_focus(self.query_one("#catalogue"))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In a field, / is a letter."""
        return not (action == "filter" and isinstance(self.focused, Input))

    def action_filter(self) -> None:
        """To the filter."""
        self.remove_class("-detail")
        self.set_focus(self.query_one("#filter"))

    def action_leave_field(self) -> None:
        """Escape empties the filter and goes back to the table (which the detail covers when narrow)."""
        self.remove_class("-detail")
        self.query_one("#filter", Input).value = ""
        self.set_focus(self.query_one("#catalogue"))

    def action_fits_only(self) -> None:
        """Show only what fits."""
        self._fits_only = not self._fits_only
        self._fill()
        self.refresh_lines()

    def action_tag(self) -> None:
        """Pick a kind of task; everything again."""
        from advisor.tui.screens.picker import PickerScreen

        tags = Counter(t for e in self._entries for t in e.tags)
        options = [("", f"every model  {len(self._entries)}")]
        options += [(tag, f"{tag}  {many}") for tag, many in tags.most_common()]

        def chosen(tag: str | None) -> None:
            if tag is not None:
                self._tag = tag or None
                self._fill()
                self.refresh_lines()

        self.app.push_screen(PickerScreen("Models for", options), chosen)

    def action_sort(self) -> None:
        """The next order."""
        orders = ranking.ORDERS
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self._fill()

    @on(Table.HeaderClicked, "#catalogue")
    def _sorted_by(self, event: Table.HeaderClicked) -> None:
        name = {"model": "name", "weights": "params"}.get(event.column, event.column)
        if name in ranking.ORDERS:
            self._order = name
            self._fill()

    @on(Table.Selected, "#catalogue")
    def _chosen(self) -> None:
        name = self.query_one("#catalogue", Table).row_key
        if name:
            self.choose(name)

    def choose(self, name: str) -> None:
        """Make this the model of the session."""
        self.session.choose_model(name)
        self.refresh_lines()
        self.add_class("-detail")
        if self.narrow:
            self.set_focus(self.query_one("#bootlog"))
        self.query_one("#verdict", Static).update(f"reading {name} ...")
        self._estimate()

    def action_open(self) -> None:
        """A folder or a Hub id."""
        from advisor.tui.screens.picker import PromptScreen

        def given(text: str | None) -> None:
            if text:
                self.choose(text)

        hint = "a folder with config.json and safetensors, or a Hub id such as Qwen/Qwen3-8B"
        self.app.push_screen(PromptScreen("Open a model", hint, folders=True), given)

    # the prediction

    @on(Stepper.Changed)
    def _stepped(self) -> None:
        session = self.session
        session.context = cast("int | None", self.query_one("#context", Stepper).value)
        session.concurrency = int(str(self.query_one("#concurrency", Stepper).value))
        session.kv_cache_dtype = str(self.query_one("#kv", Stepper).value)
        session.tp = int(str(self.query_one("#tp", Stepper).value))
        self._family = str(self.query_one("#family", Stepper).value)
        self.refresh_lines()
        self.hardware_changed()

    def hardware_changed(self) -> None:
        """Another device or another question: another prediction, other verdicts."""
        hardware = self.session.hardware
        if hardware is None or not self._entries:
            return
        if self.session.model is not None:
            self._estimate()
        asked = f"{hardware.device.name} {len(hardware.devices)} {self.session.spec().model_dump_json()}"
        if asked != self._asked:
            self._asked = asked
            if self._ranking is not None:
                self._ranking.stop()
            self._ranking = self.set_timer(RANK_DELAY_S if self._answers else 0.01, self._rank)

    def shown_again(self) -> None:
        """The device or the run may have changed on another screen."""
        for name, value in (("#context", self.session.context), ("#concurrency", self.session.concurrency)):
            self.query_one(name, Stepper).choose(value)
        self.query_one("#kv", Stepper).choose(self.session.kv_cache_dtype)
        self.query_one("#tp", Stepper).choose(self.session.tp)
        self.hardware_changed()

    @work(thread=True, exclusive=True, exit_on_error=False, group="estimate")
    def _estimate(self) -> None:
        from advisor.tui.estimating import estimated, prepared
        from profiles.errors import AdvisorError

        session, family = self.session, self._family
        name, hardware = session.model, session.hardware
        if name is None or hardware is None:
            return
        try:
            found = prepared(name, hardware, session.tp)
            footprint = estimated(found, hardware, session.spec(), family)
        except AdvisorError as exc:
            self.post_message(Failed(str(exc), "estimate"))
            return
        model = found.model
        facts = (
            f"{model.architecture}, {model.num_layers} layers, hidden {model.hidden_size}, "
            f"{model.num_key_value_heads} KV heads x {model.head_dim}, "
            f"context {model.max_position_embeddings:,}, {model.license or 'licence unknown'}, {model.source}"
        )
        self.post_message(Estimated(name, footprint, tuple(found.plans), facts))

    @work(thread=True, exclusive=True, exit_on_error=False, group="fits")
    def _rank(self) -> None:
        from profiles.errors import AdvisorError

        asked, hardware = self._asked, self.session.hardware
        if hardware is None:
            return
        try:
            self.post_message(FitsChecked(asked, ranking.best_answers(hardware, self.session.spec())))
        except AdvisorError as exc:
            self.post_message(Failed(str(exc), "fits"))

    @on(FitsChecked)
    def _ranked(self, message: FitsChecked) -> None:
        if message.key == self._asked:
            self._answers = message.answers
            self._fill()

    @on(Failed)
    def _estimate_failed(self, message: Failed) -> None:
        message.stop()
        if message.late:
            return
        self.query_one("#verdict", Static).update(plain(message.text, "red"))
        self.query_one("#memory", MemoryBar).show((), 0)
        self.query_one("#bootlog", BootLog).show(None)

    @on(Estimated)
    def _show(self, message: Estimated) -> None:
        if message.late or message.model != self.session.model:
            return
        found = message.footprint
        family = self.query_one("#family", Stepper)
        family.offer([(f, f) for f in message.families])
        self._family = str(family.value)
        name = shortened(at_home(message.model), 60)
        verdict = Text.assemble((f"{name}\n", "bold"))
        verdict.append_text(_mark(found.verdict.value, found.verdict.value))
        verdict.append(f": {found.reason.removeprefix(found.verdict.value + ': ')}\n")
        verdict.append(message.facts, style="dim")
        for refusal in (r for r in found.refusals if r not in found.reason):
            verdict.append(f"\nwould refuse to start: {refusal}", style="red")
        for lever in found.levers[:3]:
            enough = ", enough" if lever.enough else ""
            verdict.append(
                f"\nlever: {lever.change} frees {size(lever.frees_bytes.value)}{enough} ({lever.cost})"
            )
        self.query_one("#verdict", Static).update(verdict)
        self.query_one("#memory", MemoryBar).show(*parts_of(found))
        self.query_one("#bootlog", BootLog).show(found)

    @on(Table.Selected, "#bootlog")
    def _formula(self) -> None:
        from advisor.tui.screens.text import TextScreen

        found = self.query_one("#bootlog", BootLog).formula()
        if found is not None:
            self.app.push_screen(TextScreen(*found))


def _cells(row: ranking.Row) -> tuple[str | Text, ...]:
    entry, best = row.entry, row.best
    return (
        _mark(best.verdict.value, best.family) if best else "",
        entry.id,
        parameters(entry.params),
        tokens(best.longest_context) if best and best.longest_context else "-",
        count(best.decode_tokens_s) if best and best.decode_tokens_s else "-",
        size(best.weights) if best else "-",
        ", ".join(entry.tags),
    )


def _mark(verdict: str, words: str) -> Text:
    """A verdict as a sign, a word and a colour."""
    if verdict == "fits":
        return plain(f"✓ {words}", "green")
    return plain(f"~ {words}", "yellow") if verdict == "fits if" else plain("✗ no", "red")


SCREEN = ModelsScreen
