"""The tokenizer's part of a GGUF file, from tokenizer.json: byte-level BPE, which llama.cpp calls gpt2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from profiles.errors import UsageError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types of GGUF (gguf.TokenType)."""


def add_vocabulary(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    """Tokens, types, merges, special ids and chat template into a `gguf.GGUFWriter`.

    Raises:
        UsageError: no tokenizer.json, or one that llama.cpp would split in another way.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UsageError("the model has no tokenizer.json", where=str(folder))
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["model"]["type"] != "BPE":
        raise _refused(path, f"a {data['model']['type']} tokenizer", "byte-level BPE")
    size = int(config["vocab_size"])
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [UNUSED] * size
    for text, index in data["model"]["vocab"].items():
        tokens[index], types[index] = text, NORMAL
    for added in data.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(data, path))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]])
    _specials(writer, folder, config)


def pre_tokenizer(data: dict[str, Any], path: Path) -> str:
    """llama.cpp's name of how text is split before merging (src/llama-vocab.cpp).

    Raises:
        UsageError: none of the known ones: another split would change every count of tokens.
    """
    steps = data.get("pre_tokenizer") or {}
    listed = steps.get("pretokenizers", [steps])
    kinds = [s.get("type") for s in listed]
    last = listed[-1] if listed else {}
    if kinds == ["ByteLevel"] and last.get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and listed[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = str(listed[0].get("pattern"))
        if r"\p{N}{1,3}" in pattern:
            return "llama-bpe"
        if r"|\p{N}|" in pattern:
            return "qwen2"
    raise _refused(
        path, f"pre-tokenizer {kinds}", "ByteLevel, Digits + ByteLevel, or the Llama 3 / Qwen2 split"
    )


def _specials(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    def first(value: Any) -> int | None:
        return int(value[0] if isinstance(value, list) else value) if value is not None else None

    for name, add in (
        ("bos_token_id", writer.add_bos_token_id),
        ("eos_token_id", writer.add_eos_token_id),
        ("pad_token_id", writer.add_pad_token_id),
    ):
        number = first(config.get(name))
        if number is not None:
            add(number)
    settings = folder / "tokenizer_config.json"
    known = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    writer.add_add_bos_token(bool(known.get("add_bos_token", False)))
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.is_file() else known.get("chat_template")
    if isinstance(text, str):
        writer.add_chat_template(text)


def _refused(path: Path, got: str, allowed: str) -> UsageError:
    return UsageError(
        "this tokenizer is not written to GGUF here",
        where=str(path),
        got=got,
        allowed=allowed,
        next_step="llama.cpp's convert_hf_to_gguf.py knows more; deploy/llama.cpp/quantize.sh uses it",
    )
