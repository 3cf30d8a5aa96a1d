"""The stages of a run as lines: sign, title, bar, count, ETA, memory."""

from __future__ import annotations

from rich.text import Text

from advisor.tui.run_state import RunState, StageView
from advisor.tui.session import at_home
from advisor.tui.words import bar, duration, size

SIGNS = {
    "running": ("▶", "bold"),
    "done": ("✓", "green"),
    "kept": ("=", "green"),
    "failed": ("✗", "bold red"),
    "left": ("!", "yellow"),
}


NO_RUN = "no run is open: 4 starts one, 7 opens an earlier one"


def stage_lines(state: RunState, pid: int | None, *, without: str = NO_RUN) -> Text:
    """All stages in order and the last messages, these above while `pid` works: the end is what happens now.
    `without` a run these words."""
    if state.root is None:
        return Text(without, style="dim")
    out = Text(f"{at_home(state.root)}\n", style="dim")
    if pid is not None:
        out.append(f"process {pid}\n", style="dim")
        _messages(out, state)
    for stage in state.stages.values():
        _stage(out, stage, alive=pid is not None)
    if pid is None:
        _messages(out, state)
    return out


def _messages(out: Text, state: RunState) -> None:
    for message in state.messages[-8:]:
        style = {"info": "dim", "warning": "yellow", "error": "red"}[message.level]
        out.append(f"{message.level + ': ' if message.level != 'info' else ''}{message.text}\n", style=style)


def _stage(out: Text, stage: StageView, *, alive: bool) -> None:
    sign, style = SIGNS["left" if stage.state == "running" and not alive else stage.state]
    out.append(f"{sign} {stage.title}", style=style)
    if stage.seconds is not None:
        out.append(f"  {duration(stage.seconds)}")
    if stage.peak_rss_bytes:
        out.append(f", {size(stage.peak_rss_bytes)} peak")
    if stage.state == "kept":
        out.append(" (kept from before)")
    out.append("\n")
    if stage.state == "running" and stage.total:
        out.append(f"  {bar(stage.done / stage.total, 16)} {stage.done:.0f}/{stage.total:.0f} {stage.unit}")
        out.append(f"  ETA {duration(stage.eta_s)}\n" if stage.eta_s is not None else "\n")
    if stage.text:
        out.append(f"  {stage.text}\n", style="dim")
