"""The questions and answers of `docs/faq.md`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

from tools.demo_models.exchange import Exchange
from tools.demo_models.questions import paraphrases

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faq.md"


@cache
def answers(page: Path = PAGE) -> dict[str, str]:
    """Read the page: the headings of the third level, each with the text below it."""
    found: dict[str, str] = {}
    for block in page.read_text("utf-8").split("\n### ")[1:]:
        heading, text = block.split("\n", 1)
        found[heading.strip()] = text.split("\n## ")[0].strip()
    return found


@cache
def _asked() -> tuple[tuple[str, str], ...]:
    """Return every known way to ask, with its heading."""
    return tuple((way, heading) for heading, ways in paraphrases().items() for way in ways)


def faq_exchange(rng: Random) -> Exchange:
    """Return one question of the page, in any of the ways to ask it, and the page's answer."""
    if rng.random() < 0.6:
        heading = rng.choice(tuple(paraphrases()))
        way = rng.choice(paraphrases()[heading])
    else:
        way, heading = rng.choice(_asked())
    text = answers()[heading]
    return Exchange.plain("faq", way, text, terse=first_sentence(text))


def first_sentence(text: str) -> str:
    """Return the text up to the end of its first sentence, or all of it where code follows."""
    if "```" in text:
        return text
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]
