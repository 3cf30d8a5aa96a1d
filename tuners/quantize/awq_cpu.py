"""llm-compressor's AWQ on machines without an accelerator.

Version 0.14 pins the cached inputs of a block in memory before its grid search, which torch refuses when
there is no device to copy them to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unpinned() -> Iterator[None]:
    """Within the block cached activations are not pinned when torch sees no accelerator."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    original = IntermediatesCache.pin_memory
    IntermediatesCache.pin_memory = lambda self, batch_index: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = original
