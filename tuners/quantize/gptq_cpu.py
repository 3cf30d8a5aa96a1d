"""GPTQ's inner loop for CPUs, registered with llm-compressor's own dispatch (`ImplBackend`).

The library's eager loop spends a few hundred microseconds per column in Python and in strided access; this
one keeps columns contiguous and updates the rest of the block with one rank-1 product (BLAS `ger`). The
arithmetic is that of `llmcompressor/modifiers/gptq/gptq_quantize.py: gptq_block_update`; a test compares
the two.
"""

from __future__ import annotations

import functools
from typing import Any


def _usable(block: Any, *_: Any, quant_args: Any, zero_point: Any = None, **__: Any) -> bool:
    """Integers on the CPU; everything else is left to the library."""
    return bool(
        block.device.type == "cpu"
        and block.dim() == 3
        and str(getattr(quant_args.type, "value", quant_args.type)) == "int"
    )


@functools.cache
def register() -> None:
    """Make the loop below the one that GPTQModifier uses on CPUs."""
    import torch
    from compressed_tensors.utils.impl_backend import ImplBackend
    from llmcompressor.modifiers.gptq.helpers import column_scale_window

    def gptq_block_update_cpu(
        block: Any,
        hessian_inverse: Any,
        quantized: Any,
        errors: Any,
        losses: Any,
        *,
        scale: Any,
        zero_point: Any,
        global_scale: Any,
        g_idx: Any,
        quant_args: Any,
        i1: int,
    ) -> None:
        """Quantize the columns of a block one by one, pushing each one's error onto those after it."""
        batch, rows, width = block.shape
        scales, zeros = column_scale_window(
            scale, zero_point, global_scale, g_idx, quant_args, num_rows=rows, i1=i1, i2=i1 + width
        )
        high = 2 ** (quant_args.num_bits - 1) - 1
        by_column = scales.expand(batch, rows, width).transpose(1, 2).contiguous().to(block.dtype)
        shift = None
        if zeros is not None and not quant_args.symmetric:
            shift = zeros.expand(batch, rows, width).transpose(1, 2).contiguous().to(block.dtype)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # columns are short: waiting for a second thread costs more than it does
        for item in range(batch):
            columns = block[item].t().contiguous()
            inverse = hessian_inverse[item]
            diagonal = inverse.diagonal().tolist()
            rounded, pushed = torch.empty_like(columns), torch.empty_like(columns)
            for i in range(width):
                column, step = columns[i], by_column[item, i]
                torch.div(column, step, out=rounded[i])
                if shift is None:
                    rounded[i].clamp_(-high - 1, high).round_().mul_(step)
                else:
                    zero = shift[item, i]
                    rounded[i].add_(zero).clamp_(-high - 1, high).round_().sub_(zero).mul_(step)
                torch.sub(column, rounded[i], out=pushed[i])
                pushed[i].div_(diagonal[i])
                columns[i:].addr_(inverse[i, i:], pushed[i], alpha=-1)
            block[item].copy_(columns.t())
            quantized[item].copy_(rounded.t())
            errors[item].copy_(pushed.t())
        torch.set_num_threads(threads)
        torch.square(errors, out=losses)

    ImplBackend.register("gptq_block_update", req=_usable, priority=0)(gptq_block_update_cpu)
