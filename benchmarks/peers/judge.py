"""The judge that every tool's child process uses on the model that its tool made."""

from __future__ import annotations

from typing import Any


def judged(model: Any, held_out: dict[str, dict]) -> dict[str, list[dict]]:
    """Losses of each sequence of each text against the original's stored log-probabilities.

    `held_out` maps a text to `ids` (sequences of tokens) and `reference` (float32 file of the Evaluator).
    """
    from dataclasses import asdict

    import numpy as np
    import torch

    from tuners.evaluate import compare

    model.eval()
    out: dict[str, list[dict]] = {}
    for name, text in held_out.items():
        ids = torch.tensor(text["ids"])
        vocab = int(model.config.vocab_size)
        reference = np.memmap(text["reference"], dtype=np.float32, mode="r", shape=(*ids.shape, vocab))
        out[name] = []
        for row in range(len(ids)):
            batch = ids[row : row + 1]
            with torch.no_grad():
                logits = model(input_ids=batch, use_cache=False).logits.float()
            stored = torch.from_numpy(np.array(reference[row : row + 1]))
            out[name] += [asdict(x) for x in compare(logits, stored, batch)]
    return out
