"""A written checkpoint put into the original model in memory: the weights that an engine multiplies by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from profiles.errors import UsageError
from profiles.formats import Format, Strategy, get_format
from tuners.model.host import ModelHost
from tuners.model.inputs import rounding
from tuners.model.variants import set_input_rounding
from tuners.plan import PrecisionPlan
from tuners.quantize.codes import is_readable, read_codes


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, memory-mapped where the library does so."""
    from safetensors import safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return found


def linears(host: ModelHost, plan: PrecisionPlan) -> Iterator[tuple[str, Format]]:
    """Module name and format of every quantized linear.

    Raises:
        UsageError: a format whose codes are not read here, or experts stored together.
    """
    for unit in host.units.values():
        fmt = get_format(plan.formats[unit.name])
        if fmt.strategy is Strategy.NONE:
            continue
        if not is_readable(fmt) or any(m.copies > 1 for m in unit.linears):
            raise UsageError(
                f"{unit.name} cannot be read back into torch",
                got=fmt.name,
                allowed="integers and FP8, a scale per channel or group, dynamic activations, no experts",
                next_step="leave recovery out (--recover 0), or change the unit's format",
            )
        for linear in unit.linears:
            yield linear.name, fmt


@torch.no_grad()
def install_checkpoint(host: ModelHost, folder: Path, plan: PrecisionPlan) -> dict[str, Tensor]:
    """Give the loaded model the checkpoint's weights and roundings; return the file's tensors.

    Norms, biases and 16-bit weights come from the file too: folds have changed them.

    Raises:
        UsageError: as `linears`.
    """
    tensors = read_tensors(folder)
    quantized = dict(linears(host, plan))
    own = dict(host.model.named_parameters())
    for name, value in tensors.items():
        if name in own and name.rpartition(".")[0] not in quantized:
            own[name].data.copy_(value)
    for module, fmt in quantized.items():
        linear = host.linear(module)
        linear.weight.data = read_codes(tensors, module, fmt).dequantize(linear.weight.dtype)
        linear.weight.data = linear.weight.data.to(host.device)
        set_input_rounding(linear, rounding(fmt.activations))
    return tensors
