"""GGUF files: metadata and tensor table read from the header, without the weights and without a library.

Format: ggml `docs/gguf.md` (versions 2 and 3), block sizes `ggml-quants` as restated in gguf-py
`constants.py`. The header is untrusted: every count, length and shape is bounded.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from profiles.errors import UsageError, nearest
from profiles.models.config import Config
from profiles.models.construct import make_tensor
from profiles.models.headers import MAX_ELEMENTS, broken
from profiles.models.profile import build_profile, require_architecture
from profiles.models.schema import ModelProfile, StoredQuantization, TensorInfo

MAGIC = b"GGUF"
MAX_TENSORS, MAX_KEYS, MAX_TEXT, MAX_ITEMS = 1 << 20, 1 << 16, 1 << 22, 1 << 24

BLOCKS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""ggml type to its name, elements per block and bytes per block."""

SCALARS: dict[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
TEXT, ARRAY = 8, 9

ARCHITECTURES: dict[str, tuple[str, str]] = {
    "llama": ("llama", "LlamaForCausalLM"), "mistral": ("mistral", "MistralForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"), "qwen2moe": ("qwen2_moe", "Qwen2MoeForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"), "qwen3moe": ("qwen3_moe", "Qwen3MoeForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"), "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"), "phi3": ("phi3", "Phi3ForCausalLM"),
    "granite": ("granite", "GraniteForCausalLM"), "starcoder2": ("starcoder2", "Starcoder2ForCausalLM"),
    "command-r": ("cohere", "CohereForCausalLM"), "smollm3": ("smollm3", "SmolLM3ForCausalLM"),
}  # fmt: skip
"""`general.architecture` to model_type and class."""

FIELDS = {
    "hidden_size": "embedding_length", "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length", "vocab_size": "vocab_size",
    "sliding_window": "attention.sliding_window", "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count", "moe_intermediate_size": "expert_feed_forward_length",
}  # fmt: skip

NAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^token_embd\.", "model.embed_tokens."),
        (r"^output_norm\.", "model.norm."),
        (r"^output\.", "lm_head."),
        (r"^blk\.(\d+)\.attn_(q|k|v)\.", r"model.layers.\1.self_attn.\2_proj."),
        (r"^blk\.(\d+)\.attn_output\.", r"model.layers.\1.self_attn.o_proj."),
        (r"^blk\.(\d+)\.attn_qkv\.", r"model.layers.\1.self_attn.qkv_proj."),
        (r"^blk\.(\d+)\.ffn_(gate|up|down)_exps\.", r"model.layers.\1.mlp.experts.*.\2_proj."),
        (r"^blk\.(\d+)\.ffn_(gate|up|down)_shexp\.", r"model.layers.\1.mlp.shared_expert.\2_proj."),
        (r"^blk\.(\d+)\.ffn_gate_inp\.", r"model.layers.\1.mlp.gate."),
        (r"^blk\.(\d+)\.ffn_(gate|up|down)\.", r"model.layers.\1.mlp.\2_proj."),
        (r"^blk\.(\d+)\.", r"model.layers.\1."),
    )
)
"""llama.cpp's tensor names (`tensor_mapping.py`) as the Hugging Face checkpoint has them."""

SPLIT = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")


class Header(NamedTuple):
    """What a file says before its data: metadata, and (name, shape, ggml type) of every tensor."""

    metadata: dict[str, Any]
    tensors: tuple[tuple[str, tuple[int, ...], int], ...]


def read_gguf(path: Path) -> ModelProfile:
    """The profile of a GGUF file, its split parts together.

    Raises:
        UsageError: not GGUF, damaged, or an architecture that the engine does not serve from GGUF.
    """
    headers = [read_header(part) for part in _parts(path)]
    metadata = headers[0].metadata
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UsageError(
            "vLLM serves no GGUF of this architecture, or it is not known here",
            where=str(path),
            got=str(name)[:60],
            allowed=nearest(str(name), ARCHITECTURES),
            next_step="serve it with llama.cpp, or give the model that it was made from (safetensors)",
        )
    table = [entry for header in headers for entry in header.tensors]
    names = {entry[0] for entry in table}
    config = Config(_config(metadata, name, tied="output.weight" not in names), str(path))
    stored, logical, kinds = _tensors(table, path)
    bits = 8 * sum(t.nbytes for t in stored) / max(1, sum(t.numel for t in logical))
    kind = kinds.most_common(1)[0][0] if kinds else "unquantized"
    return build_profile(
        config,
        stored,
        require_architecture(config, trust_remote_code=True),
        model_id=str(metadata.get("general.name") or path.stem)[:120],
        source="local",
        path=str(path.resolve()),
        quantization=StoredQuantization(
            method="gguf", label=f"GGUF {kind}, {bits:.2f} bits per weight", weight_bits=round(bits, 3)
        ),
        logical=logical,
        assumptions=("config read from the GGUF metadata; vLLM serves GGUF on GPUs, experimentally",),
    )


