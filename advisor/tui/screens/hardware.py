"""Hardware: what the devices do now, what they can do, and which formats run on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Static

from advisor.tui.messages import DevicesLooked
from advisor.tui.screens.base import AdvisorScreen
from advisor.tui.widgets.lists import Scroll, Table
from advisor.tui.words import bar, plain, size

if TYPE_CHECKING:
    from profiles.hardware import DeviceLive

LOOK_GAP_S = 1.0
PROCESSES = 5
"""Processes listed per device, the largest first."""


class HardwareScreen(AdvisorScreen):
    """Key 1."""

    NAME = "hardware"
    HELP_TEXT = """\
 S         simulate a device of the catalogue, or come back to this machine
 + -       how many of the simulated device
 enter     on a format: why it runs as it does

Formats: native = the arithmetic itself is in the hardware; fallback = a kernel runs it with other
arithmetic; slow = it runs, but slower than others of its size; refused = the engine has no kernel."""
    CSS_PATH: ClassVar[list[str]] = ["base.tcss", "hardware.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("S", "simulate", "Simulate", id="simulate"),
        Binding("plus,equals_sign", "count(1)", "More devices", show=False),
        Binding("minus", "count(-1)", "Fewer devices", show=False),
    ]

    def body(self) -> Iterable[Widget]:
        """Live devices above, facts and formats below."""
        yield Static("", id="live", markup=False)
        with Horizontal(id="lower"):
            with Scroll(id="facts-panel", classes="panel") as facts:
                facts.border_title = "Facts"
                yield Static("reading the hardware ...", id="facts", markup=False)
            formats = Table("format", "runs", "why", "kernel", id="formats", classes="panel")
            formats.border_title = "Formats"
            yield formats

    def on_mount(self) -> None:
        """Look at once, then every second while the screen is open."""
        super().on_mount()
        self.hardware_changed()
        self.call_after_refresh(self._look)
        self.set_interval(LOOK_GAP_S, self._look)
        self.query_one("#formats").focus()

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
        width = max(10, min(30, self.size.width - 60))
        self.query_one("#live", Static).update("\n".join(_device(d, width) for d in message.devices))

    def shown_again(self) -> None:
        """The simulated device may have changed."""
        self.hardware_changed()

    def hardware_changed(self) -> None:
        """Facts and formats of the profile."""
        hardware = self.session.hardware
        if hardware is None or not self.is_mounted:
            return
        from advisor.cli.output import provenance, shown
        from profiles.formats.kernels import supported_formats

        device = hardware.device
        many = f"{len(hardware.devices)} x " if len(hardware.devices) > 1 else ""
        lines = [f"{many}{device.name}" + ("  (simulated)" if self.session.gpu else ""), ""]
        figures = [
            ("memory", device.total_bytes),
            ("bandwidth", device.bandwidth_bytes_s),
            ("power", device.power_w),
            ("host memory", hardware.host_ram_bytes),
            *((f"peak {kind}", rate) for kind, rate in device.peak_ops.items()),
        ]
        for name, figure in figures:
            if figure is not None:
                lines.append(f"{name:13} {shown(figure)}\n              {provenance(figure)}")
        for name, text in (
            ("compute cap.", None if device.sm is None else f"{device.sm / 10}"),
            ("cores", None if device.cores is None else str(device.cores)),
            ("CPU flags", " ".join(device.isa) or None),
            ("driver", hardware.driver),
            ("interconnect", hardware.interconnect),
        ):
            if text:
                lines.append(f"{name:13} {text}")
        lines += [f"note: {note}" for note in hardware.notes]
        self.query_one("#facts", Static).update("\n".join(lines))
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
            rows.append((name, (name, plain(runs, style), support.reason, kernel)))
        self.query_one("#formats", Table).refill(rows)

    def on_data_table_row_selected(self) -> None:
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
                f"bits per weight, 4096 x 4096 with scales: {fmt.bits_per_weight(4096, 4096):.3f}",
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


def _device(device: DeviceLive, width: int) -> str:
    used = (
        None
        if not device.total_bytes or device.used_bytes is None
        else device.used_bytes / device.total_bytes
    )
    load = device.utilization_percent
    name = f"{device.kind.value}:{device.index or 0} {device.name}"
    facts = [f"memory {bar(used, width)} {size(device.used_bytes)} / {size(device.total_bytes)}"]
    facts.append(
        f"load {bar(None if load is None else load / 100, 10)} {'-' if load is None else f'{load:.0f}%'}"
    )
    if device.temperature_c is not None:
        facts.append(f"{device.temperature_c:.0f} °C")
    if device.power_w is not None:
        limit = "" if device.power_limit_w is None else f" / {device.power_limit_w:.0f}"
        facts.append(f"{device.power_w:.0f}{limit} W")
    lines = [name, "  " + "  ".join(facts)]
    largest = sorted(device.processes, key=lambda p: -(p.used_bytes or 0))[:PROCESSES]
    if largest:
        lines.append("  " + "  ".join(f"{p.pid} {p.name or '?'} {size(p.used_bytes)}" for p in largest))
    return "\n".join(lines)


SCREEN = HardwareScreen
