"""Child process: which units cost the quality, by what the engine computed against the original in torch.

`python -m tuners.validate.blame SPEC` reads what tuners/validate/capture.py wrote. For every unit, on the
inputs that the engine gave it: the difference between the engine's output and the original weights' output.
Its cost is the second-order KL, half of (g . dy)^2 with g from the original's Fisher information at the
same token (tuners/sensitivity/answers.py), so a large difference in a direction that no logit depends on
counts little.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from profiles.provenance import Contract
from tuners.child import child_main
from tuners.events import Emit, Progress, Ticker
from tuners.plan import PrecisionPlan, Unit

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from tuners.model.host import ModelHost

STAGE = "diagnose"
PROBES = 4
"""Random projections of the logits per window: the estimate's variance falls with their number."""


class BlameSpec(Contract):
    """`folder` is what was captured; `powers_of_two` False where a method folds scales of any size (AWQ)."""

    model_path: str
    units: tuple[Unit, ...]
    plan: PrecisionPlan
    folder: str
    watched: tuple[str, ...]
    powers_of_two: bool = True
    trust_remote_code: bool = False
    seed: int = Field(default=0, ge=0)


class UnitBlame(Contract):
    """One unit. `kl`: nats per counted token, a second-order estimate from measured outputs; `error`: of the
    unit itself, relative to its output; `drift`: of everything up to and with it, relative."""

    unit: str
    format: str
    kl: float
    error: float
    drift: float


class Blame(Contract):
    """Every watched unit, the costliest first."""

    tokens: int
    units: tuple[UnitBlame, ...]


def blame(spec: BlameSpec, emit: Emit) -> Blame:
    """Compare, window by window."""
    import torch

    from tuners.model.host import ModelHost

    emit(Progress(stage=STAGE, done=0, text="loading the original in torch"))
    units = [_as_fused(u) for u in spec.units if u.name in set(spec.watched)]
    host = ModelHost.load(spec.model_path, units, trust_remote_code=spec.trust_remote_code)
    windows = json.loads(Path(spec.folder, "windows.json").read_text(encoding="utf-8"))
    folds = _folds(host, units, windows["ids"], spec)
    rng = torch.Generator().manual_seed(spec.seed)
    found = {u.name: _Sums() for u in units}
    tick = Ticker(emit, STAGE, len(windows["ids"]))
    at = 0
    for done, (ids, counted) in enumerate(zip(windows["ids"], windows["counted"], strict=True), 1):
        _window(host, units, torch.tensor(ids), torch.tensor(counted), at, spec, folds, rng, found)
        at += len(ids)
        tick(done, "windows in torch")
    rows = [found[u.name].row(u.name, spec.plan.formats[u.name]) for u in units]
    return Blame(tokens=at, units=tuple(sorted(rows, key=lambda r: -r.kl)))


SHARDS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Order in which the engine puts the outputs of fused layers side by side (vLLM `packed_modules_mapping`)."""


def _as_fused(unit: Unit) -> Unit:
    """The unit with its linears in the engine's order, which need not be that of the checkpoint."""

    def place(name: str) -> int:
        last = name.rpartition(".")[2]
        return SHARDS.index(last) if last in SHARDS else len(SHARDS)

    return unit.model_copy(update={"linears": tuple(sorted(unit.linears, key=lambda m: place(m.name)))})


class _Sums:
    """What is added up of one unit."""

    def __init__(self) -> None:
        self.kl = self.tokens = self.error = self.drift = self.reference = self.original = 0.0

    def row(self, name: str, fmt: str) -> UnitBlame:
        return UnitBlame(
            unit=name, format=fmt, kl=0.5 * self.kl / max(1.0, self.tokens),
            error=(self.error / max(self.reference, 1e-30)) ** 0.5,
            drift=(self.drift / max(self.original, 1e-30)) ** 0.5,
        )  # fmt: skip


