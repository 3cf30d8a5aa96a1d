"""Short passages with a question whose answer is a span of the passage."""

from __future__ import annotations

from random import Random

from profiles.tasks.problems.math_items import NAMES
from profiles.tasks.problems.rows import Row, row
from profiles.tasks.problems.rows import a as article

JOBS = ("baker", "dentist", "plumber", "architect", "librarian", "beekeeper", "tailor", "geologist")
TOWNS = ("Arvik", "Belmont", "Corvale", "Dunmere", "Eskdale", "Farrow", "Glenholm", "Hartwell", "Inverly")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SHOPS = ("bakery", "library", "museum", "swimming pool", "post office", "bicycle shop", "pharmacy")
COLOURS = ("red", "blue", "green", "yellow", "grey", "orange", "white", "brown")
OBJECTS = ("umbrella", "suitcase", "scarf", "notebook", "lantern", "basket", "helmet", "kettle")
PETS = ("cat", "parrot", "tortoise", "rabbit", "donkey", "goldfish")


def _asked(passage: str, question: str, answer: str, genre: str) -> Row:
    before = f"Passage: {passage}\nQuestion: {question}\nAnswer:"
    return row(genre, before, f" {answer}", f"{passage} {question}")


def jobs(r: Random) -> Row:
    """Two people with jobs in two towns."""
    (a, b), (x, y), (s, t) = r.sample(NAMES, 2), r.sample(JOBS, 2), r.sample(TOWNS, 2)
    passage = (
        f"{a} is {article(x)} in {s}. {b}, {article(y)}, moved to {t} last year and visits {a} every month."
    )
    question, answer = r.choice(
        (
            (f"What is {a}'s job?", x),
            (f"What is {b}'s job?", y),
            (f"In which town does {a} work?", s),
            (f"Where did {b} move last year?", t),
        )
    )
    return _asked(passage, question, answer, "people")


def opening(r: Random) -> Row:
    """Opening hours of two places."""
    (p, q), (d, e) = r.sample(SHOPS, 2), r.sample(DAYS, 2)
    start, end = r.randint(7, 11), r.randint(15, 21)
    passage = (
        f"The {p} opens at {start} o'clock and closes at {end} o'clock, except on {d}, when it stays shut. "
        f"The {q} next door is closed on {e}."
    )
    question, answer = r.choice(
        (
            (f"On which day does the {p} stay shut?", d),
            (f"On which day is the {q} closed?", e),
            (f"At what hour does the {p} open?", str(start)),
            (f"At what hour does the {p} close?", str(end)),
        )
    )
    return _asked(passage, question, answer, "hours")


def colours(r: Random) -> Row:
    """Who carried which thing in which colour."""
    (a, b), (x, y), (c, d) = r.sample(NAMES, 2), r.sample(OBJECTS, 2), r.sample(COLOURS, 2)
    passage = (
        f"{a} carried {article(c)} {x} up the stairs while {b} waited in the hall with {article(d)} {y}."
    )
    question, answer = r.choice(
        (
            (f"What colour was the {x}?", c),
            (f"What colour was the {y}?", d),
            (f"Who carried the {x}?", a),
            ("Who waited in the hall?", b),
        )
    )
    return _asked(passage, question, answer, "things")


def pets(r: Random) -> Row:
    """Pets, their names and ages."""
    owner, town, pet = r.choice(NAMES), r.choice(TOWNS), r.choice(PETS)
    called, age = r.choice(("Biscuit", "Pepper", "Mango", "Pixel", "Clover", "Ziggy")), r.randint(2, 14)
    passage = (
        f"In {town}, {owner} keeps a {pet} called {called}. The animal is {age} years old and sleeps all day."
    )
    question, answer = r.choice(
        (
            (f"What kind of animal is {called}?", pet),
            (f"How many years old is {called}?", str(age)),
            (f"Who keeps {called}?", owner),
            (f"In which town does {called} live?", town),
        )
    )
    return _asked(passage, question, answer, "pets")


MAKERS = (jobs, opening, colours, pets)
