"""The GGUF writer against the gguf package, which reads what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from profiles.errors import UsageError
from tests.app.tiny import CONFIG, shapes
from tuners.gguf.kquants import quantize_q4_k, quantize_q6_k
from tuners.gguf.source import Checkpoint
from tuners.gguf.vocabulary import pre_tokenizer
from tuners.gguf.write import GgufSpec, gguf_name, write_gguf

gguf = pytest.importorskip("gguf")


def weights(rows: int = 8, columns: int = 512) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.standard_t(4, size=(rows, columns)) * 0.02).astype(np.float32)


def relative_error(kind: str, data: npt.NDArray[Any], weight: npt.NDArray[np.float32]) -> float:
    back = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    return float(np.sqrt(((back - weight) ** 2).mean() / (weight**2).mean()))


def test_k_quants_are_what_the_gguf_package_reads() -> None:
    weight = weights()
    q4, q6 = quantize_q4_k(weight), quantize_q6_k(weight)

    assert (q4.shape, q6.shape) == ((8, 2 * 144), (8, 2 * 210))
    assert relative_error("Q6_K", q6, weight) < 0.03
    assert 0.03 < relative_error("Q4_K", q4, weight) < 0.11
    plain = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q4_0)
    assert relative_error("Q4_K", q4, weight) < relative_error("Q4_0", plain, weight)


@pytest.mark.parametrize("quantize", [quantize_q4_k, quantize_q6_k])
def test_zeros_and_one_outlier_come_back(quantize: Any) -> None:
    kind = "Q4_K" if quantize is quantize_q4_k else "Q6_K"
    zeros = np.zeros((2, 256), dtype=np.float32)
    back = gguf.quants.dequantize(quantize(zeros), gguf.GGMLQuantizationType[kind])
    assert not back.any()
    zeros[1, 17] = 3.0
    back = gguf.quants.dequantize(quantize(zeros), gguf.GGMLQuantizationType[kind])
    assert back[1, 17] == pytest.approx(3.0, rel=0.02)
    assert np.abs(back[0]).max() == 0


def grids(rows: int) -> npt.NDArray[np.float32]:
    """Rows that lie on a 4-bit grid with one scale: Q4_K must lose next to nothing on them."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 16, size=(rows, 256)).astype(np.float32)
    codes[:, ::32] = 0
    codes[:, 1::32] = 15
    return codes * 0.01 - 0.05


def test_a_weight_on_the_grid_is_kept() -> None:
    weight = grids(4)
    assert relative_error("Q4_K", quantize_q4_k(weight), weight) < 0.005


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The tiny checkpoint with a byte-level BPE of 256 bytes."""
    from safetensors.numpy import save_file

    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    rng = np.random.default_rng(2)
    tensors = {n: (rng.normal(size=s) * 0.05).astype(np.float16) for n, s in shapes().items()}
    save_file(tensors, folder / "model.safetensors")
    alphabet = [chr(i) for i in range(256)]
    tokenizer = {
        "model": {
            "type": "BPE",
            "vocab": {c: i for i, c in enumerate(alphabet[:-1])},
            "merges": [["a", "b"]],
        },
        "added_tokens": [{"id": 255, "content": "<|end|>", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "use_regex": True},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


TYPES = {
    "blk.0.attn_q.weight": "q8_0", "blk.0.ffn_down.weight": "q4_k", "blk.1.ffn_down.weight": "q6_k",
    "blk.0.ffn_up.weight": "q4_0",
}  # fmt: skip


def test_the_file_holds_every_tensor_in_its_type(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    found = write_gguf(GgufSpec(model_path=str(model), out=str(out), types=TYPES), lambda _: None)
    reader = gguf.GGUFReader(out)
    read = {t.name: t for t in reader.tensors}

    assert not (tmp_path / "model.gguf.partial").exists()
    assert len(read) == 20  # 2 x 9 and two outside
    assert found.tensors == {"f32": 5, "bf16": 11, "q8_0": 1, "q4_k": 1, "q6_k": 1, "q4_0": 1}
    for name, kind in TYPES.items():
        assert read[name].tensor_type.name == kind.upper()
    assert read["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    assert found.error["bf16"] < 0.005  # float16 has three more bits
    assert found.error["q8_0"] < 0.01

    source = Checkpoint(model)
    down = gguf.quants.dequantize(read["blk.1.ffn_down.weight"].data, gguf.GGMLQuantizationType.Q6_K)
    original = source.read("model.layers.1.mlp.down_proj.weight")
    assert down.shape == original.shape
    finite = np.sqrt(((down - original) ** 2).mean() / (original**2).mean())
    assert finite < 0.05

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    assert field("general.architecture") == "llama"
    assert field("llama.attention.head_count_kv") == CONFIG["num_key_value_heads"]
    assert field("llama.rope.freq_base") == CONFIG["rope_theta"]
    assert field("tokenizer.ggml.pre") == "gpt-2"
    assert field("tokenizer.ggml.tokens")[255] == "<|end|>"
    assert field("tokenizer.ggml.token_type")[255] == gguf.TokenType.CONTROL
    assert field("tokenizer.ggml.merges") == ["a b"]
    assert field("tokenizer.chat_template") == "{{ messages }}"


def test_query_rows_are_in_the_order_that_llama_cpp_rotates(model: Path, tmp_path: Path) -> None:
    """transformers' own reader undoes llama.cpp's order: the original must come back."""
    processors = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    out = tmp_path / "model.gguf"
    write_gguf(GgufSpec(model_path=str(model), out=str(out), types={}), lambda _: None)
    read = {t.name: t for t in gguf.GGUFReader(out).tensors}
    undo = processors.LlamaTensorProcessor(config=None)._reverse_permute_weights
    heads, kv = int(str(CONFIG["num_attention_heads"])), int(str(CONFIG["num_key_value_heads"]))
    for short, name in (("attn_q", "q_proj"), ("attn_k", "k_proj")):
        stored = gguf.quants.dequantize(read[f"blk.0.{short}.weight"].data, gguf.GGMLQuantizationType.BF16)
        original = Checkpoint(model).read(f"model.layers.0.self_attn.{name}.weight")
        assert not np.allclose(stored, original, rtol=0.01)
        undone = undo(stored, heads, kv if short == "attn_k" else heads)
        assert np.allclose(undone, original, rtol=0.01)


def test_names_are_those_of_the_gguf_package() -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for module in ("model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.o_proj",
                   "model.layers.1.mlp.down_proj", "model.layers.1.input_layernorm",
                   "model.layers.1.post_attention_layernorm", "model.embed_tokens", "model.norm",
                   "lm_head"):  # fmt: skip
        assert gguf_name(f"{module}.weight") == names.get_name(module) + ".weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "not written to GGUF"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "not written to GGUF"),
    ],
)
def test_what_would_be_written_wrong_is_refused(
    model: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    (model / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(UsageError, match=words):
        write_gguf(GgufSpec(model_path=str(model), out=str(tmp_path / "x.gguf"), types={}), lambda _: None)
    assert not (tmp_path / "x.gguf").exists()


def test_a_row_that_is_no_whole_super_block_and_an_unknown_split_are_refused(
    model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot store a row of 128"):
        write_gguf(
            GgufSpec(
                model_path=str(model), out=str(tmp_path / "x.gguf"), types={"blk.0.attn_q.weight": "q4_k"}
            ),
            lambda _: None,
        )
    with pytest.raises(UsageError, match="tokenizer"):
        pre_tokenizer({"pre_tokenizer": {"type": "Metaspace"}}, Path("t"))
