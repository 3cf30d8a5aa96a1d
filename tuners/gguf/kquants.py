"""Q4_K and Q6_K in numpy: rounding to nearest with a search over scales. The gguf package only reads them.

Layouts from ggml (ggml-common.h block_q4_K, block_q6_K); `gguf.quants` dequantizes them, and the tests
hold the two together. A row must be whole super-blocks of 256.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SUPER_BLOCK = 256
_SHRINK = np.linspace(0.75, 1.05, 13, dtype=np.float32)
"""Factors tried on every sub-block's scale: clipping a few outliers often costs less than a coarse grid."""

_TINY = np.float32(1e-20)

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def quantize_q4_k(weight: Floats) -> Bytes:
    """(rows, columns) to (rows, columns / 256 * 144) bytes: 8 sub-blocks of 32, 6-bit scales and minima."""
    blocks = weight.reshape(-1, 8, 32).astype(np.float32)
    low = np.minimum(blocks.min(axis=2), 0)
    scale = _best_scale(blocks, low, (blocks.max(axis=2) - low) / 15)
    d, codes = _six_bits(scale)
    dmin, mins = _six_bits(-low)
    step = (d[:, None] * codes)[:, :, None]
    offset = (dmin[:, None] * mins)[:, :, None]
    q = np.clip(np.rint((blocks + offset) / np.maximum(step, _TINY)), 0, 15).astype(np.uint8)
    q[np.broadcast_to(step, q.shape) == 0] = 0
    pairs = q.reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(len(q), 128)
    return _rows(weight, d.astype(np.float16), dmin.astype(np.float16), _pack_six(codes, mins), nibbles)


def quantize_q6_k(weight: Floats) -> Bytes:
    """(rows, columns) to (rows, columns / 256 * 210) bytes: 16 sub-blocks of 16 with signed 8-bit scales."""
    blocks = weight.reshape(-1, 16, 16).astype(np.float32)
    scale = np.abs(blocks).max(axis=2) / 31
    d = (scale.max(axis=1) / 127).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(scale / np.maximum(d, _TINY)[:, None]), 0, 127)
    step = (d[:, None] * codes)[:, :, None]
    q = np.clip(np.rint(blocks / np.maximum(step, _TINY)), -32, 31) + 32
    q = np.where(step == 0, 32, q).astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = q & 0x0F, q >> 4
    ql = np.concatenate([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], axis=2)
    qh = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    count = len(q)
    return _rows(
        weight, ql.reshape(count, 128), qh.reshape(count, 64), codes.astype(np.int8), d.astype(np.float16)
    )


def _best_scale(blocks: Floats, low: Floats, widest: Floats) -> Floats:
    """The scale of every sub-block with the least squared error among the shrunk ones."""
    best, least = widest, np.full(widest.shape, np.inf, dtype=np.float32)
    for factor in _SHRINK:
        scale = widest * factor
        safe = np.maximum(scale, _TINY)[:, :, None]
        q = np.clip(np.rint((blocks - low[:, :, None]) / safe), 0, 15)
        error = ((q * safe + low[:, :, None] - blocks) ** 2).sum(axis=2)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best


def _six_bits(values: Floats) -> tuple[Floats, npt.NDArray[Any]]:
    """A float16 step per super-block and 6-bit codes, of values that are not negative."""
    step = (values.max(axis=1) / 63).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(values / np.maximum(step, _TINY)[:, None]), 0, 63).astype(np.uint8)
    return step, codes


def _pack_six(scales: npt.NDArray[Any], mins: npt.NDArray[Any]) -> Bytes:
    """Twelve bytes for 8 + 8 six-bit codes (ggml get_scale_min_k4 reads them)."""
    first = scales[:, :4] | ((scales[:, 4:] & 0x30) << 2)
    second = mins[:, :4] | ((mins[:, 4:] & 0x30) << 2)
    rest = (scales[:, 4:] & 0x0F) | ((mins[:, 4:] & 0x0F) << 4)
    packed: Bytes = np.concatenate([first, second, rest], axis=1).astype(np.uint8)
    return packed


def _rows(weight: Floats, *parts: npt.NDArray[Any]) -> Bytes:
    """Super-blocks side by side, as many as a row of the weight has."""
    raw = [np.ascontiguousarray(p.reshape(len(parts[0]), -1)).view(np.uint8) for p in parts]
    out: Bytes = np.concatenate(raw, axis=1).reshape(weight.shape[0], -1)
    return out
