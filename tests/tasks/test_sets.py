"""Every bundled set: sizes, nothing shared between splits, answers computed or checked again."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from itertools import combinations, permutations
from typing import Any

import pytest

from profiles.tasks import list_tasks, load_task
from profiles.tasks.problems.facts import CAPITALS, ELEMENTS, table
from profiles.tasks.problems.tool_items import TOOLS
from profiles.tasks.problems.translation_items import ADJECTIVES, NOUNS
from profiles.tasks.problems.write import SETS, SIZES
from profiles.tasks.registry import SPLITS
from profiles.tasks.scorers import score_answers

NAMES = [task.name for task in list_tasks()]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
PERIODIC = """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br
Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf
Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U"""
TOPIC_WORDS = {
    "sport": "penalty wickets marathon cup goal cyclist striker",
    "cooking": "onions batter dough soup sauce peppers cake",
    "weather": "fog front temperatures gusts snow thunderstorms frosty",
    "finance": "bank shares fund inflation dividend investors pension",
    "medicine": "antibiotics nurses vaccine surgeon doctor fever physiotherapy",
    "travel": "train hotel visa ferry tourists flight guidebook",
    "gardening": "prune slugs water compost carrots hedge bulbs",
    "computing": "update database laptop password loop router source",
}


def rows(name: str) -> list[dict[str, Any]]:
    folder = files("profiles.tasks").joinpath("data", name)
    return [
        json.loads(line)
        for s in SPLITS
        for line in folder.joinpath(f"{s}.jsonl").read_text("utf-8").splitlines()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_each_task_has_its_own_set_of_64_and_64(name: str) -> None:
    task = load_task(name)
    assert task.own_texts
    assert len(task.splits.search) >= 64
    assert len(task.items) == len(task.splits.evaluate) >= 64
    assert len(task.splits.prompts) == 6
    assert task.hub


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_item_and_no_question(name: str) -> None:
    task = load_task(name)
    for one, other in combinations(SPLITS, 2):
        assert not task.splits.fingerprints(one) & task.splits.fingerprints(other)
    asked = [row["prompt"] for row in rows(name) if "prompt" in row]
    assert len(set(asked)) == len(asked)
    assert not set(task.splits.prompts) & set(asked)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_answers_score_full_marks(name: str) -> None:
    items = load_task(name).items
    written = [i for i in items if i.scorer not in ("choice", "next-token")]
    assert score_answers(written, [i.answer for i in written]) == [1.0] * len(written)
    for item in items:
        if item.scorer == "choice":
            assert item.choices.count(item.answer) == 1
            assert len(set(item.choices)) == len(item.choices) > 1


@pytest.mark.parametrize("name", SETS)
def test_files_are_what_the_generators_write(name: str) -> None:
    made = SETS[name]()
    assert [r["text"] for r in made[: sum(SIZES.values())]] == [r["text"] for r in rows(name)]
    assert all(str(r["text"]).endswith(str(r["answer"])) for r in made)


def test_topics_have_the_words_of_their_label_alone() -> None:
    for row in rows("classification"):
        if row["genre"] == "topic":
            text = row["text"].split("Text: ")[1].split("\nTopic:")[0].lower()
            hits = {
                t: sum(w in re.findall(r"\w+", text) for w in words.split())
                for t, words in TOPIC_WORDS.items()
            }
            assert max(hits, key=lambda t: hits[t]) == row["answer"].strip(), text


def test_qa_answers_stand_in_their_passage() -> None:
    for row in rows("qa"):
        passage = row["text"].split("\nQuestion:")[0]
        assert re.search(rf"\b{re.escape(row['answer'].strip())}\b", passage)


def test_summaries_keep_the_facts_and_are_shorter() -> None:
    for row in rows("summarization"):
        text = row["text"].split("\nSummary")[0]
        for key in row["keys"]:
            assert key.lower() in text.lower(), row
            assert key.lower() in row["answer"].lower(), row
        assert 2 * len(row["answer"]) < len(text)


def test_translations_agree_in_gender() -> None:
    nouns = {word: noun for noun in NOUNS for word in (noun.fr, noun.de, noun.es)}
    articles = {"Le": "m", "La": "f", "Der": "m", "Die": "f", "Das": "n", "El": "m"}
    seen = 0
    for row in rows("translation"):
        if row["genre"] != "described":
            continue
        article, noun, _, adjective = row["answer"].strip().rstrip(".").split()
        entry = nouns[noun]
        gender = {"fr": entry.fr_gender, "de": entry.de_gender, "es": entry.es_gender}[row["language"]]
        assert articles[article] == gender, row
        forms = next(f for f in ADJECTIVES.values() if adjective in f)
        at = forms.index(adjective)
        if row["language"] == "de":
            assert at == 2
        elif forms[0] != forms[1] and row["language"] == "fr":
            assert at == (gender == "f")
        seen += 1
    assert seen > 20


def solve_order(facts: dict[str, Any]) -> str:
    people = sorted({p for pair in facts["pairs"] for p in pair})
    orders = [o for o in permutations(people) if all(o.index(a) < o.index(b) for a, b in facts["pairs"])]
    assert len(orders) == 1
    return orders[0][0] if facts["which"] == "tallest" else orders[0][-1]


def solve_boxes(facts: dict[str, Any]) -> str:
    found = set()
    for order in permutations(facts["things"]):
        holds = dict(zip(facts["colours"], order, strict=True))
        if holds[facts["is"][0]] == facts["is"][1] and holds[facts["not"][0]] != facts["not"][1]:
            found.add(holds[facts["asked"]])
    assert len(found) == 1
    return str(found.pop())


def solve_syllogism(facts: dict[str, Any]) -> str:
    rules = re.findall(r"All ([\w ]+) are ([\w ]+)\.", facts["said"])
    known = {re.search(r"is one of the ([\w ]+)\.", facts["said"])[1]}  # type: ignore[index]
    for _ in rules:
        known |= {b for a, b in rules if a in known}
    return "yes" if facts["class"] in known else "unknown"


def test_every_puzzle_is_solved_again() -> None:
    for row in rows("reasoning"):
        facts = row["facts"]
        answer = {
            "ordering": solve_order,
            "elimination": solve_boxes,
            "syllogism": solve_syllogism,
            "weekday": lambda f: DAYS[(DAYS.index(f["today"]) + f["ahead"]) % 7],
        }[row["genre"]](facts)
        assert answer == row["final"], row
        assert row["answer"].endswith(f"The answer is {answer}.")


def test_elements_are_in_the_order_of_the_periodic_table() -> None:
    for _, symbol, number in table(ELEMENTS):
        assert PERIODIC.split()[int(number) - 1] == symbol


def test_no_capital_belongs_to_two_countries() -> None:
    cities = [city for _, city in table(CAPITALS)]
    assert len(set(cities)) == len(cities) > 60


def test_the_needle_is_in_the_record_once() -> None:
    for row in rows("long-context"):
        record = row["text"].split("\nQuestion:")[0]
        assert record.count(row["source"]) == 1
        assert row["answer"].strip() in row["source"]
        assert len(record.split()) > 100


def test_calls_fit_the_tools_and_take_their_values_from_the_request() -> None:
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
    for row in rows("tool-calling"):
        call = json.loads(row["answer"])
        offered = json.loads(row["text"].split("Tools: ")[1].split("\nUser:")[0])
        assert offered[call["name"]] == TOOLS[call["name"]]
        assert call["arguments"].keys() == offered[call["name"]].keys()
        for key, value in call["arguments"].items():
            kind = offered[call["name"]][key]
            assert value in kind if isinstance(kind, list) else isinstance(value, kinds[kind])
            assert isinstance(value, bool) or str(value) in row["request"]
