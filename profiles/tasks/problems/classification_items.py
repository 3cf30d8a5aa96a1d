"""Short texts with one right label: topic, sentiment, or what a customer wants."""

from __future__ import annotations

from random import Random

from profiles.tasks.problems.rows import Row, choice

TOPICS: dict[str, tuple[str, ...]] = {
    "sport": (
        "The keeper saved a penalty in the last minute of the match.",
        "Two wickets fell before lunch and the team never recovered.",
        "She ran the marathon in under three hours for the first time.",
        "The coach praised the defence after the cup final.",
        "A late goal sent the supporters home happy.",
        "The cyclist lost the yellow jersey on the last climb of the stage.",
        "Their striker will miss the rest of the season with a torn muscle.",
    ),
    "cooking": (
        "Simmer the onions slowly until they turn golden.",
        "Fold the egg whites into the batter without stirring.",
        "The dough has to rest in the fridge overnight.",
        "Season the soup at the end, never at the beginning.",
        "A pinch of nutmeg lifts the sauce.",
        "Roast the peppers until their skin blisters, then peel them.",
        "Let the cake cool in its tin before you slice it.",
    ),
    "weather": (
        "Fog will linger in the valleys until noon.",
        "A cold front brings showers from the west tonight.",
        "Temperatures climb to thirty degrees by Thursday.",
        "Gusts along the coast may reach ninety kilometres an hour.",
        "The first snow is expected above a thousand metres.",
        "Thunderstorms are likely in the afternoon, with hail in places.",
        "After a frosty night the sun will shine all day.",
    ),
    "finance": (
        "The bank raised its interest rate by a quarter of a point.",
        "Shares of the chip maker fell after a weak forecast.",
        "The fund returned four per cent last year before fees.",
        "Inflation slowed for the third month in a row.",
        "The company will pay a dividend of two euros a share.",
        "Investors sold government bonds ahead of the budget.",
        "Her pension savings are split between stocks and a savings account.",
    ),
    "medicine": (
        "The patient was given antibiotics for an infected wound.",
        "Nurses checked his blood pressure every hour.",
        "A small trial found that the vaccine protects children.",
        "The surgeon replaced the worn hip joint.",
        "Her doctor ordered a scan of the knee.",
        "Symptoms of the fever usually fade within a week.",
        "The clinic offers physiotherapy after a stroke.",
    ),
    "travel": (
        "The night train leaves the station at ten and reaches the coast by dawn.",
        "Our hotel overlooked the old harbour.",
        "You need a visa and a passport that is valid for six months.",
        "The ferry to the island runs twice a day in summer.",
        "Tourists queue for hours to see the palace.",
        "We missed our connecting flight and slept at the airport.",
        "The guidebook recommends the coastal path for hikers.",
    ),
    "gardening": (
        "Prune the roses before the buds open.",
        "Slugs have eaten every lettuce seedling in the bed.",
        "Water the tomatoes in the morning and feed them weekly.",
        "Compost improves heavy clay soil.",
        "Sow the carrots thinly and cover them with fine earth.",
        "The hedge should be trimmed once the birds have left their nests.",
        "Tulip bulbs go into the ground in late autumn.",
    ),
    "computing": (
        "The update fixes a crash in the file browser.",
        "Back up the database before you upgrade the server.",
        "Her laptop has too little memory to compile the program.",
        "The password is stored as a salted hash.",
        "A loop without an exit condition froze the browser.",
        "The router drops packets when the network is busy.",
        "Developers reviewed the source code before the release.",
    ),
}
PRODUCTS = ("kettle", "headset", "backpack", "desk lamp", "blender", "tent", "keyboard", "coffee grinder")
GOOD = (
    "works better than I had hoped", "feels solid and well made", "was worth every cent",
    "has made my mornings easier", "still looks new after a year", "arrived early and works perfectly",
)  # fmt: skip
BAD = (
    "broke within a week", "feels cheap and flimsy", "was a waste of money",
    "stopped working after two days", "arrived scratched and late", "never did what the box promised",
)  # fmt: skip
GOOD_END = ("I would buy it again.", "I recommend it to everyone.", "Five stars from me.", "A joy to use.")
BAD_END = ("I sent it back.", "I want a refund.", "One star is too many.", "Avoid it.")
INTENTS: dict[str, tuple[str, ...]] = {
    "cancel": ("Please end my {0} at the next possible date.", "I no longer need the {0}, stop it please."),
    "refund": ("I want my money back for the {0}.", "You charged me twice for the {0}, please pay it back."),
    "status": ("Where is the {0} that I ordered?", "Has the {0} been shipped yet?"),
    "repair": ("The {0} does not switch on any more, can you fix it?", "The {0} leaks, who can mend it?"),
    "price": ("How much does the {0} cost?", "Is there a discount on the {0}?"),
}
THINGS = ("coffee machine", "phone contract", "dishwasher", "newspaper subscription", "heater", "printer")


def topic(r: Random) -> Row:
    """Two sentences of one of eight topics."""
    label = r.choice(sorted(TOPICS))
    text = " ".join(r.sample(TOPICS[label], 2))
    names = ", ".join(sorted(TOPICS))
    others = [f" {t}" for t in sorted(TOPICS) if t != label]
    return choice(
        "topic",
        f"Topics: {names}.\nText: {text}\nTopic:",
        f" {label}",
        others,
        f"Which of these topics fits: {names}? Text: {text}",
        r,
    )


def sentiment(r: Random) -> Row:
    """A review that is clearly good or clearly bad."""
    label = r.choice(("positive", "negative"))
    body, end = (GOOD, GOOD_END) if label == "positive" else (BAD, BAD_END)
    text = f"The {r.choice(PRODUCTS)} {r.choice(body)}. {r.choice(end)}"
    other = " negative" if label == "positive" else " positive"
    return choice(
        "sentiment",
        f"Review: {text}\nSentiment (positive or negative):",
        f" {label}",
        [other],
        f"Is this review positive or negative? {text}",
        r,
    )


def intent(r: Random) -> Row:
    """What a customer's message asks for."""
    label = r.choice(sorted(INTENTS))
    text = r.choice(INTENTS[label]).format(r.choice(THINGS))
    names = ", ".join(sorted(INTENTS))
    return choice(
        "intent",
        f"Message: {text}\nIntent ({names}):",
        f" {label}",
        [f" {i}" for i in sorted(INTENTS) if i != label],
        f"What does the customer want ({names})? {text}",
        r,
    )


MAKERS = (topic, sentiment, intent)
