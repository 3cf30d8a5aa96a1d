"""Child process: one tiny checkpoint per format, written, served by vLLM, and imitated in torch.

`python -m tests.quantize.served_formats FOLDER FORMAT[+KV_DTYPE]...` prints a JSON line per format.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1",
               "TORCHDYNAMO_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # fmt: skip

import torch
from torch import Tensor

VOCAB, TOKENS = 128, 96
IDS = [(i * i * 7 + i // 3) % (VOCAB - 2) + 2 for i in range(TOKENS)]


def make_model(folder: Path) -> None:
    """A random llama of two layers, wide enough for 128 x 128 blocks, with outlier channels as real models
    have them: without those, rounding activations costs less than bfloat16 arithmetic does."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {w: i for i, w in enumerate(["<unk>", "</s>", *(f"w{i}" for i in range(VOCAB - 2))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(
        folder
    )
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=256, num_hidden_layers=2, head_dim=64,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, initializer_range=0.1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data[::61] = 25.0
    model.to(torch.bfloat16).save_pretrained(folder)


def write(model: Path, fmt: str, out: Path, cache: str) -> tuple[Any, ...]:
    """The checkpoint of the uniform plan, by the product's own job; its units."""
    from profiles.hardware.schema import Device, DeviceKind
    from profiles.models import read_model
    from profiles.provenance import Figure
    from tuners.plan import PrecisionPlan
    from tuners.quantize.job import run
    from tuners.quantize.schema import QuantizeSpec
    from tuners.units import build_units

    device = Device(
        kind=DeviceKind.CPU, name="this", total_bytes=Figure.exact(2**33, "B", "test"), isa=tuple(flags())
    )
    units = tuple(build_units(read_model(str(model)), device, formats=[fmt]))
    plan = PrecisionPlan(formats={u.name: u.options[0] for u in units}, label=fmt, kv_cache_dtype=cache)
    text = " ".join(f"w{(i * i + i // 7) % 120}" for i in range(1200))
    spec = QuantizeSpec(
        model_path=str(model), units=units, plan=plan, out_dir=str(out), calibration_texts=(text,),
        num_samples=8, max_seq_length=64, methods={"*": "rtn"}, compute="float32",
        input_scales=no_scales(out),
    )  # fmt: skip
    run(spec, lambda _event: None)
    return units, plan, device, text


def no_scales(out: Path) -> str:
    """An empty file of input scales: nothing is smoothed, so that activations are hard to round."""
    import numpy as np

    path = out.with_name(f"{out.name}.npz")
    np.savez(path)
    return str(path)


def imitated(
    model: Path, units: Any, plan: Any, device: Any, text: str, folder: Path, out: Path
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the original and of the search's imitation of the plan."""
    from profiles.formats import get_format
    from tuners.model.calibrate import input_spans
    from tuners.model.host import ModelHost, model_feed
    from tuners.model.kv_cache import rounded_cache
    from tuners.model.variants import VariantStore, rtn_all
    from tuners.units import served_rounding

    host = ModelHost.load(model, units)
    ids = torch.tensor([IDS])
    calibration = host.tokenise([text], seq_len=64, max_sequences=8)
    store = VariantStore(host, folder, 2**28, served_rounding(units, device))
    spans = input_spans(host, units, model_feed(host, calibration, 4, head=True))
    for unit in units:
        rounded = rtn_all([host.original[m.name] for m in unit.linears], get_format(plan.formats[unit.name]))
        names = [m.name for m in unit.linears]
        store.put(
            unit.name, plan.formats[unit.name], dict(zip(names, rounded, strict=True)), None, spans[unit.name]
        )
    before = host.logits(ids).log_softmax(-1)[0]
    with store.installed(plan.formats):
        if plan.kv_cache_dtype == "auto":
            return before, host.logits(ids).log_softmax(-1)[0]
        with rounded_cache(host, plan.kv_cache_dtype, stored_spans(out)):
            return before, host.logits(ids).log_softmax(-1)[0]


def stored_spans(checkpoint: Path) -> dict[int, tuple[float, float]]:
    """What the checkpoint's own scales of keys and values cover, by layer."""
    from safetensors.torch import load_file

    tensors = load_file(checkpoint / "model.safetensors")
    of = "model.layers.{}.self_attn.{}_scale"
    return {b: tuple(float(tensors[of.format(b, x)]) * 448 for x in "kv") for b in range(2)}  # type: ignore[misc]


def serve(checkpoint: Path, **arguments: Any) -> tuple[Tensor, list[int], dict[str, tuple[str, str]]]:
    """What vLLM answers on the checkpoint, started as the measuring process starts it: log-probabilities of
    every position but the last, eight generated tokens, and the kernel of every module."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    from tuners.engine.arguments import int4_environment
    from tuners.engine.dtype import cpu_dtype
    from tuners.engine.probe import EXTENSION

    os.environ.pop("VLLM_CPU_INT4_W4A8", None)
    os.environ.update(int4_environment(checkpoint))
    llm = LLM(
        str(checkpoint), enforce_eager=True, dtype=cpu_dtype(flags())[0], max_model_len=256, max_num_seqs=4,
        max_num_batched_tokens=256, kv_cache_memory_bytes=2**26, max_logprobs=VOCAB,
        worker_extension_cls=EXTENSION, **arguments,
    )  # fmt: skip
    parameters = SamplingParams(max_tokens=8, temperature=0, prompt_logprobs=VOCAB, ignore_eos=True)
    out = llm.generate({"prompt_token_ids": IDS}, parameters, use_tqdm=False)[0]
    modules = llm.collective_rpc("advisor_modules")[0]
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    rows = [[row[i].logprob for i in range(VOCAB)] for row in out.prompt_logprobs[1:]]
    return torch.tensor(rows), list(out.outputs[0].token_ids), modules


def flags() -> list[str]:
    """This CPU's."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("flags")).split()


def kl(reference: Tensor, other: Tensor) -> float:
    """Mean over the positions that both have."""
    reference = reference[: len(other)]
    return float((reference.exp() * (reference - other)).sum(-1).mean())


def main(folder: Path, formats: list[str]) -> None:
    """Everything for each format."""
    model = folder / "model"
    make_model(model)
    for name in formats:
        fmt, _, cache = name.partition("+")
        out = folder / name
        units, plan, device, text = write(model, fmt, out, cache or "auto")
        before, after = imitated(model, units, plan, device, text, folder / f"{name}-variants", out)
        found, tokens, modules = serve(out)  # the cache's dtype is that of the checkpoint
        kernels = sorted({modules[u.name][0] for u in units})
        line = {
            "format": name,
            "kernels": kernels,
            "kl_of_the_format": kl(before, found),
            "kl_to_the_imitation": kl(after, found),
            "same_best": float((after[: len(found)].argmax(-1) == found.argmax(-1)).float().mean()),
            "tokens": tokens,
            "imitated_token": int(after[-1].argmax()),
        }
        print("FOUND " + json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