def _window(
    host: ModelHost,
    units: list[Unit],
    ids: Tensor,
    counted: Tensor,
    at: int,
    spec: BlameSpec,
    folds: dict[str, tuple[Tensor, Tensor]],
    rng: Generator,
    found: dict[str, _Sums],
) -> None:
    import torch

    from tuners.sensitivity.answers import backward

    differences: dict[str, Tensor] = {}
    for probe in range(PROBES):
        seen = backward(host, ids, counted.float(), rng)
        for unit in units:
            sums = found[unit.name]
            if not probe:
                ours, theirs = _captured(spec.folder, unit.name, at, len(ids), host)
                scale, rows = folds[unit.name]
                y = torch.cat([seen[m.name][1].float() for m in unit.linears], -1)
                reference = _original(host, unit, ours * scale)
                output = theirs * rows
                differences[unit.name] = output - reference
                sums.error += float((output - reference).square().sum())
                sums.reference += float(reference.square().sum())
                sums.drift += float((output - y).square().sum())
                sums.original += float(y.square().sum())
            g = torch.cat([seen[m.name][2].float() for m in unit.linears], -1)
            sums.kl += float((g * differences[unit.name]).sum(-1).square().sum()) / PROBES
    for sums in found.values():
        sums.tokens += float(counted.sum())


def _original(host: ModelHost, unit: Unit, x: Tensor) -> Tensor:
    """The original weights' output on the engine's inputs, shards side by side as the engine fuses them."""
    import torch

    with torch.no_grad():
        parts = [host.linear(m.name)(x.to(host.linear(m.name).weight)).float() for m in unit.linears]
    return torch.cat(parts, -1)


def _captured(folder: str, unit: str, at: int, count: int, host: ModelHost) -> tuple[Tensor, Tensor]:
    import numpy as np
    import torch

    both = []
    for side in ("in", "out"):
        rows = np.load(Path(folder, f"{unit}.{side}.npy"), mmap_mode="r")[at : at + count]
        both.append(torch.from_numpy(np.array(rows, dtype=np.float32)).to(host.device))
    return both[0], both[1]


def _folds(
    host: ModelHost, units: list[Unit], windows: list[list[int]], spec: BlameSpec
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per unit, what its inputs and outputs must be multiplied by to be the original's: input scales that
    were folded into the layer before change both, and are no error.

    Least squares per channel over all tokens, between the original's values and the engine's.
    """
    import torch

    dots = {u.name: [torch.zeros(()) for _ in range(4)] for u in units}
    at = 0
    for ids in windows:
        seen = _forward(host, units, torch.tensor(ids))
        for unit in units:
            ours, theirs = _captured(spec.folder, unit.name, at, len(ids), host)
            x, y = seen[unit.name]
            for place, value in enumerate(
                ((x * ours).sum(0), ours.square().sum(0), (y * theirs).sum(0), theirs.square().sum(0))
            ):
                dots[unit.name][place] = dots[unit.name][place] + value.cpu()
        at += len(ids)
    return {
        name: (_factor(a, b, spec).to(host.device), _factor(c, d, spec).to(host.device))
        for name, (a, b, c, d) in dots.items()
    }


def _factor(dot: Tensor, square: Tensor, spec: BlameSpec) -> Tensor:
    import torch

    factor = torch.where(square > 0, dot / square.clamp_min(1e-30), torch.ones_like(dot))
    log = factor.clamp_min(2.0**-14).log2()
    if spec.powers_of_two:  # what rounding did to a channel must not be taken for a scale
        factor = torch.where(factor > 0, log.round().exp2(), factor)
    return torch.where(factor > 0, factor, torch.ones_like(factor))


def _forward(host: ModelHost, units: list[Unit], ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Unit to its input and output (shards side by side) in the original, for one window."""
    import torch

    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen[name] = (args[0].detach()[0].float(), out.detach()[0].float())

    handles = [
        host.linear(m.name).register_forward_hook(lambda _m, args, out, name=m.name: hook(name, args, out))
        for u in units
        for m in u.linears
    ]
    try:
        host.hidden_only(ids[None])
    finally:
        for handle in handles:
            handle.remove()
    return {
        u.name: (seen[u.linears[0].name][0], torch.cat([seen[m.name][1] for m in u.linears], -1))
        for u in units
    }


if __name__ == "__main__":
    child_main(BlameSpec, blame)
