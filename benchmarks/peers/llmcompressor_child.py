"""llm-compressor's GPTQ with one scheme for the whole model, by its documented recipe, in a process of its
own."""

from __future__ import annotations

import json
import tempfile
import time

from judge import judged
from wire import serve


def answer(request: dict) -> dict:
    """One request: that of `autoround_child.py` with `held_out`."""
    start = time.process_time()
    import llmcompressor
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    with open(request["texts"]) as file:
        texts = json.load(file)[: request["nsamples"]]
    rows = [tokenizer(t, truncation=True, max_length=request["seqlen"]) for t in texts]
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=request["group_size"]
    )
    recipe = GPTQModifier(
        ignore=["lm_head"],
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
    )
    oneshot(
        model=model,
        dataset=Dataset.from_list([dict(r) for r in rows]),
        recipe=recipe,
        num_calibration_samples=len(rows),
        max_seq_length=request["seqlen"],
    )
    found = {"seconds": time.process_time() - start, "version": llmcompressor.__version__}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_compressed=True)
        from transformers import CompressedTensorsConfig

        again = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False)
        )
        found["texts"] = judged(again, request["held_out"])
    return found


if __name__ == "__main__":
    serve(answer)
