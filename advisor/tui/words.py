"""Numbers and states as short text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

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
    return f"{count / 1e9:,.1f}B" if count >= 1e9 else f"{count / 1e6:,.0f}M"


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
    parts.append("live" if pid is not None else state.words)
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
    if best is not None:
        parts.append(f"best KL {best.kl:.3g}")
    return " │ ".join(parts)
