"""Word problems with worked answers: each step is an equation, the last one gives the answer.

`expression` is the whole calculation, so that a test can evaluate it apart from the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import NamedTuple

NAMES = (
    "Amara", "Bastian", "Chloe", "Dmitri", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jakub", "Kamala",
    "Leif", "Mireille", "Nkechi", "Oskar", "Paloma", "Quentin", "Rosa", "Stefan", "Tuuli", "Umar", "Vesna",
)  # fmt: skip
GOODS = ("notebooks", "apples", "tiles", "candles", "seed packets", "mugs", "postcards", "light bulbs")
PLACES = ("a school", "a hotel", "a workshop", "a library", "a clinic", "a theatre", "a farm")


class MathItem(NamedTuple):
    """A question, its worked steps, the answer, and the calculation as one expression."""

    kind: str
    question: str
    steps: tuple[str, ...]
    final: str
    expression: str


def number(value: Fraction | int) -> str:
    """Without a fraction part when there is none, else exact decimals."""
    exact = Fraction(value)
    return str(exact.numerator) if exact.denominator == 1 else f"{float(exact):g}"


def _item(kind: str, question: str, steps: list[tuple[str, Fraction | int]], expression: str) -> MathItem:
    written = tuple(f"{left} = {number(right)}" for left, right in steps)
    return MathItem(kind, question, written, number(steps[-1][1]), expression)


def _shopping(r: Random) -> MathItem:
    who, goods = r.choice(NAMES), r.choice(GOODS)
    count, price, paid = r.randint(3, 12), r.randint(2, 9), 200
    cost = count * price
    return _item(
        "shopping",
        f"{who} buys {count} {goods} at {price} euros each and pays with two notes of 100 euros. "
        "How much change is due?",
        [("2 * 100", paid), (f"{count} * {price}", cost), (f"{paid} - {cost}", paid - cost)],
        f"2 * 100 - {count} * {price}",
    )


def _speed(r: Random) -> MathItem:
    speed, hours, rest = r.randint(40, 95), r.randint(2, 6), r.randint(15, 120)
    way = speed * hours
    return _item(
        "distance",
        f"A lorry drives at a steady {speed} km/h for {hours} hours and then covers {rest} km more on small "
        "roads. How long is the whole route in kilometres?",
        [(f"{speed} * {hours}", way), (f"{way} + {rest}", way + rest)],
        f"{speed} * {hours} + {rest}",
    )


def _percent(r: Random) -> MathItem:
    price, cut = r.randint(4, 30) * 20, r.choice((5, 10, 15, 20, 25, 30, 40))
    off = Fraction(price * cut, 100)
    return _item(
        "percentage",
        f"A coat is marked at {price} euros. It is reduced by {cut} per cent. What does it cost now?",
        [(f"{price} * {cut} / 100", off), (f"{price} - {number(off)}", price - off)],
        f"{price} - {price} * {cut} / 100",
    )


def _sharing(r: Random) -> MathItem:
    people, each, left, goods = r.randint(4, 15), r.randint(5, 25), r.randint(1, 3), r.choice(GOODS)
    total, where = people * each + left, r.choice(PLACES)
    return _item(
        "division",
        f"For {where}, {total} {goods} are packed into {people} boxes with the same number in each, and "
        f"{left} remain. How many are in one box?",
        [(f"{total} - {left}", total - left), (f"{total - left} / {people}", each)],
        f"({total} - {left}) / {people}",
    )


def _area(r: Random) -> MathItem:
    length, width, path = r.randint(12, 40), r.randint(6, 11), r.randint(1, 2)
    outer = (length + 2 * path, width + 2 * path)
    return _item(
        "area",
        f"A rectangular pond of {length} m by {width} m is surrounded by a path {path} m wide. "
        "What is the area of the path in square metres?",
        [
            (f"{length} + 2 * {path}", outer[0]),
            (f"{width} + 2 * {path}", outer[1]),
            (f"{outer[0]} * {outer[1]}", outer[0] * outer[1]),
            (f"{length} * {width}", length * width),
            (f"{outer[0] * outer[1]} - {length * width}", outer[0] * outer[1] - length * width),
        ],
        f"({length} + 2 * {path}) * ({width} + 2 * {path}) - {length} * {width}",
    )


def _average(r: Random) -> MathItem:
    mean, first, second = r.randint(60, 240), r.randint(2, 25), r.randint(26, 50)
    scores = [mean + first, mean - second, mean + second - 1, mean - first + 1]
    who, total = r.choice(NAMES), sum(scores)
    listed = ", ".join(map(str, scores))
    plus = " + ".join(map(str, scores))
    return _item(
        "average",
        f"{who} measured a tide gauge four times and read {listed} centimetres. What is the mean reading?",
        [(plus, total), (f"{total} / 4", Fraction(total, 4))],
        f"({plus}) / 4",
    )


def _equation(r: Random) -> MathItem:
    x, a, b, c = r.randint(2, 15), r.randint(4, 9), r.randint(3, 30), r.randint(1, 3)
    right = (a - c) * x + b
    return _item(
        "equation",
        f"Solve for x: {a} * x + {b} = {c} * x + {right}.",
        [(f"{right} - {b}", right - b), (f"{a} - {c}", a - c), (f"{right - b} / {a - c}", x)],
        f"({right} - {b}) / ({a} - {c})",
    )


def _mixture(r: Random) -> MathItem:
    small, large = r.randint(2, 6), r.randint(8, 14)
    few, many = r.randint(3, 9), r.randint(10, 30)
    return _item(
        "tickets",
        f"A concert for {r.choice(PLACES)} sold {many} tickets for adults at {large} euros and {few} for "
        f"children at {small} euros. The hall costs {large * 2} euros. What remains?",
        [
            (f"{many} * {large}", many * large),
            (f"{few} * {small}", few * small),
            (f"{many * large} + {few * small}", many * large + few * small),
            (f"{many * large + few * small} - {large * 2}", many * large + few * small - large * 2),
        ],
        f"{many} * {large} + {few} * {small} - {large * 2}",
    )


def _work(r: Random) -> MathItem:
    few, more, each = r.randint(3, 8), r.randint(1, 4), r.randint(2, 6)
    days = (few + more) * each
    return _item(
        "work",
        f"{few} painters need {days} days for a bridge. How many days would {few + more} painters need at "
        "the same pace?",
        [(f"{few} * {days}", few * days), (f"{few * days} / {few + more}", few * each)],
        f"{few} * {days} / ({few} + {more})",
    )


def _ratio(r: Random) -> MathItem:
    a, b, part, who = r.randint(2, 5), r.randint(6, 9), r.randint(10, 60), r.choice(NAMES)
    return _item(
        "ratio",
        f"{who} mixes sand and gravel in the ratio {a} to {b} and needs {(a + b) * part} kilograms "
        "altogether. How many kilograms of gravel are needed?",
        [
            (f"{a} + {b}", a + b),
            (f"{(a + b) * part} / {a + b}", part),
            (f"{part} * {b}", part * b),
        ],
        f"{(a + b) * part} / ({a} + {b}) * {b}",
    )


def _series(r: Random) -> MathItem:
    first, step, count = r.randint(2, 20), r.randint(2, 9), 2 * r.randint(3, 8)
    last = first + (count - 1) * step
    return _item(
        "series",
        f"A row of seats begins with {first} places and every row behind has {step} more. "
        f"How many places do {count} rows have together?",
        [
            (f"{count} - 1", count - 1),
            (f"{first} + {count - 1} * {step}", last),
            (f"{first} + {last}", first + last),
            (f"{first + last} * {count} / 2", (first + last) * count // 2),
        ],
        f"({first} + {first} + ({count} - 1) * {step}) * {count} / 2",
    )


def _interest(r: Random) -> MathItem:
    capital, rate, years, who = 100 * r.randint(8, 60), r.randint(2, 6), r.randint(2, 5), r.choice(NAMES)
    yearly = capital * rate // 100
    return _item(
        "interest",
        f"{who} lends {capital} euros at {rate} per cent simple interest a year. "
        f"How much is owed in total after {years} years?",
        [
            (f"{capital} * {rate} / 100", yearly),
            (f"{yearly} * {years}", yearly * years),
            (f"{capital} + {yearly * years}", capital + yearly * years),
        ],
        f"{capital} + {capital} * {rate} / 100 * {years}",
    )


KINDS: tuple[Callable[[Random], MathItem], ...] = (
    _shopping,
    _speed,
    _percent,
    _sharing,
    _area,
    _average,
    _equation,
    _mixture,
    _work,
    _ratio,
    _series,
    _interest,
)


def math_items(count: int, seed: int) -> list[MathItem]:
    """`count` different items, all kinds in turn."""
    random = Random(seed)
    items: dict[str, MathItem] = {}
    turn = 0
    while len(items) < count:
        item = KINDS[turn % len(KINDS)](random)
        turn += 1
        items.setdefault(item.question, item)
    return list(items.values())
