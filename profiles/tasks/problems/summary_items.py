"""Passages built of facts and colour, with a summary that keeps the facts."""

from __future__ import annotations

from random import Random

from profiles.tasks.problems.math_items import NAMES
from profiles.tasks.problems.qa_items import DAYS, SHOPS, TOWNS
from profiles.tasks.problems.rows import Row, row

COLOUR = (
    "Those who were there spoke of it for days.",
    "The local paper printed two photographs.",
    "Nobody had expected so much attention.",
    "Coffee and cake were served afterwards.",
    "It had rained since the early morning.",
    "Some neighbours would have preferred another day.",
    "The mood was calm throughout.",
    "A similar event took place some years ago.",
)
CAUSES = (
    "a burst pipe",
    "a short circuit",
    "a fallen tree",
    "a broken lift",
    "a gas leak",
    "a flooded cellar",
)
PROJECTS = ("playground", "footbridge", "solar roof", "bus shelter", "reading room", "cycle path")


def _summary(r: Random, facts: list[str], summary: str, genre: str, keys: list[str]) -> Row:
    sentences = list(facts)
    for extra in r.sample(COLOUR, 2):
        sentences.insert(r.randint(1, len(sentences)), extra)
    text = " ".join(sentences)
    before = f"Text: {text}\nSummary in one sentence:"
    return row(genre, before, f" {summary}", f"Summarize in one sentence: {text}", keys=keys)


def closure(r: Random) -> Row:
    """A place that had to close."""
    shop, town, cause, day, weeks = (
        r.choice(SHOPS), r.choice(TOWNS), r.choice(CAUSES), r.choice(DAYS), r.randint(2, 9),
    )  # fmt: skip
    facts = [
        f"Visitors of the {shop} in {town} stood before locked doors on {day}.",
        f"The reason was {cause}, which had been discovered by a cleaner in the night.",
        f"The council expects repairs to last {weeks} weeks.",
    ]
    summary = f"The {shop} in {town} closed on {day} because of {cause}; repairs will last {weeks} weeks."
    return _summary(r, facts, summary, "closure", [shop, town, day, cause, f"{weeks} weeks"])


def funding(r: Random) -> Row:
    """Money for a project."""
    project, town, who, amount, year = (
        r.choice(PROJECTS), r.choice(TOWNS), r.choice(NAMES), r.randint(12, 95) * 1000, r.randint(2025, 2031),
    )  # fmt: skip
    facts = [
        f"After a long debate the council of {town} voted for a new {project}.",
        f"It will cost {amount:,} euros, most of which comes from a fund of the region.",
        f"{who}, who leads the project, said that work should be finished in {year}.",
    ]
    summary = f"{town} will build a {project} for {amount:,} euros by {year}, led by {who}."
    return _summary(r, facts, summary, "funding", [town, project, f"{amount:,}", str(year), who])


def match(r: Random) -> Row:
    """A score."""
    home, away = r.sample(TOWNS, 2)
    scorer, high, low = r.choice(NAMES), r.randint(3, 6), r.randint(0, 2)
    facts = [
        f"The season's last home game of {home} was played before a full stand.",
        f"{scorer} scored twice in the first half, and {away} never found an answer.",
        f"When the whistle blew the board showed {high} to {low} for the hosts.",
    ]
    summary = f"{home} beat {away} {high} to {low}, with two goals by {scorer}."
    return _summary(r, facts, summary, "match", [home, away, f"{high} to {low}", scorer])


def meeting(r: Random) -> Row:
    """Notes of a meeting."""
    (chair, doer), day, topic, task = (
        r.sample(NAMES, 2),
        r.choice(DAYS),
        r.choice(("the budget", "the new office", "the summer party", "the safety training", "the website")),
        r.choice(("three offers", "a list of guests", "a timetable", "a short report", "the keys")),
    )
    facts = [
        f"{chair} opened the meeting about {topic} and thanked everyone for coming.",
        "Several ideas were collected on the board, and two of them were dropped again.",
        f"In the end it was agreed that {doer} brings {task} to the next meeting on {day}.",
    ]
    summary = f"At {chair}'s meeting about {topic} it was agreed that {doer} brings {task} on {day}."
    return _summary(r, facts, summary, "meeting", [chair, topic, doer, task, day])


MAKERS = (closure, funding, match, meeting)
