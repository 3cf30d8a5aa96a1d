"""A real run of the quantizer on a tiny random model: files, dtypes, values, bytes, kill and resume."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from profiles.errors import Interrupted
from tests.quantize.models import llama_units, plan_of
from tuners.child import run_child
from tuners.events import Event
from tuners.quantize import QuantizeResult, QuantizeSpec

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

UNITS = llama_units(2)
PLAN = plan_of(UNITS, "W8A8", "BF16", "W4A16_G32", "FP8_DYNAMIC", "W4A16_ASYM_G64", "W8A16", "NVFP4", "MXFP4")
ELSEWHERE = plan_of(
    UNITS, "NVFP4A16", "FP8_BLOCK", "FP8_STATIC", "FP8_W8A16", "W4AFP8", "W4A8_G64",
    "W8A8_STATIC_ASYM", "NVFP4",
)  # fmt: skip
WORDS = [f"w{i}" for i in range(60)]

MAKE = """
import sys, torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
torch.manual_seed(0)
words = sys.argv[2].split()
vocab = {w: i for i, w in enumerate(["<unk>", "</s>", *words])}
tok = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
tok.pre_tokenizer = pre_tokenizers.Whitespace()
fast = PreTrainedTokenizerFast(tokenizer_object=tok, unk_token="<unk>", eos_token="</s>")
fast.save_pretrained(sys.argv[1])
config = LlamaConfig(vocab_size=64, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of 2 layers in bfloat16 with a word tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run(
        [sys.executable, "-c", MAKE, str(folder), " ".join(WORDS)], check=True, capture_output=True
    )
    return folder


def spec_of(model: Path, out: Path, **changes: object) -> QuantizeSpec:
    """The mixed plan on the tiny model."""
    text = " ".join(WORDS[(i * i + i // 7) % len(WORDS)] for i in range(2000))
    base = {
        "model_path": str(model), "units": UNITS, "plan": PLAN, "out_dir": str(out),
        "calibration_texts": (text,), "num_samples": 8, "max_seq_length": 64,
    }  # fmt: skip
    return QuantizeSpec.model_validate({**base, **changes})


def quantize(
    spec: QuantizeSpec, events: list[Event], cancelled: threading.Event | None = None
) -> QuantizeResult:
    """Run the job in a child."""
    raw = run_child(
        "tuners.quantize.job",
        spec,
        emit=events.append,
        log_path=Path(spec.out_dir + ".log"),
        stage="quantize",
        cancelled=cancelled.is_set if cancelled else None,
    )
    return QuantizeResult.model_validate(raw)


@pytest.fixture(scope="module")
def done(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[QuantizeResult, list[Event]]:
    """One finished run."""
    events: list[Event] = []
    return quantize(spec_of(tiny, tmp_path_factory.mktemp("run") / "out"), events), events


def test_bytes_are_the_plans_price(done: tuple[QuantizeResult, list[Event]]) -> None:
    assert done[0].unit_bytes == PLAN.bytes_of(UNITS)
    assert done[0].methods["W4A16_G32"] == "gptq"
    assert done[0].methods["W8A8"] == "smoothquant-pow2"


def test_everything_an_engine_needs_is_there(done: tuple[QuantizeResult, list[Event]], tiny: Path) -> None:
    out = Path(done[0].checkpoint)
    config = json.loads((out / "config.json").read_text())

    assert config["dtype"] == "bfloat16"
    assert config["quantization_config"]["format"] == "mixed-precision"
    assert (out / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()
    assert Path(done[0].recipe).stat().st_size > 0
    assert not Path(done[0].checkpoint + ".partial").exists()


def test_nothing_is_float32_but_the_scales_of_nvfp4(done: tuple[QuantizeResult, list[Event]]) -> None:
    from profiles.models.headers import read_tensors

    wide = {t.name.rpartition(".")[2] for t in read_tensors(Path(done[0].checkpoint)) if t.dtype == "F32"}
    assert wide == {"weight_global_scale", "input_global_scale"}


def test_int4_ranges_are_clipped_where_the_inputs_weigh_little(
    done: tuple[QuantizeResult, list[Event]], tiny: Path
) -> None:
    from safetensors.torch import load_file

    before = load_file(tiny / "model.safetensors")
    after = load_file(Path(done[0].checkpoint) / "model.safetensors")
    name = next(n for n, f in PLAN.by_linear(UNITS).items() if f == "W4A16_G32")
    weight = before[f"{name}.weight"].float()
    scale = after[f"{name}.weight_scale"].float()
    minmax = weight.view(len(weight), -1, 32).abs().amax(-1) / 7.5

    share = scale / minmax
    assert share.max() < 1.01
    assert share.min() > 0.59
    assert 0.7 < share.mean() < 0.98


CLOSE = """
import json, sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
ids = torch.arange(2, 60)[None]
original = load_file(sys.argv[1] + "/model.safetensors")
model = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.bfloat16)
model(ids)  # the library decompresses the weights on the first call
errors = {}
for name, weight in model.state_dict().items():
    if name.endswith("_proj.weight"):
        w = original[name].float()
        errors[name[:-7]] = ((weight.float() - w).norm() / w.norm()).item()
print(json.dumps(errors))
"""


def test_weights_come_back_within_each_formats_rounding(
    done: tuple[QuantizeResult, list[Event]], tiny: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CLOSE, str(tiny), done[0].checkpoint],
        check=True,
        capture_output=True,
        text=True,
    )
    errors = json.loads(run.stdout.splitlines()[-1])
    limits = {
        "BF16": 0.0, "W8A8": 0.012, "W8A16": 0.012, "FP8_DYNAMIC": 0.04,
        "W4A16_G32": 0.2, "W4A16_ASYM_G64": 0.25, "NVFP4": 0.2, "MXFP4": 0.25,
    }  # fmt: skip
    formats = PLAN.by_linear(UNITS)

    assert errors.keys() == formats.keys()
    for name, error in errors.items():
        assert error <= limits[formats[name]], (name, formats[name])
        assert (error == 0) == (formats[name] == "BF16"), (name, formats[name])


SAME = """
import json, sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from profiles.formats import get_format
from tests.quantize.test_engine_tiny import ELSEWHERE, UNITS
from tuners.model.variants import rtn_all
original = load_file(sys.argv[1] + "/model.safetensors")
model = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.bfloat16)
model(torch.arange(2, 60)[None])  # the library decompresses the weights on the first call
found = model.state_dict()
worst = {}
for unit in UNITS:
    fmt = get_format(ELSEWHERE.formats[unit.name])
    ours = rtn_all([original[m.name + ".weight"].float() for m in unit.linears], fmt)
    for linear, variant in zip(unit.linears, ours):
        mine, theirs = variant.dequantize(torch.float32), found[linear.name + ".weight"].float()
        worst[linear.name] = ((mine - theirs).abs().max() / mine.abs().max()).item()
print(json.dumps(worst))
"""


def test_formats_for_other_hardware_are_written_as_the_search_imitates_them(
    tiny: Path, tmp_path: Path
) -> None:
    """No GPU here: their files are verified tensor by tensor, and their values against our own rounding."""
    spec = spec_of(tiny, tmp_path / "out", methods={"*": "rtn"}, plan=ELSEWHERE, compute="float32")
    assert quantize(spec, []).unit_bytes == ELSEWHERE.bytes_of(UNITS)
    run = subprocess.run(
        [sys.executable, "-c", SAME, str(tiny), spec.out_dir], check=True, capture_output=True, text=True
    )
    for name, worst in json.loads(run.stdout.splitlines()[-1]).items():
        assert worst <= 2**-8, name  # decompression goes through bfloat16


def test_progress_reaches_the_end_and_memory_is_reported(done: tuple[QuantizeResult, list[Event]]) -> None:
    steps = [e for e in done[1] if e.kind == "progress"]
    finished = [e for e in done[1] if e.kind == "stage_finished"]

    assert steps[-1].done == steps[-1].total == 2
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    assert finished[0].peak_rss_bytes == done[0].peak_rss_bytes > 10**8


def test_a_killed_writer_leaves_nothing_that_looks_finished_and_the_next_run_finishes(
    tiny: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny, tmp_path / "out", methods={"*": "rtn"}, plan=plan_of(UNITS, "W8A8", "W4A16_G32"))
    stop = threading.Event()

    def watch() -> None:
        while not spec.partial_dir.exists():
            time.sleep(0.01)
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    with pytest.raises(Interrupted):
        quantize(spec, [], stop)
    assert not Path(spec.out_dir).exists()
    assert spec.partial_dir.exists()

    events: list[Event] = []
    result = quantize(spec, events)
    assert any(e.kind == "message" and "did not finish" in e.text for e in events)
    assert not spec.partial_dir.exists()
    assert result.unit_bytes == spec.plan.bytes_of(UNITS)
    assert quantize(spec, []).skipped


def test_the_cpu_loop_of_gptq_gives_the_librarys_numbers() -> None:
    code = """
import torch
torch.set_num_threads(1)
from compressed_tensors.quantization import QuantizationArgs
import llmcompressor.modifiers.gptq.gptq_quantize as g
from tuners.quantize.gptq_cpu import register
def both(**kw):
    torch.manual_seed(0)
    w, x = torch.randn(2, 24, 192), torch.randn(512, 192)
    h = (x.T @ x / 256)[None].repeat(2, 1, 1)
    kw = {'symmetric': True, **kw}
    args = QuantizationArgs(num_bits=4, type='int', **kw)
    n = 32 if kw['strategy'] == 'group' else 192
    s = w.reshape(2, 24, -1, n).abs().amax(-1) / 7.5
    z = torch.zeros_like(s) if kw['symmetric'] else torch.randint(-3, 4, s.shape).float()
    return lambda: g.quantize_weight(w.clone(), h.clone(), s, z, None, args)
cases = [both(strategy='group', group_size=32, actorder=a) for a in ('static', 'weight', None)]
cases.append(both(strategy='channel', actorder='static'))
cases.append(both(strategy='group', group_size=32, actorder='static', symmetric=False))
before = [c() for c in cases]
register()
for old, case in zip(before, cases):
    new = case()
    assert (old[0] - new[0]).abs().max() < 1e-5, (old[0] - new[0]).abs().max()
    assert torch.allclose(old[1], new[1], rtol=1e-4)
print('same')
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip().endswith("same"), run.stderr[-2000:]


def test_input_scales_of_the_search_are_folded_into_norm_and_weight(tiny: Path, tmp_path: Path) -> None:
    import numpy as np
    import torch
    from safetensors.torch import load_file

    unit = UNITS[0]
    exponents = np.arange(128, dtype=np.int8) % 5 - 2
    np.savez(tmp_path / "scales.npz", **{f"{unit.name}--W8A8": exponents})
    spec = spec_of(
        tiny, tmp_path / "out", plan=plan_of(UNITS, "W8A8", "BF16"),
        input_scales=str(tmp_path / "scales.npz"),
    )  # fmt: skip
    result = quantize(spec, [])

    assert result.input_scaled == (unit.name,)
    assert result.calibration_tokens == 0  # nothing left to look at data for
    before, after = load_file(tiny / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    scale = torch.from_numpy(exponents).float().exp2()
    norm, first = "model.layers.0.input_layernorm.weight", unit.linears[0].name
    assert torch.equal(after[norm].float(), before[norm].float() / scale)
    served = after[f"{first}.weight"].float() * after[f"{first}.weight_scale"].float()
    wanted = before[f"{first}.weight"].float() * scale
    assert (served - wanted).norm() / wanted.norm() < 0.012
    untouched = "model.layers.1.input_layernorm.weight"
    assert torch.equal(after[untouched], before[untouched])
