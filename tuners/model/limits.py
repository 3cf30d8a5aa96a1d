"""How much the parts of a search hold in memory at once; `tuners/search/memory.py` adds them up."""

from __future__ import annotations

HESSIAN_BYTES = 2 * 2**30
"""Hessians held at once; more units than that are calibrated in further passes over the text."""

ROWS_BYTES = 512 * 2**20
"""Inputs and gradients of a block's linears held at once when streaming; more sequences take turns."""

STATES_BYTES = 512 * 2**20
"""Hidden states of changed models that walk through the blocks together when streaming."""

SMALL_BYTES = 4 * 2**20
"""Modules outside the decoder blocks up to this size stay in memory when streaming: norms, not heads."""

SAMPLE_CELLS = 24
"""Cells measured exactly in the fast mode: enough to tell a rank correlation of 0.97 from 0.8. They are taken
at even steps, which may give up to twice as many."""