def read_header(path: Path) -> Header:
    """Metadata and tensor table of one file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _Reader(file, size, path).header()
    except OSError as error:
        raise UsageError("cannot read the file", where=str(path), got=str(error)[:200]) from error


def _parts(path: Path) -> list[Path]:
    match = SPLIT.match(path.name)
    if match is None:
        return [path]
    count = int(match[3])
    if not 1 <= count <= 1000:
        raise broken("an absurd number of parts", path, got=match[3])
    parts = [path.with_name(f"{match[1]}-{i:05}-of-{match[3]}.gguf") for i in range(1, count + 1)]
    missing = [p.name for p in parts if not p.is_file()]
    if missing:
        raise broken("parts of a split GGUF are missing", path, got=", ".join(missing[:3]))
    return parts


class _Reader:
    """Little-endian values, each checked against the file's size."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file, self._size, self._path = file, size, path

    def header(self) -> Header:
        if self._file.read(4) != MAGIC:
            raise broken("this file is not GGUF", self._path)
        version = self._number("<I")
        if version not in (2, 3):
            raise broken("a GGUF version that is not known", self._path, got=str(version), allowed="2 or 3")
        tensors, keys = self._number("<Q"), self._number("<Q")
        if not 0 < tensors <= MAX_TENSORS or keys > MAX_KEYS:
            raise broken("an absurd GGUF header", self._path, got=f"{tensors} tensors, {keys} keys")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._text()
            metadata[key] = self._value(self._number("<I"))
        return Header(metadata, tuple(self._tensor() for _ in range(tensors)))

    def _tensor(self) -> tuple[str, tuple[int, ...], int]:
        name = self._text()
        rank = self._number("<I")
        if not 1 <= rank <= 4:
            raise broken("a tensor of an absurd rank", self._path, got=f"{name[:80]}: {rank}")
        shape = tuple(self._number("<Q") for _ in range(rank))
        kind = self._number("<I")
        self._number("<Q")  # where its data begins
        if kind not in BLOCKS or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
            raise broken("a tensor that cannot be", self._path, got=f"{name[:80]}: {shape}, type {kind}")
        if shape[0] % BLOCKS[kind][1]:
            raise broken("a row is no whole number of blocks", self._path, got=f"{name[:80]}: {shape}")
        return name, shape, kind

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == TEXT:
            return self._text()
        if kind != ARRAY:
            raise broken("a metadata type that is not known", self._path, got=str(kind))
        inner, count = self._number("<I"), self._number("<Q")
        if count > MAX_ITEMS:
            raise broken("an absurd metadata array", self._path, got=str(count))
        if inner in SCALARS:
            code = struct.Struct(SCALARS[inner])
            raw = self._bytes(code.size * count)
            return [v[0] for v in code.iter_unpack(raw)] if count <= 4096 else _Long(count)
        if inner != TEXT:
            raise broken("nested metadata arrays", self._path, got=str(inner))
        for _ in range(count):
            self._bytes(self._length())
        return _Long(count)

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._bytes(struct.calcsize(code)))[0]

    def _length(self) -> int:
        found = self._number("<Q")
        if found > MAX_TEXT:
            raise broken("an absurd text in the metadata", self._path, got=f"{found} bytes")
        return int(found)

    def _text(self) -> str:
        return self._bytes(self._length()).decode("utf-8", errors="replace")

    def _bytes(self, count: int) -> bytes:
        if count > self._size:
            raise broken("this GGUF file is cut off or damaged", self._path)
        found = self._file.read(count)
        if len(found) != count:
            raise broken("this GGUF file is cut off or damaged", self._path)
        return found


class _Long(int):
    """A long array: only its length is kept."""


def _config(metadata: dict[str, Any], name: str, *, tied: bool) -> dict[str, Any]:
    model_type, architecture = ARCHITECTURES[name]
    out: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [architecture],
        "tie_word_embeddings": tied,
        "torch_dtype": "float16",
    }
    for field, key in FIELDS.items():
        value = metadata.get(f"{name}.{key}")
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if value is not None:
            out[field] = value
    tokens = metadata.get("tokenizer.ggml.tokens")
    if "vocab_size" not in out and isinstance(tokens, int | list):
        out["vocab_size"] = int(tokens) if isinstance(tokens, int) else len(tokens)
    if out.get("num_experts") and model_type == "llama":
        out |= {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    return out


def _tensors(
    table: list[tuple[str, tuple[int, ...], int]], path: Path
) -> tuple[list[TensorInfo], list[TensorInfo], Counter[str]]:
    """Tensors as stored (bytes of quantized rows) and as they are meant, and weights by ggml type."""
    stored: list[TensorInfo] = []
    logical: list[TensorInfo] = []
    kinds: Counter[str] = Counter()
    for name, dims, kind in table:
        if name.startswith("rope_"):
            continue
        word, per_block, nbytes = BLOCKS[kind]
        shape = tuple(reversed(dims))
        target = next((p.sub(to, name) for p, to in NAMES if p.match(name)), name)
        plain = word if word in ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64") else "U8"
        size = shape if plain == word else (*shape[:-1], shape[-1] // per_block * nbytes)
        stored.append(make_tensor(target, size, plain, path.name))
        logical.append(make_tensor(target, shape, "F16" if plain == "U8" else plain, path.name))
        if plain == "U8":
            kinds[word] += math.prod(shape)
    return stored, logical, kinds
