"""The real engine on a tiny random model: one measurement, shared by every test here."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from profiles.errors import RunFailed
from profiles.footprint.schema import ServingSpec
from profiles.models.reader import read_model
from profiles.tasks.schema import EvaluationItem
from tests.validate.examples import cpu_device
from tuners.child import run_child
from tuners.events import Event, Progress
from tuners.plan import PrecisionPlan, uniform
from tuners.units import build_units
from tuners.validate.blame import Blame, BlameSpec
from tuners.validate.capture import Captured, CaptureSpec
from tuners.validate.measure import MeasureSpec
from tuners.validate.questions import Question
from tuners.validate.run import measure_checkpoint
from tuners.validate.schema import EngineMeasurement
from tuners.validate.served import served_weights_bytes

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WORDS = [f"w{i}" for i in range(125)] + ["<unk>", "<s>", "</s>"]
SERVING = ServingSpec(max_model_len=256, max_num_seqs=4, kv_cache_memory_bytes=32 * 2**20, dtype="float32")
TEXTS = (" ".join(f"w{(i * i) % 125}" for i in range(160)),)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of a random Llama with a vocabulary of 128 words."""
    pytest.importorskip("vllm")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=256,
        bos_token_id=126, eos_token_id=127, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


ITEMS = (
    EvaluationItem(prompt="w1 w2", answer=" w3", choices=(" w3", " w4"), scorer="choice"),
    EvaluationItem(prompt="w1 w2", answer=" w3 w4", choices=(" w3 w4", " w3 w5 w6"), scorer="choice"),
    EvaluationItem(prompt="", answer=TEXTS[0][:120], scorer="next-token"),
    EvaluationItem(prompt="w5 w6", answer=" no word of this vocabulary", scorer="exact"),
)
"""Choices that differ in their first token and that do not, a text, and an answer to write."""


@pytest.fixture(scope="session")
def measured(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EngineMeasurement, list[Event], Path]:
    """The measurement, the events it sent, and where it wrote."""
    out = tmp_path_factory.mktemp("measured")
    events: list[Event] = []
    spec = MeasureSpec(
        checkpoint=str(tiny), serving=SERVING, evaluate_texts=TEXTS, prompts=("w1 w2 w3",), eval_tokens=100,
        questions=tuple(Question(item=item) for item in ITEMS),
        seq_len=64, top_k=16, generate_tokens=4, prefill_tokens=64, decode_tokens=4,
        reference_path=str(out / "reference.npz"), is_reference=True, out_path=str(out / "original.json"),
    )  # fmt: skip
    found = measure_checkpoint(spec, emit=events.append, log_path=out / "engine.log")
    return found, events, out


Measured = tuple[EngineMeasurement, list[Event], Path]


def test_a_random_model_is_as_perplexed_as_its_vocabulary_is_large(measured: Measured) -> None:
    found, _, _ = measured

    assert found.eval_tokens == 100
    assert found.perplexity == pytest.approx(len(WORDS), rel=0.25)


def test_loaded_bytes_are_those_that_were_predicted(measured: Measured, tiny: Path) -> None:
    found, _, _ = measured
    model = read_model(str(tiny))
    units = build_units(model, cpu_device())
    plan = PrecisionPlan(formats={u.name: "BF16" for u in units})

    assert found.weights_bytes == served_weights_bytes(model, plan, units, "float32")
    assert {u.name for u in units} <= found.kernels.keys()
    assert {found.kernels[u.name] for u in units} == {"UnquantizedLinearMethod"}


def test_the_cache_has_the_tokens_that_its_bytes_hold(measured: Measured) -> None:
    found, _, _ = measured
    per_token = 2 * 2 * 1 * 32 * 4  # K and V, layers, heads, head_dim, float32

    assert found.kv_cache_bytes / found.kv_tokens == per_token
    assert 0.9 * 32 * 2**20 <= found.kv_cache_bytes <= 32 * 2**20
    assert found.max_concurrency == pytest.approx(found.kv_tokens / 256)


