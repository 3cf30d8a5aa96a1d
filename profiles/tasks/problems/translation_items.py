"""English sentences into French, German and Spanish, built by a small grammar with agreement."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from profiles.tasks.problems.rows import Row, row


class Noun(NamedTuple):
    """A noun with its gender (m, f, n) in each language."""

    en: str
    fr: str
    fr_gender: str
    de: str
    de_gender: str
    es: str
    es_gender: str


NOUNS = (
    Noun("house", "maison", "f", "Haus", "n", "casa", "f"),
    Noun("dog", "chien", "m", "Hund", "m", "perro", "m"),
    Noun("book", "livre", "m", "Buch", "n", "libro", "m"),
    Noun("door", "porte", "f", "Tür", "f", "puerta", "f"),
    Noun("table", "table", "f", "Tisch", "m", "mesa", "f"),
    Noun("garden", "jardin", "m", "Garten", "m", "jardín", "m"),
    Noun("bridge", "pont", "m", "Brücke", "f", "puente", "m"),
    Noun("kitchen", "cuisine", "f", "Küche", "f", "cocina", "f"),
    Noun("car", "voiture", "f", "Auto", "n", "coche", "m"),
    Noun("lamp", "lampe", "f", "Lampe", "f", "lámpara", "f"),
    Noun("boat", "bateau", "m", "Boot", "n", "barco", "m"),
    Noun("street", "rue", "f", "Straße", "f", "calle", "f"),
)
ADJECTIVES: dict[str, tuple[str, str, str, str, str]] = {
    # English: French masculine and feminine, German, Spanish masculine and feminine (all predicative)
    "small": ("petit", "petite", "klein", "pequeño", "pequeña"),
    "big": ("grand", "grande", "groß", "grande", "grande"),
    "beautiful": ("beau", "belle", "schön", "bonito", "bonita"),
    "white": ("blanc", "blanche", "weiß", "blanco", "blanca"),
    "black": ("noir", "noire", "schwarz", "negro", "negra"),
    "green": ("vert", "verte", "grün", "verde", "verde"),
    "expensive": ("cher", "chère", "teuer", "caro", "cara"),
    "old": ("vieux", "vieille", "alt", "viejo", "vieja"),
}
ARTICLES = {
    "fr": {"m": "Le", "f": "La"},
    "de": {"m": "Der", "f": "Die", "n": "Das"},
    "es": {"m": "El", "f": "La"},
}
LANGUAGES = {"fr": "French", "de": "German", "es": "Spanish"}
PEOPLE = ("Anna", "Paul", "Maria", "Thomas", "Julia", "David")
DRINKS = {
    "water": ("de l'eau", "Wasser", "agua"),
    "milk": ("du lait", "Milch", "leche"),
    "coffee": ("du café", "Kaffee", "café"),
    "tea": ("du thé", "Tee", "té"),
}
TIMES = {
    "today": ("aujourd'hui", "heute", "hoy"),
    "every day": ("tous les jours", "jeden Tag", "todos los días"),
    "often": ("souvent", "oft", "a menudo"),
}
PLACES = {
    "Berlin": ("Berlin", "Berlin", "Berlín"),
    "Paris": ("Paris", "Paris", "París"),
    "Madrid": ("Madrid", "Madrid", "Madrid"),
    "Vienna": ("Vienne", "Wien", "Viena"),
}
NUMBERS = {
    "two": ("deux", "zwei", "dos"),
    "three": ("trois", "drei", "tres"),
    "four": ("quatre", "vier", "cuatro"),
    "five": ("cinq", "fünf", "cinco"),
    "six": ("six", "sechs", "seis"),
}
ORDER = ("fr", "de", "es")


def _ask(english: str, language: str, translated: str, genre: str) -> Row:
    name = LANGUAGES[language]
    before = f"English: {english}\n{name}:"
    return row(genre, before, f" {translated}", f"Translate into {name}: {english}", language=language)


def predicate(noun: Noun, adjective: str, language: str) -> str:
    """ "The house is small." with the article and the ending that the noun asks for."""
    words = ADJECTIVES[adjective]
    if language == "fr":
        return f"{ARTICLES['fr'][noun.fr_gender]} {noun.fr} est {words[noun.fr_gender == 'f']}."
    if language == "de":
        return f"{ARTICLES['de'][noun.de_gender]} {noun.de} ist {words[2]}."
    return f"{ARTICLES['es'][noun.es_gender]} {noun.es} es {words[3 + (noun.es_gender == 'f')]}."


def described(r: Random) -> Row:
    """The NOUN is ADJECTIVE."""
    noun, adjective, language = r.choice(NOUNS), r.choice(sorted(ADJECTIVES)), r.choice(ORDER)
    return _ask(f"The {noun.en} is {adjective}.", language, predicate(noun, adjective, language), "described")


def drinks(r: Random) -> Row:
    """NAME drinks X TIME."""
    who, drink, when, language = (
        r.choice(PEOPLE),
        r.choice(sorted(DRINKS)),
        r.choice(sorted(TIMES)),
        r.choice(ORDER),
    )
    at = ORDER.index(language)
    what, time = DRINKS[drink][at], TIMES[when][at]
    english = f"{who} often drinks {drink}." if when == "often" else f"{who} drinks {drink} {when}."
    translated = {
        "fr": f"{who} boit souvent {what}." if when == "often" else f"{who} boit {what} {time}.",
        "de": f"{who} trinkt {time} {what}.",
        "es": f"{who} bebe {what} {time}.",
    }[language]
    return _ask(english, language, translated, "drinks")


def living(r: Random) -> Row:
    """NAME has lived in PLACE for N years."""
    who, place, count, language = (
        r.choice(PEOPLE), r.choice(sorted(PLACES)), r.choice(sorted(NUMBERS)), r.choice(ORDER),
    )  # fmt: skip
    at = ORDER.index(language)
    city, number = PLACES[place][at], NUMBERS[count][at]
    translated = {
        "fr": f"{who} habite à {city} depuis {number} ans.",
        "de": f"{who} wohnt seit {number} Jahren in {city}.",
        "es": f"{who} vive en {city} desde hace {number} años.",
    }[language]
    return _ask(f"{who} has lived in {place} for {count} years.", language, translated, "living")


def where(r: Random) -> Row:
    """Where is the NOUN?"""
    noun, language = r.choice(NOUNS), r.choice(ORDER)
    translated = {
        "fr": f"Où est {ARTICLES['fr'][noun.fr_gender].lower()} {noun.fr} ?",
        "de": f"Wo ist {ARTICLES['de'][noun.de_gender].lower()} {noun.de}?",
        "es": f"¿Dónde está {ARTICLES['es'][noun.es_gender].lower()} {noun.es}?",
    }[language]
    return _ask(f"Where is the {noun.en}?", language, translated, "where")


MAKERS = (described, drinks, living, where)
