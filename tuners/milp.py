"""HiGHS behind one door: pick an option per unit at least loss within one or two resources.

The one place where the library runs, so that what it prints from C++ never reaches stdout, which is data.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

TIME_LIMIT_S = 5.0
"""The best choice found by then is taken."""

_MARGINS = (0.0, 1.0, 8.0, 64.0, 512.0, 4096.0)
"""Steps by which rooms shrink until HiGHS' tolerance no longer oversteps them."""

_DIVERSION = threading.Lock()


class Resource(NamedTuple):
    """What options use of something limited: `used` per option, `step` its smallest meaningful amount."""

    used: np.ndarray
    room: float
    step: float


def pick(
    losses: np.ndarray, owner: np.ndarray, resources: Sequence[Resource], gap: float = 0.0
) -> list[int] | None:
    """Index into the options of the choice for each owner (0, 1, 2 ... in rising order), to a relative gap;
    ties go to less of the first resource. None when there is none within the rooms, or none in time."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    # all scaled to about 1: HiGHS works with absolute tolerances
    scale = max(float(np.abs(losses).max()), 1e-300)
    sizes = [max(float(np.abs(r.used).max()), r.step, 1e-300) for r in resources]
    objective = losses / scale + 1e-9 * resources[0].used / sizes[0]
    pick_one = csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    for margin in _MARGINS:
        limits = [
            LinearConstraint(csr_matrix(r.used / size), -np.inf, (r.room - margin * r.step) / size)
            for r, size in zip(resources, sizes, strict=True)
        ]
        with quiet_stdout():
            result = milp(
                c=objective,
                integrality=np.ones(len(losses), dtype=np.int64),
                bounds=Bounds(0, 1),
                constraints=[LinearConstraint(pick_one, 1, 1), *limits],
                options={"mip_rel_gap": gap, "presolve": True, "time_limit": TIME_LIMIT_S},
            )
        if result.x is None:
            return None
        starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
        ends = np.r_[starts[1:], len(owner)]
        chosen = [int(a + np.argmax(result.x[a:b])) for a, b in zip(starts, ends, strict=True)]
        if all(float(r.used[chosen].sum()) <= r.room for r in resources):
            return chosen
    return None


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """HiGHS prints a line of its own now and then: file descriptor 1 leads nowhere meanwhile, and what the C
    library holds back (it writes to a pipe in blocks, the last one at exit) goes there too."""
    with _DIVERSION:
        with contextlib.suppress(ValueError, OSError):
            sys.stdout.flush()
        try:
            kept = os.dup(1)
        except OSError:  # stdout is closed: nothing to keep clean
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 1)
            yield
        finally:
            _flush_c()
            os.dup2(kept, 1)
            os.close(kept)
            os.close(nowhere)


def _flush_c() -> None:
    """Write out what the C library has buffered; where it has another name nothing happens."""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).fflush(None)
