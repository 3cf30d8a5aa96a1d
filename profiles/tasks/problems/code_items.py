"""Small functions of a filter, a transform and an aggregate, with checks computed apart from the source."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from random import Random
from typing import NamedTuple


class CodeItem(NamedTuple):
    """A task in words, a solution, and checks to run after it."""

    kind: str
    prompt: str
    solution: str
    checks: tuple[str, ...]


class Part(NamedTuple):
    """One building block: a name, words, the expression in Python, and the same as a function."""

    name: str
    words: str
    source: str
    apply: Callable[[int], int]


class Aggregate(NamedTuple):
    """What is made of the chosen values."""

    name: str
    words: str
    source: str
    apply: Callable[[list[int]], object]


FILTERS = (
    Part("even", "the even numbers", "n % 2 == 0", lambda n: n % 2 == 0),
    Part("odd", "the odd numbers", "n % 2 == 1", lambda n: n % 2 == 1),
    Part("positive", "the positive numbers", "n > 0", lambda n: n > 0),
    Part("negative", "the negative numbers", "n < 0", lambda n: n < 0),
    Part("triple", "the multiples of three", "n % 3 == 0", lambda n: n % 3 == 0),
    Part("large", "the numbers above ten", "n > 10", lambda n: n > 10),
)
TRANSFORMS = (
    Part("values", "", "n", lambda n: n),
    Part("squares", "squares of ", "n * n", lambda n: n * n),
    Part("doubles", "doubles of ", "2 * n", lambda n: 2 * n),
    Part("sizes", "absolute values of ", "abs(n)", abs),
    Part("digits", "last decimal digits of ", "abs(n) % 10", lambda n: abs(n) % 10),
    Part("successors", "successors of ", "n + 1", lambda n: n + 1),
)


def _loop_product(values: list[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def _without_repeats(values: list[int]) -> list[int]:
    kept: list[int] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept


AGGREGATES = (
    Aggregate("sum_of", "Return the sum of the ", "sum({0})", lambda v: sum(v)),
    Aggregate(
        "largest_of",
        "Return the largest (None if there is none) of the ",
        "max(({0}), default=None)",
        lambda v: max(v, default=None),
    ),
    Aggregate(
        "smallest_of",
        "Return the smallest (None if there is none) of the ",
        "min(({0}), default=None)",
        lambda v: min(v, default=None),
    ),
    Aggregate("list_of", "Return, in order, the ", "[{0}]", lambda v: v),
    Aggregate(
        "sorted",
        "Return, in descending order, the ",
        "sorted(({0}), reverse=True)",
        lambda v: sorted(v)[::-1],
    ),
    Aggregate("product_of", "Return the product of the ", "math.prod({0})", _loop_product),
    Aggregate("distinct", "Return without repeats the ", "list(dict.fromkeys({0}))", _without_repeats),
)


def code_items(seed: int) -> list[CodeItem]:
    """Every composition, shuffled."""
    random = Random(seed)
    items = [
        _compose(chosen, changed, made, random)
        for made, changed, chosen in product(AGGREGATES, TRANSFORMS, FILTERS)
    ]
    random.shuffle(items)
    return items


def _compose(chosen: Part, changed: Part, made: Aggregate, random: Random) -> CodeItem:
    name = f"{made.name}_{changed.name}_of_{chosen.name}"
    stream = f"{changed.source} for n in numbers if {chosen.source}"
    lines = [f"def {name}(numbers):", f"    return {made.source.format(stream)}"]
    if "math." in made.source:
        lines.insert(0, "import math\n\n")
    samples = [[random.randint(-30, 30) for _ in range(random.randint(3, 7))] for _ in range(2)]
    checks = []
    for sample in [*samples, list[int]()]:
        kept = [changed.apply(value) for value in sample if chosen.apply(value)]
        checks.append(f"assert {name}({sample}) == {made.apply(kept)!r}")
    return CodeItem(
        kind="composed",
        prompt=f"{made.words}{changed.words}{chosen.words} in a list.".replace("the the", "the"),
        solution="\n".join(lines),
        checks=tuple(checks),
    )
