"""Child process: two blocks of the demo model by each method, compared with the original on held-out text.

`python -m tests.quantize.demo_methods make MODEL FOLDER` prints a JSON line per checkpoint and keeps the one
that has every method; `serve FOLDER` prints what vLLM answers on it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1",
               "TORCHDYNAMO_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # fmt: skip

import torch

from tuners.plan import PrecisionPlan, Unit

INT4, INT8 = "W4A16_G64", "W8A8"
METHODS = {
    INT4: ("rtn", "gptq", "gptq-no-order", "awq", "awq-gptq", "autoround"),
    INT8: ("rtn", "smoothquant", "smoothquant-pow2"),
}
BLOCKS = (6, 20)
"""Quantized, an early and a late one; the others stay in 16 bits."""

SEQUENCES, TOKENS = 10, 96
CALIBRATION = {"num_samples": 8, "max_seq_length": 128, "rounding_steps": 25, "compute": "float32"}

MIXED = (
    (INT4, "awq"), (INT4, "gptq"), (INT4, "awq-gptq"), (INT4, "autoround"),
    (INT8, "smoothquant"), (INT4, "gptq-no-order"), (INT8, "smoothquant-pow2"), (INT4, "gptq-minmax"),
)  # fmt: skip
"""qkv, o, gate_up and down of each block: one checkpoint of all methods."""


def uniform_plan(units: Sequence[Unit], fmt: str) -> PrecisionPlan:
    """The format in the chosen blocks."""
    return PrecisionPlan(formats={u.name: fmt if u.block in BLOCKS else "BF16" for u in units}, label=fmt)


def mixed_plan(units: Sequence[Unit]) -> PrecisionPlan:
    """Another method in each unit of the chosen blocks."""
    cases = dict(zip((u.name for u in units if u.block in BLOCKS), MIXED, strict=True))
    return PrecisionPlan(
        formats={u.name: cases[u.name][0] if u.name in cases else "BF16" for u in units},
        methods={name: method for name, (_, method) in cases.items()},
        label="mixed",
    )


def make(model: Path, folder: Path) -> None:
    """Write each checkpoint by the product's own job, read it back and measure it."""
    from profiles.models import read_model
    from profiles.tasks import load_task
    from tests.validate.examples import cpu_device
    from tuners.evaluate import compare
    from tuners.model.host import ModelHost
    from tuners.quantize.job import run
    from tuners.quantize.schema import QuantizeSpec
    from tuners.quantize.served import install_checkpoint
    from tuners.units import build_units

    units = tuple(build_units(read_model(str(model)), cpu_device(isa=("avx2", "avx512f"))))
    splits = load_task("generic").splits
    host = ModelHost.load(model, units)
    ids = host.tokenise(splits.evaluate, seq_len=TOKENS, max_sequences=SEQUENCES)
    original = torch.log_softmax(host.logits(ids), -1)
    cases = [(uniform_plan(units, fmt), {fmt: m}) for fmt, methods in METHODS.items() for m in methods]
    for plan, methods in [*cases, (mixed_plan(units), {})]:
        out = folder / plan.label
        spec = QuantizeSpec.model_validate(
            {"model_path": str(model), "units": units, "plan": plan, "methods": methods, "out_dir": str(out),
             "calibration_texts": splits.search, "overwrite": True, **CALIBRATION}
        )  # fmt: skip
        made = run(spec, lambda _event: None)
        install_checkpoint(host, out, plan)
        logits = host.logits(ids)
        line = {
            "case": " ".join([plan.label, *methods.values()]),
            "kl": [loss.kl for loss in compare(logits, original, ids)],
            "methods": made.methods,
            "seconds": made.seconds,
        }
        print("FOUND " + json.dumps(line), flush=True)
        if plan.label != "mixed":
            shutil.rmtree(out)
    target = ids[:, 1:, None]
    both = [x[:, :-1].gather(-1, target).squeeze(-1) for x in (original, torch.log_softmax(logits, -1))]
    torch.save((ids, *both), folder / "mixed.pt")


def serve(folder: Path) -> None:
    """Log-probabilities that vLLM gives the text under the mixed checkpoint, against torch's of the original
    and of the same checkpoint: mean absolute differences."""
    from vllm import LLM, SamplingParams

    ids, original, checkpoint = torch.load(folder / "mixed.pt")
    llm = LLM(
        str(folder / "mixed"), enforce_eager=True, max_model_len=128, dtype="bfloat16", max_num_seqs=4,
        kv_cache_memory_bytes=2**26,
    )  # fmt: skip
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    outs = llm.generate([{"prompt_token_ids": row.tolist()} for row in ids], params, use_tqdm=False)
    found = torch.tensor(
        [
            [at[int(token)].logprob for at, token in zip(out.prompt_logprobs[1:], row[1:], strict=True)]
            for out, row in zip(outs, ids, strict=True)
        ]
    )
    apart = {"original": (found - original).abs(), "checkpoint": (found - checkpoint).abs()}
    print("FOUND " + json.dumps({name: float(x.mean()) for name, x in apart.items()}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        serve(Path(sys.argv[2]))
