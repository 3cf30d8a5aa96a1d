"""Child process: measure one checkpoint in the engine."""

from __future__ import annotations

from tuners.child import child_main
from tuners.validate.measure import MeasureSpec, measure

if __name__ == "__main__":
    child_main(MeasureSpec, measure)
