"""The user's own text: `.txt` or `.jsonl` to documents, with a clear error or a counted skip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from profiles.errors import UsageError
from profiles.tasks.schema import EvaluationItem
from profiles.tasks.split import MIN_DOCUMENTS, Document

MAX_DOCUMENT_BYTES = 4 * 2**20
"""Longer lines or documents are skipped and counted: some 1 M tokens, beyond every context here."""

MAX_KEPT_BYTES = 256 * 2**20
"""Text kept in memory; the rest of a larger file is left out, with a note."""

SUFFIXES = (".txt", ".md", ".jsonl")
JSON_SHAPES = (
    '{"text": ...} or {"prompt": ..., "answer": ...}, there with "choices": [...] if you like, '
    'or {"messages": [...]}'
)
METADATA_KEYS = frozenset({"id", "genre"})
ROLES = ("system", "user", "assistant", "tool")


class OwnText:
    """Documents of one file, and notes on what was skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.documents: list[Document] = []
        self.too_long = 0
        self.blank = 0
        self.left_out = 0
        self.no_answer = 0
        self._kept_bytes = 0

    def add(self, document: Document) -> None:
        """Keep a document, or count why not."""
        size = len(document.text.encode())
        if not document.text.strip():
            self.blank += 1
        elif document.answer_at and not document.text[document.answer_at :].strip():
            self.no_answer += 1
        elif size > MAX_DOCUMENT_BYTES:
            self.too_long += 1
        elif self._kept_bytes + size > MAX_KEPT_BYTES:
            self.left_out += 1
        else:
            self._kept_bytes += size
            self.documents.append(document)

    @property
    def has_answers(self) -> bool:
        """Whether any document is a question with its answer."""
        return any(d.answer_at for d in self.documents)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of skip that happened."""
        said = (
            (self.too_long, f"longer than {MAX_DOCUMENT_BYTES // 2**20} MiB"),
            (self.blank, "without any text"),
            (self.no_answer, "whose answer is empty"),
            (self.left_out, f"beyond the first {MAX_KEPT_BYTES // 2**20} MiB of text"),
        )
        return tuple(f"{count} document(s) skipped: {why}" for count, why in said if count)


def read_own_text(path: Path) -> OwnText:
    """Documents of a `.txt`/`.md` file (separated by blank lines) or a `.jsonl` file (one per line).

    Raises:
        UsageError: not a file, unknown suffix, binary, wrong encoding, not JSON, unknown keys, empty.
    """
    if path.is_dir():
        raise UsageError("a task text must be one file, this is a directory", where=str(path))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            "unknown kind of task text",
            where=str(path),
            got=suffix or "no suffix",
            allowed=" ".join(SUFFIXES),
        )
    found = OwnText(path)
    try:
        with path.open("rb") as file:
            _refuse_binary(path, file.read(8192))
            file.seek(0)
            if suffix == ".jsonl":
                _read_jsonl(found, file)
            else:
                _read_paragraphs(found, file)
    except OSError as exc:
        raise UsageError("cannot read the task text", where=str(path), got=str(exc)) from exc
    if not found.documents:
        raise UsageError(
            "the task text holds no document",
            where=str(path),
            got="; ".join(found.notes) or "an empty file",
            allowed=f"at least {MIN_DOCUMENTS} documents: separated by blank lines, or {JSON_SHAPES} lines",
        )
    return found


def _refuse_binary(path: Path, head: bytes) -> None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        _wrong_encoding(path, 1, "a UTF-16 byte order mark", likely="UTF-16")
    if b"\0" in head:
        raise UsageError(
            "this is a binary file, not text", where=str(path), allowed="UTF-8 text: " + " ".join(SUFFIXES)
        )


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, str | None]]:
    """Numbered lines without their end; None for one that is longer than a document may be."""
    number = 0
    while raw := file.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        if len(raw) > MAX_DOCUMENT_BYTES and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_DOCUMENT_BYTES)
            yield number, None
            continue
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as exc:
            _wrong_encoding(path, number, f"byte 0x{raw[exc.start]:02x} at column {exc.start + 1}", exc)
        if "\0" in line:
            raise UsageError("this is a binary file, not text", where=f"{path}:{number}", got="a NUL byte")
        yield number, line.rstrip("\r\n")


def _wrong_encoding(
    path: Path, line: int, got: str, cause: Exception | None = None, *, likely: str = "LATIN1"
) -> NoReturn:
    raise UsageError(
        "the task text is not UTF-8",
        where=f"{path}:{line}",
        got=got,
        allowed="UTF-8",
        next_step=f"iconv -f {likely} -t UTF-8 {path.name} > utf8{path.suffix}  (name the real encoding)",
    ) from cause


def _read_paragraphs(found: OwnText, file: BinaryIO) -> None:
    lines: list[str] = []
    size = 0
    for _, line in _lines(found.path, file):
        if line is not None and not line.strip():
            _flush(found, lines, size)
            lines, size = [], 0
            continue
        size += MAX_DOCUMENT_BYTES + 1 if line is None else len(line.encode()) + 1
        if line is not None and size <= MAX_DOCUMENT_BYTES:
            lines.append(line)
    _flush(found, lines, size)


def _flush(found: OwnText, lines: list[str], size: int) -> None:
    if size > MAX_DOCUMENT_BYTES:
        found.too_long += 1
    elif lines:
        text = "\n".join(lines)
        found.add(Document(text=text, split_on=text))


def _read_jsonl(found: OwnText, file: BinaryIO) -> None:
    for number, line in _lines(found.path, file):
        if line is None:
            found.too_long += 1
        elif line.strip():
            found.add(_json_document(line, f"{found.path}:{number}"))


def _json_document(line: str, where: str) -> Document:
    try:
        item = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise UsageError("not a line of JSON", where=where, got=str(exc), allowed=JSON_SHAPES) from exc
    if not isinstance(item, dict):
        raise UsageError("not a JSON object", where=where, got=type(item).__name__, allowed=JSON_SHAPES)
    keys = set(item) - METADATA_KEYS
    if keys == {"text"}:
        text = _string(item["text"], "text", where)
        return Document(text=text, split_on=text)
    if keys == {"prompt", "answer"} or keys == {"prompt", "answer", "choices"}:
        return _question(item, where)
    if keys == {"messages"}:
        return _conversation(item["messages"], where)
    raise UsageError(
        "unknown keys in the task text",
        where=where,
        got=", ".join(sorted(item)) or "no keys",
        allowed=f"{JSON_SHAPES}; beside them {' and '.join(sorted(METADATA_KEYS))}",
    )


def _question(item: dict[str, object], where: str) -> Document:
    """A question with its answer on the next line; scored by its choices, or by the answer itself."""
    prompt, answer = (_string(item[key], key, where) for key in ("prompt", "answer"))
    raw = item.get("choices", [])
    if not isinstance(raw, list) or (raw and answer not in raw):
        raise UsageError("'choices' must be a list that holds the answer", where=where, got=f"{raw!r:.80}")
    choices = tuple(_string(choice, "choices", where) for choice in raw)
    return Document(
        text=f"{prompt}\n{answer}",
        split_on=prompt,
        prompt=prompt,
        answer_at=len(prompt) + 1,
        item=EvaluationItem(
            prompt=f"{prompt}\n", answer=answer, choices=choices, scorer="choice" if choices else "exact"
        ),
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _string(value: object, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{key!r} must be text", where=where, got=f"{type(value).__name__}: {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise UsageError(
            f"{key!r} is not valid Unicode", where=where, got=f"half a surrogate pair at {exc.start}"
        ) from exc
    return value


def _conversation(messages: object, where: str) -> Document:
    """`User: ...` and `Assistant: ...` turns; the first user turn decides the split, and the last turn is
    the answer when the assistant has it."""
    if not isinstance(messages, list) or not messages:
        raise UsageError("'messages' must be a list of turns", where=where, got=f"{messages!r:.60}")
    turns: list[tuple[str, str]] = []
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise UsageError(
                "a message must have `role` and `content`, nothing else", where=where, got=f"{message!r:.80}"
            )
        role = message["role"]
        if role not in ROLES:
            raise UsageError("unknown role", where=where, got=f"{role!r:.40}", allowed=" ".join(ROLES))
        turns.append((role, _string(message["content"], "content", where)))
    text = "\n".join(f"{role.capitalize()}: {content}" for role, content in turns)
    asked = next((content for role, content in turns if role == "user"), None)
    at = len(text) - len(turns[-1][1]) if turns[-1][0] == "assistant" else 0
    item = EvaluationItem(prompt=text[:at], answer=text[at:], scorer="overlap") if at else None
    return Document(text=text, split_on=asked or text, prompt=asked, answer_at=at, item=item)
