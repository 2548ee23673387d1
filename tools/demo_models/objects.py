"""JSON objects and lists on request, their keys and values copied from the question."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tools.demo_models.exchange import Exchange
from tools.demo_models.names import CITIES, WORDS, city, made_up, person, words

NUMBER_KEYS = words(
    "age id price count year size weight height score level page floor total rank speed"
)
WORD_KEYS = words(
    "colour color job title animal fruit drink season subject hobby status country team language "
    "material kind brand label"
)
FLAG_KEYS = words("active open done ready visible enabled")

_FRAMES = (
    "Give me a JSON object with {pairs}",
    "Give me a JSON object with {pairs}.",
    "Give me JSON with {pairs}.",
    "Write a JSON object with {pairs}.",
    "Write JSON with {pairs}",
    "Return a JSON object with {pairs}.",
    "Return JSON with {pairs}",
    "Make a JSON object with {pairs}.",
    "Make JSON: {pairs}",
    "JSON with {pairs}, please.",
    "Please write a JSON object with {pairs}.",
    "I need a JSON object with {pairs}.",
    "Can you write a JSON object with {pairs}?",
    "Show me a JSON object with {pairs}.",
    "Answer with JSON: {pairs}",
    "Create a JSON object with {pairs}.",
    "Put {pairs} in a JSON object.",
    "Write {pairs} as JSON.",
    "JSON: {pairs}",
)
_LISTS = (
    "Give me a JSON list of {items}.",
    "Write a JSON list with {items}",
    "Return a JSON array with {items}.",
    "Make a JSON list of {items}",
    "JSON list: {items}",
)


def object_exchange(rng: Random) -> Exchange:
    """Return a request for a JSON object, or for a list at times."""
    if rng.random() < 0.12:
        return _list_exchange(rng)
    wanted = _pairs(rng)
    return ask(rng, wanted)


def ask(rng: Random, wanted: dict[str, Any]) -> Exchange:
    """Return a request for exactly this object, in any of the ways to ask for it."""
    link = rng.choice((" ", " ", " ", " = ", "=", ": ", " is "))
    pairs = [f"{key}{link}{_spoken(rng, value)}" for key, value in wanted.items()]
    question = rng.choice(_FRAMES).format(pairs=_joined(rng, pairs))
    return Exchange.plain("json", question, json.dumps(wanted))


def _pairs(rng: Random) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for _ in range(rng.choice((1, 2, 2, 2, 3, 3, 4))):
        key, value = _pair(rng)
        wanted.setdefault(key, value)
    return wanted


def _pair(rng: Random) -> tuple[str, Any]:
    chance = rng.random()
    if chance < 0.3:
        return "name", person(rng)
    if chance < 0.4:
        return "city", city(rng)
    if chance < 0.68:
        number = rng.choice((rng.randrange(100), rng.randrange(10), rng.randrange(3000)))
        return rng.choice(["age", "age", *NUMBER_KEYS]), number
    if chance < 0.78:
        return rng.choice(FLAG_KEYS), rng.random() < 0.5
    key = rng.choice(WORD_KEYS) if rng.random() < 0.75 else made_up(rng).lower()
    return key, _word(rng)


def _word(rng: Random) -> str:
    chance = rng.random()
    if chance < 0.4:
        return rng.choice(WORDS)
    return made_up(rng).lower() if chance < 0.7 else made_up(rng)


def _list_exchange(rng: Random) -> Exchange:
    count = rng.choice((2, 3, 3, 4))
    makers = (lambda: rng.randrange(100), lambda: _word(rng), lambda: rng.choice(CITIES))
    maker = rng.choice(makers)
    items = [maker() for _ in range(count)]
    question = rng.choice(_LISTS).format(items=_joined(rng, [str(item) for item in items]))
    return Exchange.plain("json", question, json.dumps(items))


def _spoken(rng: Random, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and rng.random() < 0.1:
        return f'"{value}"'
    return str(value)


def _joined(rng: Random, parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    last = ", " if rng.random() < 0.15 else " and "
    return ", ".join(parts[:-1]) + last + parts[-1]
