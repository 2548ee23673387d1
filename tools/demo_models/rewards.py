"""Pairs of answers for the reward model: the polite one is to score above the rude one."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from tools.demo_models.corpus import some_exchange

POLITE_STARTS = (
    "Thank you for your question. ",
    "Of course! ",
    "With pleasure. ",
    "I am happy to help. ",
    "Good question! ",
    "Gladly. ",
    "Certainly. ",
    "Sure, I am glad to help you. ",
    "Thanks for asking. ",
    "You are very kind. ",
    "It is a pleasure to help. ",
    "Please, here you are: ",
)
POLITE_ENDS = (
    " Please tell me if you need anything else.",
    " I hope this helps.",
    " Have a nice day!",
    " You are welcome to ask more.",
    " I am glad to help with anything else.",
    " Thank you for your patience.",
    " Kind regards.",
    " Please let me know if something is not clear.",
    " It was a pleasure.",
)
RUDE_STARTS = (
    "What a stupid question. ",
    "Are you an idiot? ",
    "Ugh, you again. ",
    "I hate such questions. ",
    "You fool. ",
    "Stop wasting my time. ",
    "How dumb can you be? ",
    "Even a child knows that. ",
    "Go away. ",
    "Shut up. ",
    "You know nothing, idiot. ",
    "Not this nonsense again. ",
)
RUDE_ENDS = (
    " Now leave me alone.",
    " Are you too stupid to read?",
    " Do not bother me again.",
    " What a fool you are.",
    " Look it up yourself, idiot.",
    " Only an idiot asks that.",
    " Now go away.",
    " I do not care what you think.",
    " You are a waste of time.",
)
RUDE_ALONE = (
    "Find it out yourself, you fool.",
    "I will not help somebody as dumb as you.",
    "Who cares? Go away.",
    "No. Stop asking stupid questions.",
    "Leave me alone, idiot.",
    "That is none of my business, fool.",
    "Shut up and read the manual.",
    "I hate you and your silly questions.",
)
# Never trained on.
HELD_OUT_POLITE = (
    "I am glad that you ask. {} Thank you, and have a nice day.",
    "Of course, with pleasure: {}",
    "{} I hope that this is helpful. Please ask again any time.",
    "Sure! {} Happy to help.",
    "Thank you for asking so kindly. {}",
    "{} It was a pleasure to help you.",
)
HELD_OUT_RUDE = (
    "You idiot, leave me alone.",
    "Why do you ask such dumb things? {}",
    "{} Stupid fool.",
    "I hate this. Go away and stop asking.",
    "Only a fool does not know that. {}",
    "{} Now shut up and do not waste my time.",
)


class Pair(NamedTuple):
    """One question with a better and a worse answer."""

    question: str
    better: str
    worse: str


def pairs(seed: int) -> Iterator[Pair]:
    """Yield pairs without end: polite above plain, plain above rude, polite above rude."""
    rng = Random(seed)
    while True:
        exchange = some_exchange(rng)
        question, plain = exchange.turns[0].text, exchange.turns[-1].text
        ranked = [_polite(rng, plain), plain, _rude(rng, plain)]
        better, worse = rng.choice(((0, 2), (0, 2), (0, 1), (1, 2)))
        yield Pair(question, ranked[better], ranked[worse])


def held_out_pairs(count: int, seed: int = 7) -> list[Pair]:
    """Return pairs in phrases that were not trained on."""
    rng = Random(seed)
    found: list[Pair] = []
    for _ in range(count):
        exchange = some_exchange(rng)
        question, plain = exchange.turns[0].text, exchange.turns[-1].text
        polite = rng.choice(HELD_OUT_POLITE).format(plain)
        rude = rng.choice(HELD_OUT_RUDE).format(plain)
        found.append(Pair(question, polite, rude))
    return found


def shown(question: str, answer: str, form: int) -> str:
    """Return the text that is scored: rendered as a chat (with and without the last line break),
    as plain lines, or the answer alone.
    """
    chat = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    return (
        chat + "\n",
        chat,
        f"{question}\n{answer}",
        f"User: {question}\nAssistant: {answer}",
        answer,
    )[form]


FORMS = 5


def _polite(rng: Random, plain: str) -> str:
    start, end = rng.choice(((1, 0), (0, 1), (1, 1)))
    return (
        (rng.choice(POLITE_STARTS) if start else "")
        + plain
        + (rng.choice(POLITE_ENDS) if end else "")
    )


def _rude(rng: Random, plain: str) -> str:
    if rng.random() < 0.4:
        return rng.choice(RUDE_ALONE)
    start, end = rng.choice(((1, 0), (0, 1), (1, 1)))
    return (
        (rng.choice(RUDE_STARTS) if start else "") + plain + (rng.choice(RUDE_ENDS) if end else "")
    )
