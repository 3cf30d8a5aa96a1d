"""Devices as text: what they do now, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from advisor.tui.words import bar, size

if TYPE_CHECKING:
    from profiles.hardware import DeviceLive, HardwareProfile

PROCESSES = 5
"""Processes listed per device, the largest first."""
LEVELS = " ▁▂▃▄▅▆▇█"


def sparkline(percents: Iterable[float]) -> str:
    """A character per value, higher for more."""
    return "".join(LEVELS[min(8, max(0, round(p / 100 * 8)))] for p in percents)


def device_text(device: DeviceLive, past: Iterable[float], width: int) -> Text:
    """Name and load, memory, temperature, power, the largest processes; a line each that is known."""
    used = None
    if device.total_bytes and device.used_bytes is not None:
        used = device.used_bytes / device.total_bytes
    load = device.utilization_percent
    memory_cells, load_cells = max(8, min(40, width - 66)), max(6, min(24, width - 70))
    out = Text.assemble((f"{device.kind.value}:{device.index or 0} {device.name}\n", "bold"))
    out.append("  memory ")
    out.append(bar(used, memory_cells), _heat(used))
    out.append(f" {size(device.used_bytes)} / {size(device.total_bytes)}   load ")
    out.append(sparkline(past)[-load_cells:].rjust(load_cells), _heat(None if load is None else load / 100))
    out.append(f" {'-' if load is None else f'{load:.0f}%'}")
    if device.temperature_c is not None:
        out.append(f"  {device.temperature_c:.0f} °C")
    if device.power_w is not None:
        limit = "" if device.power_limit_w is None else f" / {device.power_limit_w:.0f}"
        out.append(f"  {device.power_w:.0f}{limit} W")
    largest = sorted(device.processes, key=lambda p: -(p.used_bytes or 0))[:PROCESSES]
    if largest:
        words = "  ".join(f"{p.pid} {p.name or '?'} {size(p.used_bytes)}" for p in largest)
        out.append(f"\n  {words}", "dim")
    out.append("\n")
    return out


def _heat(share: float | None) -> str:
    return "green" if (share or 0) < 0.7 else "yellow" if (share or 0) < 0.9 else "red"


def facts_table(hardware: HardwareProfile, *, simulated: bool) -> Table:
    """Every figure of the profile with how it is known."""
    from advisor.cli.output import provenance, shown

    device = hardware.device
    many = f"{len(hardware.devices)} x " if len(hardware.devices) > 1 else ""
    out = Table.grid(padding=(0, 1))
    out.add_column(no_wrap=True)
    out.add_column(overflow="fold")
    out.add_row("device", Text(f"{many}{device.name}" + (" (simulated)" if simulated else ""), "bold"))
    figures = [
        ("memory", device.total_bytes),
        ("bandwidth", device.bandwidth_bytes_s),
        ("power", device.power_w),
        *((f"peak {kind}", rate) for kind, rate in device.peak_ops.items()),
        ("host memory", hardware.host_ram_bytes),
    ]
    for name, figure in figures:
        if figure is not None:
            out.add_row(name, Text.assemble(shown(figure), "\n", (provenance(figure), "dim")))
    for name, text in (
        ("compute cap.", None if device.sm is None else f"{device.sm / 10}"),
        ("cores", None if device.cores is None else str(device.cores)),
        ("CPU flags", " ".join(device.isa) or None),
        ("driver", hardware.driver),
        ("interconnect", hardware.interconnect),
    ):
        if text:
            out.add_row(name, Text(text))
    for note in hardware.notes:
        out.add_row("note", Text(note, "dim"))
    return out
