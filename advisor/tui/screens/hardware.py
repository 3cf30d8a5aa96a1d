"""Hardware: what the devices do now, what they can do, and which formats run on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Static

from advisor.tui.device_words import device_text, facts_table
from advisor.tui.messages import DevicesLooked
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.widgets.lists import Scroll, Table
from advisor.tui.words import plain, size

LOOK_GAP_S = 1.0
LAYER = (4096, 4096)
"""The layer whose bits per weight stand for a format: scales cost more on smaller ones."""
SIGNS = {"native": "✓", "fallback": "~", "slow": "~", "refused": "✗"}
PAST = 24
"""Seconds of load that are drawn."""


class HardwareScreen(AdvisorScreen):
    """Key 1."""

    NAME = "hardware"
    HELP_TEXT = """\
 S         simulate a device of the catalogue, or come back to this machine
 + -       how many of the simulated device
 enter     on a format: why it runs as it does

Formats: bits = per weight of a 4096 x 4096 layer, scales included.
native = the arithmetic itself is in the hardware; fallback = a kernel runs it with other arithmetic;
 slow = it runs, but slower than others of its size; refused = the engine has no kernel."""
    AUTO_FOCUS = "#formats"
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "hardware.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("S", "simulate", "Simulate", id="simulate"),
        Binding("plus,equals_sign", "count(1)", "More devices", show=False),
        Binding("minus", "count(-1)", "Fewer devices", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._past: dict[tuple[str, int], deque[float]] = {}
        self._lines = -1

    def body(self) -> Iterable[Widget]:
        """Live devices above, facts and formats below."""
        yield Static("", id="live", markup=False)
        with Horizontal(id="lower"):
            with Scroll(id="facts-panel", classes="panel") as facts:
                facts.border_title = "Facts"
                yield Static("reading the hardware ...", id="facts", markup=False)
            formats = Table("format", "runs", ">bits", "kernel", "why", id="formats", classes="panel")
            formats.border_title = "Formats: what they cost and how they run here"
            yield formats

    def on_mount(self) -> None:
        """Look at once, then every second while the screen is open."""
        super().on_mount()
        self.hardware_changed()
        self.call_after_refresh(self._look)
        self.set_interval(LOOK_GAP_S, self._look)

    def twin(self) -> list[str]:
        """`advisor hardware --formats`."""
        return self.session.hardware_command()

    @work(thread=True, exclusive=True, exit_on_error=False, group="live")
    def _look(self) -> None:
        if not self.is_current and self.is_mounted and self.query_one("#live", Static).content:
            return
        from profiles.hardware import live

        self.post_message(DevicesLooked(live()))

    @on(DevicesLooked)
    def _looked(self, message: DevicesLooked) -> None:
        out = Text()
        for device in message.devices:
            past = self._past.setdefault((device.kind.value, device.index or 0), deque(maxlen=PAST))
            if device.utilization_percent is not None:
                past.append(device.utilization_percent)
            out.append_text(device_text(device, past, self.size.width - 2))
        out.rstrip()
        same = out.plain.count("\n") == self._lines
        self._lines = out.plain.count("\n")
        self.query_one("#live", Static).update(out, layout=not same)

    def shown_again(self) -> None:
        """The simulated device may have changed."""
        self.hardware_changed()

    def hardware_changed(self) -> None:
        """Facts and formats of the profile."""
        hardware = self.session.hardware
        if hardware is None or not self.is_mounted:
            return
        from profiles.formats import MENU
        from profiles.formats.kernels import supported_formats

        device = hardware.device
        self.query_one("#facts", Static).update(facts_table(hardware, simulated=bool(self.session.gpu)))
        rows = []
        for name, support in supported_formats(device).items():
            runs, style = (
                ("refused", "red")
                if not support.runs
                else ("slow", "yellow")
                if support.slow
                else ("native", "green")
                if support.native
                else ("fallback", "yellow")
            )
            kernel = (support.kernel or "-").removesuffix("LinearKernel").removesuffix("LinearMethod")
            bits = f"{MENU[name].bits_per_weight(*LAYER):.2f}"
            rows.append((name, (name, plain(f"{SIGNS[runs]} {runs}", style), bits, kernel, support.reason)))
        self.query_one("#formats", Table).refill(rows)

    @on(Table.Selected, "#formats")
    def _why(self) -> None:
        """Why a format runs as it does, in full."""
        name, hardware = self.query_one("#formats", Table).row_key, self.session.hardware
        if name is None or hardware is None:
            return
        from advisor.tui.screens.text import TextScreen
        from profiles.formats import MENU
        from profiles.formats.kernels import supported_formats

        fmt, support = MENU[name], supported_formats(hardware.device)[name]
        self.app.push_screen(
            TextScreen(
                name,
                f"{fmt.summary}\n\nactivations: {fmt.activations.value}\n"
                f"kernel: {support.kernel or 'none'}\n{support.reason}\n\n"
                f"bits per weight of a 4096 x 4096 layer, scales included: {fmt.bits_per_weight(*LAYER):.3f}",
            )
        )

    def action_simulate(self) -> None:
        """Pick a device of the catalogue."""
        from advisor.tui.screens.picker import PickerScreen
        from profiles.hardware import all_devices

        options = [("", "this machine, as it is")]
        options += [
            (d.catalogue_key or d.name, f"{d.name}  {size(d.total_bytes.value)}") for d in all_devices()
        ]

        def chosen(key: str | None) -> None:
            if key is not None:
                self.advisor.simulate(key or None)

        self.app.push_screen(PickerScreen("Simulate a device", options), chosen)

    def action_count(self, step: int) -> None:
        """More or fewer of the simulated device."""
        if self.session.gpu is None:
            self.notify("S simulates a device first")
            return
        self.advisor.simulate(self.session.gpu, max(1, self.session.count + step))


SCREEN = HardwareScreen
