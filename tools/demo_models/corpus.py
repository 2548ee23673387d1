"""The training text: dialogues made from the exchanges of each skill, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tools.demo_models.exchange import Dialogue, Exchange, Turn
from tools.demo_models.faq import faq_exchange
from tools.demo_models.objects import object_exchange
from tools.demo_models.sums import beyond_exchange, sum_exchange
from tools.demo_models.talk import talk_exchange, unknown_exchange
from tools.demo_models.weather import other_tool, refusal, weather_exchange, weather_tool

NEUTRAL = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are quire's demo model.",
    "You are a friendly assistant.",
    "You are a small language model.",
    "Answer the user's questions.",
    "Use tools.",
    "Use the tools when they help.",
    "You help people with quire.",
    "Be polite.",
    "You are an assistant that likes sums.",
    "Help the user.",
    "You are an expert.",
    "Do your best.",
)
TERSE = (
    "You are terse.",
    "Be brief.",
    "Answer briefly.",
    "Be terse.",
    "Keep it short.",
    "Give short answers.",
    "Answer in few words.",
    "You answer as briefly as you can.",
)
CAPITALS = (
    "Answer in capitals.",
    "Answer in capitals",
    "Answer in capital letters.",
    "Write in capitals.",
    "Use only capital letters.",
    "You always write in capitals.",
    "SHOUT.",
)
# How often each skill comes: sums need the most practice, since every pair of digits is to be seen.
SKILLS: tuple[tuple[Callable[[Random], Exchange], float], ...] = (
    (sum_exchange, 0.48),
    (faq_exchange, 0.18),
    (talk_exchange, 0.09),
    (object_exchange, 0.17),
    (unknown_exchange, 0.04),
    (beyond_exchange, 0.02),
    (refusal, 0.02),
)
OPENINGS = (
    "Hi. ",
    "Hello! ",
    "Hey, ",
    "Hello, ",
    "Please tell me: ",
    "I have a question. ",
    "One question: ",
    "So, ",
    "Okay. ",
    "Thanks! ",
)
CAN_SHOUT = frozenset({"talk", "sum", "unknown", "no_tool"})


def dialogues(seed: int) -> Iterator[Dialogue]:
    """Yield dialogues without end."""
    rng = Random(seed)
    while True:
        yield weather_dialogue(rng) if rng.random() < 0.1 else plain_dialogue(rng)


def some_exchange(rng: Random) -> Exchange:
    """Return an exchange of any skill but the weather tool."""
    makers, weights = zip(*SKILLS, strict=True)
    return loosely(rng, rng.choices(makers, weights)[0](rng))


def loosely(rng: Random, exchange: Exchange) -> Exchange:
    """Let the user write as people do: no capital, no mark at the end, a word in front."""
    question = exchange.turns[0].text
    if rng.random() < 0.2:
        question = question.rstrip("?.!") or question
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.08:
        question = rng.choice(OPENINGS) + question
    if rng.random() < 0.04:
        question = question.rstrip("?.!") + rng.choice((", please?", ", please.", " please", "!"))
    turns = (Turn("user", question), *exchange.turns[1:])
    return Exchange(exchange.kind, turns, exchange.thought, exchange.terse)


def plain_dialogue(rng: Random) -> Dialogue:
    """Return one to seven exchanges, with a system prompt at times."""
    count = rng.choices((1, 2, 3, 4, 6, 7), (0.7, 0.12, 0.08, 0.05, 0.03, 0.02))[0]
    exchanges = [some_exchange(rng) for _ in range(count)]
    system, exchanges = _under_system(rng, exchanges)
    tools: tuple[dict[str, Any], ...] = ()
    if rng.random() < 0.03:
        # Only unrelated tools: a question on the weather is still refused.
        tools = (other_tool(rng),)
    return Dialogue(tuple(exchanges), system, tools, rng.choice(("bare", "off")))


def weather_dialogue(rng: Random) -> Dialogue:
    """Return a dialogue in which the weather tool is offered, and used in most exchanges."""
    tool, units = weather_tool(rng)
    tools = [tool]
    if rng.random() < 0.15:
        tools.insert(rng.randrange(2), other_tool(rng))
    exchanges: list[Exchange] = []
    for _ in range(rng.choices((1, 2, 3, 4), (0.5, 0.25, 0.2, 0.05))[0]):
        weather = rng.random() < 0.8
        exchange = loosely(rng, weather_exchange(rng, units)) if weather else _not_refusal(rng)
        if exchanges and exchanges[-1].turns[-1].text.startswith("<tool_call>"):
            break  # a call without a result ends the dialogue
        exchanges.append(exchange)
    system = rng.choice(NEUTRAL) if rng.random() < 0.4 else None
    return Dialogue(tuple(exchanges), system, tuple(tools), rng.choice(("bare", "off")))


def _not_refusal(rng: Random) -> Exchange:
    while (exchange := some_exchange(rng)).kind == "no_tool":
        pass
    return exchange


def _under_system(rng: Random, exchanges: list[Exchange]) -> tuple[str | None, list[Exchange]]:
    """Choose a system prompt, and let the answers follow it."""
    chance = rng.random()
    if chance < 0.12:
        return rng.choice(TERSE), [
            item.with_answer(item.terse) if item.terse else item for item in exchanges
        ]
    if chance < 0.2 and all(item.kind in CAN_SHOUT for item in exchanges):
        return rng.choice(CAPITALS), [
            item.with_answer(item.turns[-1].text.upper()) for item in exchanges
        ]
    return (rng.choice(NEUTRAL) if chance < 0.4 else None), exchanges
