"""Judge a compressed-tensors checkpoint in torch: weights dequantized, activations rounded by its config."""

from __future__ import annotations

import json
import sys

from judge import judged


def main() -> None:
    """Answer one request: `checkpoint`, `held_out`, `out`."""
    request = json.load(sys.stdin)
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    model = AutoModelForCausalLM.from_pretrained(
        request["checkpoint"],
        dtype=torch.float32,
        quantization_config=CompressedTensorsConfig(run_compressed=False),
    )
    with open(request["out"], "w") as file:
        json.dump({"texts": judged(model, request["held_out"])}, file)


if __name__ == "__main__":
    main()
