"""The arithmetic type of calibration, chosen by a measurement, with the reason."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from profiles.errors import EnvironmentProblem, UsageError
from profiles.sizes import size

if TYPE_CHECKING:
    import torch

RESERVE_BYTES = 3 * 1024**3
"""Above the weights: interpreter and libraries, activations, Hessians of one block (measured 0.9 GiB on a
135M model: peak 1.53 GB less 0.54 GB of float32 weights; 3 GiB leaves room for wider blocks)."""

TRIAL_SHAPE = (128, 1024, 1024)
"""Rows, inputs, outputs of the timed product: milliseconds, or a tenth of a second if emulated."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def matmul_seconds(dtype: torch.dtype) -> float:
    """Best of three runs of one product in `dtype` on the CPU."""
    import torch

    rows, inputs, outputs = TRIAL_SHAPE
    a = torch.ones(rows, inputs, dtype=dtype)
    b = torch.ones(inputs, outputs, dtype=dtype)
    a @ b  # the first call sets up threads and kernels
    times = []
    for _ in range(3):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return min(times)


def needed_bytes(compute: str, parameters: int) -> int:
    """Memory that calibrating the whole model in that type takes."""
    return parameters * _BYTES[compute] + RESERVE_BYTES


def choose_compute(
    requested: str, stored: str, parameters: int, available_bytes: int, *, on_gpu: bool
) -> tuple[str, str]:
    """Name of the torch dtype to calibrate in, and why.

    `stored` is the checkpoint's type. On a GPU blocks are moved there one at a time in their own type. On a
    CPU float32 wins where 16-bit products are emulated, if twice the weights fit into memory.

    Raises:
        UsageError: the type asked for does not fit into memory.
        EnvironmentProblem: not even 16-bit weights do.
    """
    needs = {name: needed_bytes(name, parameters) for name in _BYTES}
    if requested != "auto":
        if needs[requested] > available_bytes:
            raise UsageError(
                f"calibrating in {requested} does not fit into memory",
                got=f"needs {size(needs[requested])}, {size(available_bytes)} available",
                allowed="auto, or a 16-bit type",
            )
        return requested, "asked for"
    if needs[stored] > available_bytes:
        raise EnvironmentProblem(
            "not enough memory to quantize this model",
            got=f"{size(available_bytes)} available",
            allowed=f"{size(needs[stored])}: {parameters:,} parameters x {_BYTES[stored]} B "
            f"+ {size(RESERVE_BYTES)}",
            next_step="close other programs, or quantize on a machine with more memory",
        )
    if on_gpu:
        return stored, f"{stored}: as stored, blocks are calibrated on the GPU"
    import torch

    slow, fast = matmul_seconds(getattr(torch, stored)), matmul_seconds(torch.float32)
    timing = f"a {'x'.join(map(str, TRIAL_SHAPE))} product took {slow * 1e3:.1f} ms in {stored}, "
    timing += f"{fast * 1e3:.1f} ms in float32 here"
    if fast >= slow:
        return stored, timing
    if needs["float32"] > available_bytes:
        short = f"float32 needs {size(needs['float32'])}, {size(available_bytes)} available"
        return stored, f"{timing}, but {short}"
    return "float32", timing
