"""Scorers: what counts as right, and programs in their limited child."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from profiles.tasks import limited
from profiles.tasks.limited import run_programs
from profiles.tasks.schema import EvaluationItem, ScorerName
from profiles.tasks.scorers import score_answers


def score(scorer: ScorerName, answer: str, said: str, **more: str) -> float | None:
    item = EvaluationItem(prompt=more.pop("prompt", "?"), answer=answer, scorer=scorer, **more)  # type: ignore[arg-type]
    return score_answers([item], [said])[0]


@pytest.mark.parametrize(
    ("answer", "said", "right"),
    [
        (" Oslo", " Oslo.", 1),
        (" Oslo", "oslo, of course", 1),
        ("21", " 21 o'clock", 1),
        ("21", "212", 0),
        ("A", "", 0),
        (":-)", " :-) really", 1),
        (":-)", ":-(", 0),
    ],
)
def test_exact_compares_whole_words(answer: str, said: str, right: int) -> None:
    assert score("exact", answer, said) == right


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (" 3 * 4 = 12. The answer is 12.", 1),
        ("The answer is 12.0", 1),
        ("the answer is: 12", 1),
        ("The answer is 13. The answer is 12", 1),
        ("12", 0),
        ("The answer is twelve", 0),
    ],
)
def test_final_answer_is_compared_as_a_number(said: str, right: int) -> None:
    assert score("final-answer", "3 * 4 = 12. The answer is 12.", said) == right


def test_overlap_is_f1_of_words() -> None:
    assert score("overlap", "the red house", "the red house") == 1
    assert score("overlap", "the red house", "the house\nand more") == pytest.approx(0.8)
    assert score("overlap", "the red house", "") == 0


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ('{"arguments": {"a": 1}, "name": "f"} thanks', 1),
        ('Call: {"name": "f", "arguments": {"a": 2}}', 0),
        ('{"name": "f"', 0),
        ("none", 0),
    ],
)
def test_json_is_compared_as_data(said: str, right: int) -> None:
    assert score("json", ' {"name": "f", "arguments": {"a": 1}}', said) == right


def test_code_is_run_with_what_the_prompt_shows() -> None:
    prompt = "Task: double.\n\n```python\ndef double(n):"
    good, bad = "\n    return 2 * n\n```", "\n    return n\n```"
    items = [
        EvaluationItem(prompt=prompt, answer=good, scorer="run", check="assert double(3) == 6")
        for _ in range(2)
    ]
    assert score_answers(items, [good, bad]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("scorer", "answer"),
    [("json", "not json"), ("final-answer", "no final"), ("overlap", "!"), ("exact", " ")],
)
def test_a_scorer_that_fails_is_counted_not_raised(scorer: ScorerName, answer: str) -> None:
    assert score(scorer, answer, "the answer is 3 {}") is None


def test_limits_of_the_child() -> None:
    programs = [
        "assert sum([1, 2]) == 3",
        "assert 1 == 2",
        "x = 1",
        "while True: pass",
        "text = 'x' * (1 << 32)\nassert text",
        "with open('left.txt', 'w') as f:\n    f.write('x' * 10**6)\nassert 1",
        "import os\nos._exit(0)\nassert 0",
        "import sys\nsys.exit()",
        "def f(:",
        'def one():\n    """Say one.\n\n    >>> one()\n    1\n    """\n    return 2',
    ]
    found = run_programs(programs, seconds=1)
    assert [reason is None for reason in found] == [True] + [False] * 9
    assert found[3] is not None
    assert "signal" in found[3] or found[3] == "took too long"  # on a busy machine the clock is first
    assert found[4] is not None
    assert "MemoryError" in found[4]


def test_no_network_no_files_no_processes(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("precious")
    victim, new = repr(str(kept)), repr(str(tmp_path / "new.txt"))
    with socket.create_server(("127.0.0.1", 0)) as server:  # answers: only the limit is in the way
        address = repr(server.getsockname())
        programs = [
            f"import socket\nassert socket.create_connection({address}, 2)",
            f"import urllib.request\nassert urllib.request.urlopen('http://%s:%d' % {address}, timeout=2)",
            f"import os\nos.remove({victim})\nassert True",
            f"import pathlib\npathlib.Path({victim}).unlink()\nassert True",
            f"import shutil\nshutil.rmtree({str(tmp_path)!r})\nassert True",
            f"open({new}, 'w').close()\nassert True",
            f"import os\nos.close(os.open({new}, os.O_CREAT))\nassert True",
            f"import os\nos.rename({victim}, {new})\nassert True",
            f"assert open({victim}).read()",
            "import os\nif os.fork() == 0:\n    os._exit(0)\nassert True",
            "import subprocess\nassert subprocess.run(['true']).returncode == 0",
            "import os\nassert os.system('true') == 0",
            "import os\nos.kill(os.getppid(), 9)\nassert True",
        ]
        found = run_programs(programs, seconds=2)
    assert all(reason is not None and "not allowed here" in reason for reason in found), found
    assert kept.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [kept]


def test_what_programs_need_is_allowed() -> None:
    modules = (
        "collections, datetime, decimal, functools, heapq, itertools, json, math, random, re, statistics"
    )
    programs = [
        f"import {modules}\nassert math.gcd(4, 6) == 2",
        "print('said')\nimport sys\nassert sys.stdin.read() == ''",
    ]
    assert run_programs(programs) == [None, None]


def test_a_program_that_sleeps_is_ended_by_the_clock() -> None:
    (why,) = run_programs(["import time\ntime.sleep(60)\nassert True"], seconds=1)
    assert why == "took too long"


def test_a_runner_that_fails_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited.sys, "executable", "/bin/false")
    assert score("run", "x", "x", check="assert True") is None


def test_one_program_cannot_touch_the_next() -> None:
    assert run_programs(["import builtins\nbuiltins.len = None\nassert 1", "assert len([1]) == 1"]) == [
        None,
        None,
    ]
