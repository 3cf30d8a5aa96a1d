"""Every method on one small model with outlier channels: error against rounding, and one load in vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.quantize.models import llama_units, plan_of
from tests.quantize.test_engine_tiny import MAKE, WORDS
from tuners.quantize import QuantizeSpec

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

UNITS = llama_units(2)
INT4 = ("rtn", "gptq", "gptq-no-order", "gptq-minmax", "awq", "awq-gptq", "autoround")
INT8 = ("rtn", "smoothquant", "smoothquant-pow2")
MIXED = plan_of(UNITS, "W4A16_G32").model_copy(
    update={
        "formats": {u.name: "W8A8" if i in (4, 6) else "W4A16_G32" for i, u in enumerate(UNITS)},
        "methods": dict(
            zip(
                (u.name for u in UNITS),
                ("awq", "gptq-no-order", "awq-gptq", "autoround", "smoothquant", "rtn", "smoothquant-pow2",
                 "gptq-minmax"),
                strict=True,
            )
        ),
    }
)  # fmt: skip
"""One checkpoint with a unit by each method."""

SHARPEN = """
import sys, torch
from transformers import AutoModelForCausalLM
torch.manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
for name, p in model.named_parameters():
    if name.endswith("layernorm.weight"):
        p.data[torch.randperm(len(p))[:6]] *= 15  # channels with outliers, as trained models have them
    elif p.dim() == 2:
        p.data *= 5
model.to(torch.bfloat16).save_pretrained(sys.argv[1])
"""

MEASURE = """
import json, sys, torch
from pathlib import Path
from tuners.evaluate import compare
from tuners.model.host import ModelHost
from tuners.quantize import QuantizeSpec
from tuners.quantize.job import run
from tuners.quantize.served import install_checkpoint
found = {}
host = ids = None
for name, text in json.load(open(sys.argv[1])).items():
    spec = QuantizeSpec.model_validate_json(text)
    if host is None:
        host = ModelHost.load(spec.model_path, spec.units)
        ids = torch.randint(2, 62, (8, 64), generator=torch.Generator().manual_seed(0))
        reference = torch.log_softmax(host.logits(ids), -1)
    result = run(spec, lambda event: None)
    install_checkpoint(host, Path(result.checkpoint), spec.plan)
    logits = host.logits(ids)
    kl = sum(x.kl for x in compare(logits, reference, ids)) / len(ids)
    torch.save(torch.log_softmax(logits[:2], -1), result.checkpoint + ".pt")
    found[name] = {"kl": kl, "methods": result.methods, "checkpoint": result.checkpoint}
print(json.dumps(found))
"""

SERVE = """
import json, os, sys
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", TORCHDYNAMO_DISABLE="1",
    HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
import torch
from vllm import LLM, SamplingParams
llm = LLM(sys.argv[1], enforce_eager=True, max_model_len=128, dtype="bfloat16", skip_tokenizer_init=True,
    max_num_seqs=2, kv_cache_memory_bytes=2**24)
ids = torch.randint(2, 62, (8, 64), generator=torch.Generator().manual_seed(0))[:2]
expected = torch.load(sys.argv[2])
params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, detokenize=False)
worst = []
outs = llm.generate([{"prompt_token_ids": r.tolist()} for r in ids], params)
for row, (r, out) in enumerate(zip(ids, outs)):
    for place, given in enumerate(out.prompt_logprobs[1:], start=1):
        token = int(r[place])
        worst.append(abs(given[token].logprob - float(expected[row, place - 1, token])))
print(json.dumps({"mean": sum(worst) / len(worst), "places": len(worst)}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """KL on held-out tokens of a checkpoint by each method; all are made in one child."""
    folder = tmp_path_factory.mktemp("methods")
    model = folder / "model"
    for code, words in ((MAKE, (" ".join(WORDS),)), (SHARPEN, ())):
        subprocess.run([sys.executable, "-c", code, str(model), *words], check=True, capture_output=True)
    text = " ".join(WORDS[(i * i + i // 7) % len(WORDS)] for i in range(3000))
    cases = {f"W4A16_G32 {m}": ("W4A16_G32", {"*": m}) for m in INT4}
    cases |= {f"W8A8 {m}": ("W8A8", {"*": m}) for m in INT8}
    plans = {name: (plan_of(UNITS, fmt), methods) for name, (fmt, methods) in cases.items()}
    plans["mixed"] = (MIXED, {})
    specs = {
        name: QuantizeSpec.model_validate(
            {
                "model_path": str(model), "units": UNITS, "plan": plan, "methods": methods,
                "out_dir": str(folder / name.replace(" ", "-")), "calibration_texts": (text,),
                "num_samples": 16, "max_seq_length": 64, "rounding_steps": 20, "compute": "float32",
            }
        ).model_dump_json()
        for name, (plan, methods) in plans.items()
    }  # fmt: skip
    (folder / "specs.json").write_text(json.dumps(specs))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder / "specs.json")], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("method", INT4[1:])
def test_int4_by_every_method_is_nearer_than_rounding(
    found: dict[str, dict[str, float]], method: str
) -> None:
    assert found[f"W4A16_G32 {method}"]["kl"] < found["W4A16_G32 rtn"]["kl"]


@pytest.mark.parametrize("method", INT8[1:])
def test_scaled_inputs_are_nearer_than_rounded_ones(found: dict[str, dict[str, float]], method: str) -> None:
    assert found[f"W8A8 {method}"]["kl"] < 0.7 * found["W8A8 rtn"]["kl"]


def test_activation_order_and_clipping_each_help_gptq(found: dict[str, dict[str, float]]) -> None:
    best = found["W4A16_G32 gptq"]["kl"]
    assert best < found["W4A16_G32 gptq-no-order"]["kl"]
    assert best < found["W4A16_G32 gptq-minmax"]["kl"]


def test_the_result_says_what_was_done(found: dict[str, dict[str, object]]) -> None:
    assert found["W4A16_G32 awq"]["methods"] == {"W4A16_G32": "awq"}
    assert found["mixed"]["methods"] == {
        "W4A16_G32": "autoround + awq + awq-gptq + gptq-minmax + gptq-no-order + rtn",
        "W8A8": "smoothquant + smoothquant-pow2",
    }


def test_vllm_serves_a_checkpoint_of_all_methods_as_computed(found: dict[str, dict[str, str]]) -> None:
    checkpoint = found["mixed"]["checkpoint"]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, checkpoint, checkpoint + ".pt"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["places"] == 126
    assert answer["mean"] < 0.15  # bfloat16 in the engine against float32 here
