"""A llama-shaped model small enough to search in a second, trained for a moment so that units differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from profiles.hardware.schema import Device, DeviceKind
from profiles.models import read_model
from profiles.provenance import Figure
from tuners.plan import Unit
from tuners.units import build_units

if TYPE_CHECKING:
    import torch

    from tuners.model.host import ModelHost
    from tuners.model.variants import VariantStore

TEXT = "the quick brown fox jumps over a lazy dog while seven wizards quietly box big jars of liquid"
WORDS = TEXT.split()


def sentences(count: int, seed: int) -> list[str]:
    """Word salads with a pattern that a tiny model can learn: each word is followed by its neighbour."""
    import random

    rng = random.Random(seed)
    out = []
    for _ in range(count):
        start = rng.randrange(len(WORDS))
        out.append(" ".join(WORDS[(start + i + (rng.random() < 0.2)) % len(WORDS)] for i in range(40)))
    return out


def shuffled(text: str) -> str:
    """The same words in an order that the tiny model does not know."""
    import random

    words = text.split()
    random.Random(text).shuffle(words)
    return " ".join(words)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four decoder blocks of width 128, a word-level tokenizer, 60 steps of training."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    vocab = {w: i for i, w in enumerate(["<unk>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.tensor([fast(s)["input_ids"] for s in sentences(64, 1)])
    for step in range(60):
        batch = ids[(step * 16) % 64 :][:16]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.to(torch.bfloat16).save_pretrained(path)
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def cpu() -> Device:
    """A CPU with AVX2 alone: every format of the default menu runs there."""
    return Device(
        kind=DeviceKind.CPU,
        name="test CPU",
        total_bytes=Figure.exact(2**33, "B", "test"),
        isa=("avx2",),
    )


@pytest.fixture(scope="session")
def tiny_units(tiny_model_dir: Path, cpu: Device) -> list[Unit]:
    """The tiny model's decision units: the default menu, and FP8, which is slow there, by name."""
    return build_units(read_model(str(tiny_model_dir)), cpu, formats=("W4A16", "W8A8", "FP8_DYNAMIC"))


@pytest.fixture(scope="module")
def host(tiny_model_dir: Path, tiny_units: list[Unit]) -> ModelHost:
    """The tiny model in memory."""
    from tuners.model.host import ModelHost

    return ModelHost.load(tiny_model_dir, tiny_units)


@pytest.fixture(scope="module")
def ids(host: ModelHost) -> torch.Tensor:
    """Sixteen sequences of 32 tokens."""
    return host.tokenise(sentences(60, 2), seq_len=32, max_sequences=16)


@pytest.fixture(scope="module")
def store(host: ModelHost, ids: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """Every unit in every format, calibrated on `ids`."""
    from tuners.model.calibrate import build_variants
    from tuners.model.variants import VariantStore

    store = VariantStore(host, tmp_path_factory.mktemp("variants"), 2**30)
    build_variants(host, store, ids, emit=lambda _e: None)
    return store
