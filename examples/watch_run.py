"""Read a run's journal while it works or afterwards: python examples/watch_run.py RUN_DIR."""

from __future__ import annotations

import sys
from pathlib import Path

from advisor.journal import read_journal
from tuners.events import StageFinished, TrialFinished


def main(run: str) -> None:
    """Print the stages with their times and every improvement of the search."""
    best = float("inf")
    for event in read_journal(Path(run) / "events.jsonl"):
        if isinstance(event, StageFinished):
            print(f"{event.stage}: {event.seconds:.1f} s {event.summary}")
        elif isinstance(event, TrialFinished) and event.kl is not None and event.kl < best:
            best = event.kl
            print(f"trial {event.number}: KL {event.kl:.4f} at {event.bits_per_weight:.3f} bits")


if __name__ == "__main__":
    main(sys.argv[1])