def test_everything_is_measured_and_told(measured: Measured) -> None:
    found, events, out = measured

    speeds = (found.prefill_tokens_s, found.decode_tokens_s, found.ttft_ms, found.itl_ms)
    assert all(math.isfinite(s) and s > 0 for s in speeds)
    assert len(found.generations) == len(found.prompts) == 1
    assert found.log_path == str(out / "engine.log")
    assert EngineMeasurement.model_validate_json((out / "original.json").read_text()) == found
    ends = [e.done for e in events if isinstance(e, Progress) and e.total]
    assert 100 in ends  # tokens of the windows
    assert ends[-1] == len(ITEMS)


def test_the_engine_was_checked(measured: Measured) -> None:
    found, _, _ = measured

    assert found.checks is not None
    assert found.checks.asked_twice == found.checks.same_answers == 1
    assert found.checks.chat_template_sha256 is None
    assert (found.checks.long_tokens, found.checks.long_ok) == (251, True)
    assert [p.concurrency for p in found.load] == [1, 4]  # sixteen at once is more than max_num_seqs
    assert [(p.requests, p.failed) for p in found.load] == [(4, 0), (8, 0)]
    assert all(0 < p.ttft_ms <= p.ttft_p99_ms and 0 < p.itl_ms <= p.itl_p99_ms for p in found.load)
    assert all(p.output_tokens_s > 0 for p in found.load)


def test_the_tasks_items_were_answered_and_scored(measured: Measured) -> None:
    found, _, _ = measured

    assert found.task is not None
    assert found.task.items == (0, 1, 2, 3)
    assert found.task.scorers == ("choice", "next-token", "exact")
    picked, whole, share, written = found.task.scores
    assert picked in (0.0, 1.0)
    assert whole in (0.0, 1.0)
    assert share is not None
    assert 0 <= share < 0.5  # a random model
    assert written == 0.0
    assert found.task.answers[:3] == ("", "", "")
    assert found.task.answers[3] != ""
    assert found.task.chance == pytest.approx((0.5 + 0.5) / 4)


def test_nothing_is_left_running(measured: Measured) -> None:
    _, _, out = measured
    mine = [
        pid
        for pid in os.listdir("/proc")
        if pid.isdigit() and str(out).encode() in _command_line(Path("/proc", pid))
    ]

    assert mine == []


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_an_engine_that_cannot_start_says_why(tiny: Path, tmp_path: Path) -> None:
    """A context that the cache cannot hold: the reason is the engine's own."""
    starved = SERVING.model_copy(update={"kv_cache_memory_bytes": 4096})
    spec = MeasureSpec(checkpoint=str(tiny), serving=starved, evaluate_texts=TEXTS)

    with pytest.raises(RunFailed, match="did not start") as caught:
        measure_checkpoint(spec, emit=lambda _: None, log_path=tmp_path / "engine.log")
    assert "No available memory for the cache blocks" in (caught.value.got or "")
    assert str(tmp_path / "engine.log") in (caught.value.where or "")


def test_units_in_16_bits_are_blamed_for_nothing(tiny: Path, tmp_path: Path) -> None:
    """The engine's inputs and outputs of every unit are those of torch: nothing that it does in place later,
    such as rotating queries and keys, is taken for an error of theirs."""
    units = tuple(build_units(read_model(str(tiny)), cpu_device()))
    spec = CaptureSpec(
        checkpoint=str(tiny), serving=SERVING, unit_names=tuple(u.name for u in units), texts=TEXTS,
        folder=str(tmp_path / "layers"),
    )  # fmt: skip

    def child(module: str, asked: BaseModel) -> dict[str, Any]:
        return run_child(module, asked, emit=lambda _e: None, log_path=tmp_path / "log", stage="diagnose")

    captured = Captured.model_validate(child("tuners.validate.capture", spec))
    assert set(captured.watched) == {u.name for u in units}
    asked = BlameSpec(
        model_path=str(tiny), units=units, plan=uniform(units, "16-bit"), folder=captured.folder,
        watched=tuple(captured.watched),
    )  # fmt: skip
    for one in Blame.model_validate(child("tuners.validate.blame", asked)).units:
        assert one.error < 1e-3, one
        assert one.drift < 1e-2, one
