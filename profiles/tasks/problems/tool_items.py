"""Requests and the one tool call that answers each, as JSON; the arguments stand in the request."""

from __future__ import annotations

import json
from random import Random

from profiles.tasks.problems.math_items import NAMES
from profiles.tasks.problems.qa_items import DAYS, TOWNS
from profiles.tasks.problems.rows import Row, row

TOOLS: dict[str, dict[str, str | list[str]]] = {
    "get_weather": {"city": "string", "day": "string"},
    "set_timer": {"minutes": "integer", "label": "string"},
    "convert_currency": {"amount": "number", "from": "string", "to": "string"},
    "send_message": {"to": "string", "text": "string"},
    "book_table": {"city": "string", "people": "integer", "day": "string"},
    "play_music": {"artist": "string", "shuffle": "boolean"},
    "set_light": {"room": "string", "state": ["on", "off"]},
}
"""Tool to its arguments and their JSON type, or the values that one may have."""
CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CHF", "SEK")
LABELS = ("tea", "pasta", "laundry", "bread", "stretching", "eggs")
TEXTS = (
    "I am running late",
    "dinner is ready",
    "the meeting moved to noon",
    "please call me",
    "we won the match",
)
ARTISTS = ("Nina Simone", "Daft Punk", "Johann Sebastian Bach", "Fela Kuti", "Björk", "Miles Davis")
ROOMS = ("kitchen", "hall", "bedroom", "garage", "study", "bathroom")


def _arguments(tool: str, r: Random) -> tuple[str, dict[str, object]]:
    """The request in words and the arguments that it means."""
    town, day, people = r.choice(TOWNS), r.choice(DAYS), r.randint(2, 12)
    if tool == "get_weather":
        return f"What will the weather be like in {town} on {day}?", {"city": town, "day": day}
    if tool == "set_timer":
        minutes, label = r.randint(2, 90), r.choice(LABELS)
        return f"Set a timer of {minutes} minutes for {label}.", {"minutes": minutes, "label": label}
    if tool == "convert_currency":
        amount, (a, b) = r.randint(5, 2000), r.sample(CURRENCIES, 2)
        return f"How much is {amount} {a} in {b}?", {"amount": amount, "from": a, "to": b}
    if tool == "send_message":
        who, text = r.choice(NAMES), r.choice(TEXTS)
        return f'Send {who} the message "{text}".', {"to": who, "text": text}
    if tool == "book_table":
        words = f"Book a table for {people} people in {town} on {day}."
        return words, {"city": town, "people": people, "day": day}
    if tool == "play_music":
        artist, shuffle = r.choice(ARTISTS), r.random() < 0.5
        how = "in random order" if shuffle else "in the order of the albums"
        return f"Play {artist} {how}.", {"artist": artist, "shuffle": shuffle}
    room, state = r.choice(ROOMS), r.choice(("on", "off"))
    return f"Turn the light in the {room} {state}.", {"room": room, "state": state}


def call(r: Random) -> Row:
    """One request with three tools to choose from."""
    tool, *others = r.sample(sorted(TOOLS), 3)
    words, arguments = _arguments(tool, r)
    offered = sorted([tool, *others])
    shown = json.dumps({name: TOOLS[name] for name in offered})
    answer = json.dumps({"name": tool, "arguments": arguments}, ensure_ascii=False)
    before = f"Tools: {shown}\nUser: {words}\nCall:"
    return row(
        tool, before, f" {answer}", f"Answer with one JSON tool call. Tools: {shown} Request: {words}",
        request=words,
    )  # fmt: skip


MAKERS = (call,)
