"""Quantization formats: what each stores, what it costs in bytes, which kernel runs it where."""

from profiles.formats.menu import BF16, FP8_BLOCK, FP8_DYNAMIC, MENU, MXFP4, NVFP4, W8A8, W8A16, get_format
from profiles.formats.schema import CALIBRATED, Activations, Format, Strategy

__all__ = [
    "BF16",
    "CALIBRATED",
    "FP8_BLOCK",
    "FP8_DYNAMIC",
    "MENU",
    "MXFP4",
    "NVFP4",
    "W8A8",
    "W8A16",
    "Activations",
    "Format",
    "Strategy",
    "get_format",
]
