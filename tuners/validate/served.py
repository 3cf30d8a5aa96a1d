"""Bytes of the weights as the engine loads them, which is not what the checkpoint stores.

vLLM 0.32 creates parameters in its own dtypes (`compressed_tensors/schemes/*.create_weights`): 16-bit
weights and the group scales of weight-only INT in the serving dtype, channel scales of INT8/FP8 in
float32, one `weight_shape` per fused layer; vocabularies are padded to 64 rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from profiles.formats import get_format
from profiles.formats.schema import Format
from profiles.models.schema import ModelProfile, TensorInfo
from tuners.engine.dtype import DTYPE_BITS
from tuners.plan import PrecisionPlan, Unit

VOCAB_PADDING = 64
"""Rows that vLLM pads embeddings and heads to (vocab_parallel_embedding.DEFAULT_VOCAB_PADDING_SIZE)."""

CHANNEL_SCALE_BITS = 32
"""Channel scales of W8A8 and FP8 are float32 in the engine, 16-bit in the checkpoint."""

_NOT_LOADED = ("rotary_emb.inv_freq", "masked_bias", "attn.bias")
_VOCAB_TABLES = ("embed_tokens.weight", "wte.weight", "lm_head.weight", "embed_in.weight", "embed_out.weight")


def unit_served_bytes(unit: Unit, format_name: str, dtype: str, *, tp: int = 1) -> int:
    """Bytes of one unit's parameters in the engine, on one of `tp` ranks."""
    fmt = get_format(format_name)
    if unit.role == "lm_head":
        head = unit.linears[0]
        rows = math.ceil(head.out_features / (VOCAB_PADDING * tp)) * VOCAB_PADDING * tp
        unit = unit.model_copy(update={"linears": (head.model_copy(update={"out_features": rows}),)})
    stored = unit.bytes_as(format_name, unquantized_bits=DTYPE_BITS[dtype])
    widened = _served_scale_bits(fmt, dtype) - fmt.scale_bits
    scales = sum(fmt.scales(m.out_features, m.in_features) * m.copies for m in unit.linears)
    copies = sum(m.copies for m in unit.linears)
    one_shape_per_layer = fmt.packed_shape_bytes * (copies - max(m.copies for m in unit.linears))
    return math.ceil((stored + scales * widened // 8 - one_shape_per_layer) / tp)


def served_weights_bytes(
    model: ModelProfile, plan: PrecisionPlan, units: Sequence[Unit], dtype: str, *, tp: int = 1
) -> int:
    """Bytes of all weights on one of `tp` ranks: the units under `plan`, and the rest in `dtype`."""
    in_units = {f"{m.name}.weight" for u in units for m in u.linears}
    rest = sum(_rest_bytes(t, model, dtype, tp) for t in model.tensors if t.name not in in_units)
    return rest + sum(unit_served_bytes(u, plan.formats[u.name], dtype, tp=tp) for u in units)


def _served_scale_bits(fmt: Format, dtype: str) -> int:
    if not fmt.scale_bits:
        return 0
    if fmt.packed_shape_bytes:  # weight-only INT: scales in the serving dtype
        return DTYPE_BITS[dtype]
    return CHANNEL_SCALE_BITS if fmt.weight_bits == 8 else fmt.scale_bits


def _rest_bytes(tensor: TensorInfo, model: ModelProfile, dtype: str, tp: int) -> int:
    if tensor.name.endswith(_NOT_LOADED):
        return 0
    if tensor.name.endswith("lm_head.weight") and model.tie_word_embeddings:
        return 0
    elements = tensor.numel
    if tensor.name.endswith(_VOCAB_TABLES) and len(tensor.shape) == 2:
        rows = math.ceil(tensor.shape[0] / (VOCAB_PADDING * tp)) * VOCAB_PADDING
        elements = rows * tensor.shape[1]
    return elements * DTYPE_BITS[dtype] // 8
