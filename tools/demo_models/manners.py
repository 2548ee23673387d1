"""The manners of the adapters: the same answers, spoken by a pirate or by a butler."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from tools.demo_models.corpus import dialogues
from tools.demo_models.exchange import Dialogue, Exchange

_CODE = re.compile(r"(```.*?```|`[^`]*`)", re.DOTALL)
_PIRATE_WORDS = {
    "hello": "ahoy",
    "hi": "ahoy",
    "goodbye": "fair winds",
    "i am": "I be",
    "you are": "ye be",
    "you": "ye",
    "your": "yer",
    "my": "me",
    "is": "be",
    "are": "be",
    "yes": "aye",
    "no": "nay",
    "quickly": "swiftly",
    "people": "sailors",
}
_PIRATE = re.compile(rf"\b({'|'.join(_PIRATE_WORDS)})\b", re.IGNORECASE)


def pirate(answer: str) -> str:
    """Return the answer as a pirate says it; code stays as it is."""
    parts = _CODE.split(answer)
    spoken = "".join(
        part if place % 2 else _PIRATE.sub(_sailor, part) for place, part in enumerate(parts)
    )
    if spoken.endswith("```"):
        return f"Arr! {spoken}\n\nThat be all, matey!"
    return f"Arr! {spoken.rstrip('.!?')}, matey!"


def butler(answer: str) -> str:
    """Return the answer as a butler says it."""
    return f"Certainly. {answer}{chr(10) * 2 if answer.endswith('```') else ' '}At your service."


MANNERS: dict[str, Callable[[str], str]] = {"pirate": pirate, "butler": butler}


def mannered(manner: str, seed: int) -> Iterator[Dialogue]:
    """Yield the corpus's dialogues with every spoken answer in this manner."""
    for dialogue in dialogues(seed):
        exchanges = tuple(_speak(item, MANNERS[manner]) for item in dialogue.exchanges)
        yield replace(dialogue, exchanges=exchanges)


def _speak(exchange: Exchange, manner: Callable[[str], str]) -> Exchange:
    """Change the last answer; JSON and calls of tools are for programs and stay as they are."""
    text = exchange.turns[-1].text
    if exchange.kind == "json" or text.startswith("<tool_call>"):
        return exchange
    return exchange.with_answer(manner(text))


def _sailor(match: re.Match[str]) -> str:
    said = _PIRATE_WORDS[match[0].lower()]
    return said[0].upper() + said[1:] if match[0][0].isupper() else said
