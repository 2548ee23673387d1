"""The text that requests are made of, and that perplexity is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quire.errors import ConfigError, ModelNotFoundError

PAGE = "faq.md"
_PATHS = (Path(__file__).parent / PAGE, Path(__file__).parents[3] / "docs" / PAGE)
"""Where the page is in an installed package, and in the repository."""


@dataclass(frozen=True)
class Passage:
    """Text that is scored: the answer to a question, in the model's own format, or bare text."""

    text: str
    question: str | None = None


def own_page() -> str:
    """quire's own page of questions and answers, which comes with it.

    Raises:
        ModelNotFoundError: the installation lacks it.
    """
    for file in _PATHS:
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise ModelNotFoundError(f"This installation of quire lacks {PAGE}: install it again.")


def own_passages() -> tuple[Passage, ...]:
    """The page's answers, each with its question: the headings of the third level."""
    passages: list[Passage] = []
    for block in own_page().split("\n### ")[1:]:
        heading, _, text = block.partition("\n")
        passages.append(Passage(text.split("\n## ")[0].strip(), heading.strip()))
    return tuple(passages)


def read_passages(path: Path) -> tuple[Passage, ...]:
    """The user's own text, as one bare passage.

    Raises:
        ConfigError: it cannot be read, is no UTF-8 text, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"Cannot read {path}: {reason}.") from None
    if not text.strip():
        raise ConfigError(f"{path} is empty: there is nothing to measure the perplexity on.")
    return (Passage(text),)


class Questions:
    """Makes questions of a wanted length; no two begin alike, so that the prefix cache gives no help."""

    def __init__(self, text: str, characters_per_token: float) -> None:
        self._words = text.split()
        self._characters_per_token = characters_per_token
        self._number = 0

    def make(self, tokens: int) -> str:
        """About `tokens` tokens of text: other words each time."""
        self._number += 1
        start = f"{self._number}: "
        room = max(1, round(tokens * self._characters_per_token) - len(start))
        index = self._number * 7919  # a prime, so that each question begins at another word
        chosen: list[str] = []
        while room > 0:
            word = self._words[index % len(self._words)]
            chosen.append(word)
            room -= len(word) + 1
            index += 1
        return start + " ".join(chosen)
