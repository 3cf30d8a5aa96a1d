"""Judge a compressed-tensors checkpoint in torch: weights dequantized, activations rounded by its config."""

from __future__ import annotations

from judge import judged
from wire import serve


def answer(request: dict) -> dict:
    """One request: `checkpoint`, `held_out`, `out`."""
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    model = AutoModelForCausalLM.from_pretrained(
        request["checkpoint"],
        dtype=torch.float32,
        quantization_config=CompressedTensorsConfig(run_compressed=False),
    )
    return {"texts": judged(model, request["held_out"])}


if __name__ == "__main__":
    serve(answer)
