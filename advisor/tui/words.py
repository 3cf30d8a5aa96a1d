"""Numbers and states as short text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from tuners.nats import nats

if TYPE_CHECKING:
    from advisor.tui.run_state import RunState
    from advisor.tui.session import Session


def size(count: float | None) -> str:
    """Bytes with a binary unit; a dash when nobody knows."""
    if count is None:
        return "-"
    for unit, divisor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= divisor:
            return f"{count / divisor:,.1f} {unit}"
    return f"{count:,.0f} B"


def parameters(count: int) -> str:
    """Parameters as people name models by them: 8.0B, 135M."""
    return f"{count / 1e9:,.1f}B" if count >= 999.5e6 else f"{count / 1e6:,.0f}M"


def number(value: float, unit: str) -> str:
    """A figure in few characters: 1.9 GiB, 955K tok, 52.6 ms."""
    if value in (float("inf"), float("-inf")):
        return "unbounded"
    if unit in {"B", "bytes"}:
        return size(value)
    short = {"tokens": "tok", "tokens/s": "tok/s", "requests": "x"}.get(unit, unit)
    return f"{count(value)} {short}".rstrip()


def count(value: float) -> str:
    """A number in at most five characters: 8.2, 117, 8,192, 955K, 1.2M."""
    if abs(value) < 100 and value != int(value):
        return f"{value:.3g}"
    for divisor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= 10 * divisor or (abs(value) >= divisor and divisor > 1e3):
            return (
                f"{value / divisor:.0f}{letter}"
                if value >= 10 * divisor
                else f"{value / divisor:.1f}{letter}"
            )
    return f"{value:,.0f}"


def tokens(value: float) -> str:
    """A context as people name it: 8K is 8,192, 1M is 1,048,576; small ones whole."""
    if value >= 2**20:
        return f"{value / 2**20:.3g}M"
    return f"{value / 2**10:.0f}K" if value >= 2**11 else f"{value:.0f}"


def shortened(text: str, width: int) -> str:
    """Text of at most `width` characters: an ellipsis stands for the beginning, the end says more."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def duration(seconds: float | None) -> str:
    """8 s, 4 min 05 s, 1 h 12 min; a dash when unknown."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def bar(share: float | None, width: int) -> str:
    """A bar of `width` cells for a share of one."""
    if share is None:
        return "·" * width
    full = round(max(0.0, min(1.0, share)) * width)
    return "█" * full + "░" * (width - full)


def plain(text: str, style: str = "") -> Text:
    """Text that is never read as markup."""
    return Text(text, style=style)


def status(session: Session, state: RunState, pid: int | None) -> str:
    """Device, model, task; then the run: state, stage, trials, best, ETA."""
    device = "reading the hardware ..."
    if session.hardware is not None:
        many = f"{len(session.hardware.devices)} x " if len(session.hardware.devices) > 1 else ""
        planned = " (simulated)" if session.gpu else ""
        device = f"{many}{session.hardware.device.name}{planned}"
    model = (session.model or "no model").rstrip("/").rsplit("/", 1)[-1]
    parts = [device, model, session.task]
    if state.root is None:
        return " │ ".join([*parts, "no run"])
    parts.append("paused" if state.paused and pid is not None else "live" if pid is not None else state.words)
    stage = state.current
    if pid is not None and stage is not None:
        text = stage.title
        if stage.total:
            text += f" {stage.done:.0f}/{stage.total:.0f}"
        parts.append(text)
        if stage.eta_s is not None:
            parts.append(f"ETA {duration(stage.eta_s)}")
    if state.trials:
        parts.append(f"trial {len(state.trials)}/{state.trials[-1].trials_total}")
    best = state.best_trial
    if best is not None and best.kl is not None:
        parts.append(f"best KL {nats(best.kl)}")
    return " │ ".join(parts)
