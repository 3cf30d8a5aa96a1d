"""Models: the catalogue, a folder or a Hub id; what the engine would say at boot with each choice."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import ClassVar, Literal, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static
from textual.worker import get_current_worker

from advisor.tui.messages import CatalogueRead, Estimated, Failed, FitsChecked
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.widgets.lists import Table
from advisor.tui.widgets.memory_bar import MemoryBar, Part
from advisor.tui.widgets.stepper import Stepper
from advisor.tui.words import parameters, plain, size
from profiles.footprint.schema import Footprint
from profiles.models import CatalogueEntry

CONTEXTS = (None, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KV_DTYPES = ("auto", "fp8", "int8")
TPS = (1, 2, 4, 8)
BATCH_S = 0.25
"""How long verdicts are collected before the table is told."""


class BootLog(Table):
    """The predicted boot log; enter or ? shows the formula of a line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "select_cursor", "Formula", show=True, key_display="?")
    ]


class ModelsScreen(AdvisorScreen):
    """Key 2."""

    NAME = "models"
    HELP_TEXT = """\
 /         filter by name, tag or licence; several words must all match
 enter     choose the model; on a line of the boot log: the formula with its numbers (also ?)
 o         open a folder or a Hub id that is not in the catalogue
 F         only models that fit (verdicts appear as they are computed)
 s         sort by name, size, or verdict
 tab       to the steppers: left and right (h l, - +) change context, concurrency, KV dtype,
           tensor parallel size and format, and the prediction with them

Every figure says how it is known: exact, measured, calibrated or estimated."""
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "models.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", id="filter"),
        Binding("o", "open", "Open folder/id", id="open"),
        Binding("F", "fits_only", "Fits only", id="fits"),
        Binding("s", "sort", "Sort", show=False, id="sort"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[CatalogueEntry] = []
        self._verdicts: dict[str, str] = {}
        self._fits_key = ""
        self._fits_only = False
        self._sort: Literal["name", "size", "verdict"] = "name"
        self._family = "16-bit"
        self._footprint: Footprint | None = None

    def body(self) -> ComposeResult:
        """Table on the left (above when narrow), detail on the right."""
        with Horizontal(id="split"):
            with Vertical(id="left", classes="panel") as left:
                left.border_title = "Models"
                yield Input(placeholder="/ filter: name, tag, licence", id="filter", compact=True)
                yield Table("fits", "model", "size", "16-bit", "tags", id="catalogue")
            with Vertical(id="detail", classes="panel") as detail:
                detail.border_title = "What the engine will say"
                yield Static("choose a model", id="verdict", markup=False)
                yield MemoryBar(id="memory")
                with Container(id="steppers"):
                    yield from self._steppers()
                yield BootLog("line", "predicted", "known", id="bootlog")

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
        self.query_one("#catalogue").focus()

    def twin(self) -> list[str]:
        """`advisor fit MODEL ...`."""
        return self.session.fit_command()

    @work(thread=True, exclusive=True, exit_on_error=False, group="catalogue")
    def _read(self) -> None:
        from profiles.models import catalogue_index

        self.post_message(CatalogueRead(catalogue_index()))

    @on(CatalogueRead)
    def _catalogue_read(self, message: CatalogueRead) -> None:
        self._entries = message.entries
        self._fill()
        self._check_fits()
        if self.session.model is not None:
            self._estimate()

    # the table

    def _fill(self) -> None:
        words = self.query_one("#filter", Input).value.lower().split()
        found = [
            e
            for e in self._entries
            if all(w in f"{e.id} {e.license} {' '.join(e.tags)}".lower() for w in words)
            and (not self._fits_only or self._verdicts.get(e.id, "").startswith("fits"))
        ]
        order = {"fits": 0, "fits if": 1, "does not fit": 2}
        if self._sort == "size":
            found.sort(key=lambda e: e.params)
        elif self._sort == "verdict":
            found.sort(key=lambda e: (order.get(self._verdicts.get(e.id, ""), 3), -e.params))
        else:
            found.sort(key=lambda e: e.id.lower())
        rows = [
            (
                e.id,
                (
                    _mark(self._verdicts.get(e.id)),
                    e.id,
                    plain(parameters(e.params).rjust(7)),
                    plain(size(e.params * 2).rjust(10)),
                    ", ".join(e.tags),
                ),
            )
            for e in found
        ]
        self.query_one("#catalogue", Table).refill(rows)
        shown = "" if len(found) == len(self._entries) else f" {len(found)} of"
        only = ", only what fits" if self._fits_only else ""
        self.query_one("#left").border_title = f"Models:{shown} {len(self._entries)}, by {self._sort}{only}"

    @on(Input.Changed, "#filter")
    def _filtered(self) -> None:
        self._fill()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one("#catalogue").focus()

    def action_filter(self) -> None:
        """To the filter."""
        self.query_one("#filter").focus()

    def action_leave_field(self) -> None:
        """Escape empties the filter and goes back to the table."""
        self.query_one("#filter", Input).value = ""
        self.query_one("#catalogue").focus()

    def action_fits_only(self) -> None:
        """Show only what fits."""
        self._fits_only = not self._fits_only
        self._fill()

    def action_sort(self) -> None:
        """The next order."""
        self._sort = {"name": "size", "size": "verdict", "verdict": "name"}[self._sort]  # type: ignore[assignment]
        self._fill()

    @on(DataTable.RowSelected, "#catalogue")
    def _chosen(self) -> None:
        name = self.query_one("#catalogue", Table).row_key
        if name:
            self.choose(name)

    def choose(self, name: str) -> None:
        """Make this the model of the session."""
        self.session.model = name
        self.refresh_lines()
        self.query_one("#verdict", Static).update(f"reading {name} ...")
        self._estimate()

    def action_open(self) -> None:
        """A folder or a Hub id."""
        from advisor.tui.screens.picker import PromptScreen

        def given(text: str | None) -> None:
            if text:
                self.choose(text)

        hint = "a folder with config.json and safetensors, or a Hub id such as Qwen/Qwen3-8B"
        self.app.push_screen(PromptScreen("Open a model", hint), given)

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
        self._estimate()
        self._check_fits()

    def hardware_changed(self) -> None:
        """Another device: other verdicts."""
        self._estimate()
        self._check_fits()

    def shown_again(self) -> None:
        """The device may have changed on another screen."""
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

    @on(Failed)
    def _estimate_failed(self, message: Failed) -> None:
        message.stop()
        self._footprint = None
        self.query_one("#verdict", Static).update(plain(message.text, "red"))
        self.query_one("#memory", MemoryBar).show((), 0)
        self.query_one("#bootlog", Table).refill([])

    @on(Estimated)
    def _show(self, message: Estimated) -> None:
        from advisor.cli.boot_table import LINES
        from advisor.cli.output import shown

        if message.model != self.session.model:
            return
        found = self._footprint = message.footprint
        family = self.query_one("#family", Stepper)
        family.offer([(f, f) for f in message.families])
        self._family = str(family.value)
        verdict = plain(f"{message.model}: ")
        verdict.append_text(_mark(found.verdict.value))
        verdict.append(f" - {found.reason}\n")
        verdict.append(message.facts, style="dim")
        for refusal in found.refusals:
            verdict.append(f"\nwould refuse to start: {refusal}", style="red")
        for lever in found.levers[:3]:
            enough = ", enough" if lever.enough else ""
            verdict.append(
                f"\nlever: {lever.change} frees {size(lever.frees_bytes.value)}{enough} ({lever.cost})"
            )
        self.query_one("#verdict", Static).update(verdict)
        overhead = found.activation.value + found.non_torch.value + found.cuda_graph.value
        self.query_one("#memory", MemoryBar).show(
            (
                Part("weights", found.weights.value, "█", "blue"),
                Part("KV cache", max(0.0, found.kv_bytes.value), "▓", "green"),
                Part("activations, overheads", overhead, "▒", "yellow"),
            ),
            max(found.budget.value, 1.0)
            if found.free_after.value < 0
            else max(
                found.budget.value,
                found.weights.value + max(0.0, found.kv_bytes.value) + overhead + found.free_after.value,
            ),
        )
        rows = []
        for field, words in LINES:
            figure = getattr(found, field)
            if figure is not None:
                rows.append((field, (words, shown(figure), figure.provenance.value)))
        self.query_one("#bootlog", Table).refill(rows)

    @on(DataTable.RowSelected, "#bootlog")
    def _formula(self) -> None:
        field = self.query_one("#bootlog", Table).row_key
        if field is None or self._footprint is None:
            return
        from advisor.cli.output import shown
        from advisor.tui.screens.text import TextScreen

        figure = getattr(self._footprint, field)
        self.app.push_screen(
            TextScreen(
                field,
                f"{shown(figure)}\n\n= {figure.formula or 'read, not computed'}\n\n"
                f"{figure.provenance.value}: {figure.source}",
            )
        )

    # what fits

    @work(thread=True, exclusive=True, exit_on_error=False, group="fits")
    def _check_fits(self) -> None:
        """Verdict of every model in the order of the table; slowly enough that keys stay quick."""
        from advisor.tui.estimating import estimated, prepared
        from profiles.errors import AdvisorError

        worker, session = get_current_worker(), self.session
        hardware, spec = session.hardware, session.spec()
        if hardware is None or not self._entries:
            return
        key = f"{hardware.device.name} {len(hardware.devices)} {spec.model_dump_json()}"
        if key == self._fits_key:
            return
        batch: dict[str, str] = {}
        last = time.monotonic()
        for entry in sorted(self._entries, key=lambda e: e.id.lower()):
            if worker.is_cancelled:
                return
            try:
                found = prepared(entry.id, hardware, spec.tensor_parallel_size)
                smallest = "int4" if "int4" in found.plans else list(found.plans)[-1]
                verdict = estimated(found, hardware, spec, "16-bit").verdict.value
                if verdict != "fits" and smallest != "16-bit":
                    low = estimated(found, hardware, spec, smallest).verdict.value
                    verdict = f"{low} {smallest}" if low == "fits" else low
                batch[entry.id] = verdict
            except AdvisorError:
                batch[entry.id] = "-"  # choosing the model says why
            time.sleep(0.002)
            if time.monotonic() - last > BATCH_S:
                self.post_message(FitsChecked(key, batch))
                batch, last = {}, time.monotonic()
        self.post_message(FitsChecked(key, batch))

    @on(FitsChecked)
    def _fits(self, message: FitsChecked) -> None:
        if message.key != self._fits_key:
            self._fits_key, self._verdicts = message.key, {}
        self._verdicts.update(message.verdicts)
        table = self.query_one("#catalogue", Table)
        if self._fits_only or self._sort == "verdict":
            self._fill()
            return
        listed = {str(k.value) for k in table.rows}
        for name, verdict in message.verdicts.items():
            if name in listed:
                table.update_cell(name, "fits", _mark(verdict), update_width=True)


def _mark(verdict: str | None) -> Text:
    words = verdict or ""
    if words == "-":
        return plain("- not planned", "dim")
    style = (
        "green" if words.startswith("fits") and "if" not in words else "yellow" if "if" in words else "red"
    )
    sign = {"green": "✓ ", "yellow": "~ ", "red": "✗ "}[style] if words else ""
    return plain(sign + words, style)


SCREEN = ModelsScreen
