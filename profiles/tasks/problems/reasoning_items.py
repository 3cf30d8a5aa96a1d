"""Small logic puzzles with one right answer; `facts` lets a test solve them again."""

from __future__ import annotations

from random import Random

from profiles.tasks.problems.math_items import NAMES
from profiles.tasks.problems.qa_items import COLOURS, DAYS, OBJECTS
from profiles.tasks.problems.rows import Row, a, row

CLASSES = ("poets", "sailors", "bakers", "chess players", "gardeners", "climbers", "singers", "judges")


def ordering(r: Random) -> Row:
    """Who is the tallest, of four."""
    people = r.sample(NAMES, 4)
    pairs = [(people[i], people[i + 1]) for i in range(3)]
    shown = r.sample(pairs, 3)
    said = " ".join(f"{tall} is taller than {short}." for tall, short in shown)
    which = r.choice(("tallest", "shortest"))
    answer = people[0] if which == "tallest" else people[-1]
    chain = " > ".join(people)
    before = f"{said}\nQuestion: Who is the {which}?\nReasoning:"
    return row(
        "ordering", before, f" {chain}. The answer is {answer}.", f"{said} Who is the {which}?",
        facts={"pairs": [list(p) for p in shown], "which": which}, final=answer,
    )  # fmt: skip


def weekday(r: Random) -> Row:
    """Days of the week."""
    today, ahead = r.randrange(7), r.randint(8, 40)
    target = (today + ahead) % 7
    question = f"Today is {DAYS[today]}. Which day of the week is it in {ahead} days?"
    steps = f" {ahead} = {ahead // 7} * 7 + {ahead % 7}. {DAYS[today]} plus {ahead % 7} is {DAYS[target]}."
    return row(
        "weekday", f"Question: {question}\nReasoning:", f"{steps} The answer is {DAYS[target]}.", question,
        facts={"today": DAYS[today], "ahead": ahead}, final=DAYS[target],
    )  # fmt: skip


def syllogism(r: Random) -> Row:
    """Does it follow? Yes, or not enough is known."""
    one, two, three = r.sample(CLASSES, 3)
    who = r.choice(NAMES)
    if r.random() < 0.5:
        said, answer = f"All {one} are {two}. All {two} are {three}. {who} is one of the {one}.", "yes"
        why = f"{who} is one of the {one}, so one of the {two}, so one of the {three}."
    else:
        said, answer = f"All {one} are {two}. All {three} are {two}. {who} is one of the {one}.", "unknown"
        why = f"{who} is one of the {two}, but not all of these are {three}."
    question = f"Is {who} one of the {three}?"
    before = f"{said}\nQuestion: {question} (yes, no or unknown)\nReasoning:"
    return row(
        "syllogism", before, f" {why} The answer is {answer}.", f"{said} {question}",
        facts={"said": said, "who": who, "class": three}, final=answer,
    )  # fmt: skip


def boxes(r: Random) -> Row:
    """Three boxes in a row, by elimination."""
    things, colours = r.sample(OBJECTS, 3), r.sample(COLOURS, 3)
    hidden = list(zip(colours, things, strict=True))
    listed = r.sample(things, 3)
    clues = [
        f"The {hidden[0][0]} box holds the {hidden[0][1]}.",
        f"The {hidden[1][1]} is not in the {hidden[2][0]} box.",
    ]
    said = (
        f"The {listed[0]}, the {listed[1]} and the {listed[2]} are in {a(colours[0])}, {a(colours[1])} and "
        f"{a(colours[2])} box, one in each. {clues[0]} {clues[1]}"
    )
    question = f"What is in the {hidden[2][0]} box?"
    answer = hidden[2][1]
    why = f" Not the {hidden[0][1]}, and not the {hidden[1][1]}, so the {answer} is left."
    return row(
        "elimination", f"{said}\nQuestion: {question}\nReasoning:", f"{why} The answer is {answer}.",
        f"{said} {question}",
        facts={"things": things, "colours": colours, "is": [hidden[0][0], hidden[0][1]],
               "not": [hidden[2][0], hidden[1][1]], "asked": hidden[2][0]}, final=answer,
    )  # fmt: skip


MAKERS = (ordering, weekday, syllogism, boxes)
