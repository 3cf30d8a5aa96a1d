"""A small child of the tests: ends well, dies, hangs, or reports an error, as its spec says."""

from __future__ import annotations

import os
import signal
import time

from pydantic import BaseModel

from profiles.errors import UsageError
from tuners.child import child_main, peak_rss_bytes
from tuners.events import Emit, Progress, StageFinished


class Spec(BaseModel):
    """What the child shall do."""

    mode: str
    flag: str = ""


class Result(BaseModel):
    """What it answers."""

    answer: int


def run(spec: Spec, emit: Emit) -> Result:
    """Do it."""
    emit(Progress(stage="work", done=1, total=2))
    if spec.mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.mode == "refused":
        raise UsageError("the child does not like it", next_step="ask nicely")
    if spec.mode == "hangs":
        open(spec.flag, "w").close()
        time.sleep(600)
    emit(StageFinished(stage="work", title="work", seconds=0, peak_rss_bytes=peak_rss_bytes()))
    return Result(answer=42)


if __name__ == "__main__":
    child_main(Spec, run)
