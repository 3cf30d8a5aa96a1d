"""A user's own file: what is read, what is skipped with a count, what is refused and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from profiles.errors import UsageError
from profiles.tasks import load_task
from profiles.tasks.own_text import MAX_DOCUMENT_BYTES, read_own_text


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(folder: Path, *items: object) -> Path:
    return write(folder, "own.jsonl", "".join(json.dumps(item) + "\n" for item in items))


def all_texts(path: Path) -> set[str]:
    splits = load_task(path).splits
    assert splits.search
    assert splits.select
    assert splits.evaluate
    return {*splits.search, *splits.select, *splits.evaluate}


def test_paragraphs_are_documents(tmp_path: Path) -> None:
    path = write(tmp_path, "own.txt", "one\ntwo\n\n\n  \nthree\r\n\r\nfour\n\nthree\n")
    assert all_texts(path) == {"one\ntwo", "three", "four"}
    assert "1 repeated document(s) dropped" in load_task(path).notes


def test_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    assert "one" in all_texts(write(tmp_path, "own.txt", b"\xef\xbb\xbfone\n\ntwo\n\nthree"))


def test_jsonl_shapes(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {"text": "plain", "genre": "x"},
        {"prompt": "2+2?", "answer": "4", "id": 7},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    )
    assert all_texts(path) == {"plain", "2+2?\n4", "User: hi\nAssistant: hello"}


def test_prompts_come_from_the_evaluation_part_only(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *({"prompt": f"question {i}", "answer": f"{i}"} for i in range(40)))
    splits = load_task(path).splits
    held_out = {text.split("\n")[0] for text in splits.evaluate}
    assert splits.prompts
    assert set(splits.prompts) <= held_out


def test_a_file_is_read_the_same_way_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "own.txt", "\n\n".join(f"document {i}" for i in range(30)))
    assert load_task(path) == load_task(str(path))


def test_unknown_task_of_a_user_gets_the_cautious_prior(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, "own.txt", "a\n\nb\n\nc"))
    assert task.name == "custom"
    assert task.prior == "high"


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_a_line_beyond_the_cap_is_skipped_and_counted(tmp_path: Path, suffix: str) -> None:
    lines = ["one", "two", "three", "x" * (3 * MAX_DOCUMENT_BYTES)]
    if suffix == ".jsonl":
        content = "\n".join(json.dumps({"text": line}) for line in lines)
    else:
        content = "\n\n".join(lines)
    task = load_task(write(tmp_path, "own" + suffix, content))
    assert len(task.splits.search) + len(task.splits.select) + len(task.splits.evaluate) == 3
    assert any(note.startswith("1 document(s) skipped: longer than") for note in task.notes)


def test_a_long_paragraph_of_short_lines_is_skipped_whole(tmp_path: Path) -> None:
    long_paragraph = ("word " * 200 + "\n") * (MAX_DOCUMENT_BYTES // 1000 + 1)
    found = read_own_text(write(tmp_path, "own.txt", f"one\n\n{long_paragraph}\ntwo\n"))
    assert [d.text for d in found.documents] == ["one", "two"]
    assert found.too_long == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("own.txt", b"", "no document"),
        ("own.txt", b"\n \n\n", "no document"),
        ("own.jsonl", b"", "no document"),
        ("own.jsonl", b'{"text": ""}\n{"text": " "}\n', "no document"),
        ("own.txt", b"only one", "too few"),
        ("own.txt", b"a\n\na\n\nA\n\nb", "too few"),
        ("own.txt", b"caf\xe9\n\nb\n\nc", "not UTF-8"),
        ("own.txt", "ä\n\nb\n\nc".encode("utf-16"), "not UTF-8"),
        ("own.txt", b"\x7fELF\x00\x01", "binary"),
        ("own.txt", b"text " * 3000 + b"\x00", "binary"),
        ("own.jsonl", b"not json\n", "not a line of JSON"),
        ("own.jsonl", b'{"text": NaN}\n', "not a line of JSON"),
        ("own.jsonl", b"[" * 100_000, "not a line of JSON"),
        ("own.jsonl", b'["a"]\n', "not a JSON object"),
        ("own.jsonl", b'{"content": "a"}\n', "unknown keys"),
        ("own.jsonl", b'{"prompt": "a"}\n', "unknown keys"),
        ("own.jsonl", b"{}\n", "unknown keys"),
        ("own.jsonl", b'{"text": 3}\n', "must be text"),
        ("own.jsonl", b'{"text": "\\ud800"}\n', "not valid Unicode"),
        ("own.jsonl", b'{"messages": []}\n', "list of turns"),
        ("own.jsonl", b'{"messages": ["hi"]}\n', "`role` and `content`"),
        ("own.jsonl", b'{"messages": [{"role": "judge", "content": "x"}]}\n', "unknown role"),
        ("own.csv", b"a,b\n", "unknown kind"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(UsageError, match=said) as caught:
        load_task(path)
    assert str(path) in (caught.value.where or "")


def test_bad_line_is_named_by_number(tmp_path: Path) -> None:
    path = write(tmp_path, "own.jsonl", '{"text": "a"}\n\n{"txt": "b"}\n')
    with pytest.raises(UsageError) as caught:
        load_task(path)
    assert caught.value.where == f"{path}:3"


def test_the_advice_names_the_encoding_that_was_found(tmp_path: Path) -> None:
    for content, name in (("ä\n\nb\n\nc".encode("utf-16"), "UTF-16"), (b"caf\xe9\n\nb\n\nc", "LATIN1")):
        with pytest.raises(UsageError) as caught:
            load_task(write(tmp_path, "own.txt", content))
        assert f"iconv -f {name}" in (caught.value.next_step or "")


def test_directory_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="directory"):
        load_task(tmp_path)
    with pytest.raises(UsageError, match="no such task text"):
        load_task(tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["", "x" * 5000, "~nobody-of-this-name/x.txt", "a\0b"])
def test_strange_names_are_usage_errors(name: str) -> None:
    with pytest.raises(UsageError):
        load_task(name)


def test_the_answer_s_place_is_kept_in_every_split(tmp_path: Path) -> None:
    task = load_task(jsonl(tmp_path, *({"prompt": f"ask {i}", "answer": f"reply {i}"} for i in range(40))))
    for name in ("search", "select", "evaluate"):
        texts, starts = getattr(task.splits, name), task.splits.answers[name]  # type: ignore[index]
        assert all(text[at:].startswith("reply") for text, at in zip(texts, starts, strict=True))
    assert {item.scorer for item in task.items} == {"exact"}


def test_choices_and_conversations_bring_their_scorer(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there"}]
    items = [{"prompt": f"q{i}", "answer": "a", "choices": ["a", "b"]} for i in range(20)]
    task = load_task(jsonl(tmp_path, *items, {"messages": talk}, *({"text": f"t{i}"} for i in range(20))))
    assert {item.scorer for item in task.items} <= {"choice", "overlap", "next-token"}
    known = dict(zip(task.splits.search, task.splits.answers["search"], strict=True))
    assert all(known[text] == 0 for text in known if text.startswith("t"))


def test_choices_must_hold_the_answer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choices"):
        load_task(jsonl(tmp_path, {"prompt": "q", "answer": "a", "choices": ["b"]}))


def test_empty_answers_are_counted(tmp_path: Path) -> None:
    items = [{"prompt": f"q{i}", "answer": f"a{i}"} for i in range(9)]
    task = load_task(jsonl(tmp_path, *items, {"prompt": "q", "answer": " "}))
    assert "1 document(s) skipped: whose answer is empty" in task.notes


def test_sequences_have_room_for_the_items(tmp_path: Path) -> None:
    short = load_task(jsonl(tmp_path, *({"prompt": f"q{i}", "answer": "a"} for i in range(9))))
    assert short.seq_len == 128
    long = load_task(jsonl(tmp_path, *({"prompt": f"{i} " + "word " * 300, "answer": "a"} for i in range(9))))
    assert 500 < long.seq_len <= 1024


def test_one_item_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few"):
        load_task(jsonl(tmp_path, {"prompt": "q", "answer": "a"}))


def test_a_line_of_100_megabytes_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    with path.open("w") as out:
        for i in range(5):
            out.write(json.dumps({"prompt": f"q{i}", "answer": "a"}) + "\n")
        out.write('{"text": "')
        for _ in range(100):
            out.write("x" * 2**20)
        out.write('"}\n')
    assert any("longer than" in note for note in load_task(path).notes)
