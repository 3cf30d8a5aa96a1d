"""llm-compressor's GPTQ with this project's clipped scales (`tuners/model/clipping.py`).

Its modifier takes scales from an observer, which sees weights alone; the Hessian exists only where
`quantize_weight` is called. That call is wrapped: scales and zero points are replaced in place, so the
rounding and what the modifier stores afterwards both use them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def clipped_scales(scale_dtype: Any, *, but: Collection[str] = ()) -> Iterator[None]:
    """Within the block GPTQ of integer groups uses clipped scales, rounded to `scale_dtype` (torch).

    Modules named in `but` keep the min-max scales of their observer.
    """
    import llmcompressor.modifiers.gptq.base as library
    import torch

    from tuners.model.clipping import clipped

    original = library.quantize_weight
    compress_modules = library.GPTQModifier.compress_module_list

    def round_scale(scale: torch.Tensor) -> torch.Tensor:
        return scale.to(scale_dtype).clamp_min(torch.finfo(scale_dtype).tiny)

    def quantize_weight(
        *,
        weights: torch.Tensor,
        hessians: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor,
        quant_args: Any,
        **rest: Any,
    ) -> Any:
        integer = str(getattr(quant_args.type, "value", quant_args.type)) == "int"
        if integer and quant_args.group_size:
            for item in range(len(weights)):
                best, zero = clipped(
                    weights[item],
                    hessians[item].diagonal(),
                    bits=quant_args.num_bits,
                    group=quant_args.group_size,
                    symmetric=quant_args.symmetric,
                    round_scale=round_scale,
                )
                scale[item].copy_(best)
                zero_point[item].copy_(zero)
        return original(
            weights=weights,
            hessians=hessians,
            scale=scale,
            zero_point=zero_point,
            quant_args=quant_args,
            **rest,
        )

    def compress_module_list(self: Any, modules: list[Any]) -> None:
        plain = [m for m in modules if self._module_names[m] in but]
        clip = [m for m in modules if self._module_names[m] not in but]
        for found, how in ((plain, original), (clip, quantize_weight)):
            if found:
                library.quantize_weight = how
                compress_modules(self, found)

    library.GPTQModifier.compress_module_list = compress_module_list
    try:
        yield
    finally:
        library.GPTQModifier.compress_module_list = compress_modules
        library.quantize_weight = original
