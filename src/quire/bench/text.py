"""The text that requests are made of, and that perplexity is measured on."""

from __future__ import annotations

from pathlib import Path

from quire.errors import ConfigError, ModelNotFoundError

PAGES = ("faq.md", "architecture.md", "deployment.md")
_INSTALLED = Path(__file__).parent / "pages"
_REPOSITORY = Path(__file__).parents[3] / "docs"


def own_text() -> str:
    """quire's own documentation, which comes with it: about 4,000 words.

    Raises:
        ModelNotFoundError: the installation lacks it.
    """
    for folder in (_INSTALLED, _REPOSITORY):
        if all((folder / page).is_file() for page in PAGES):
            return "\n\n".join((folder / page).read_text(encoding="utf-8") for page in PAGES)
    raise ModelNotFoundError(
        f"This installation of quire lacks {', '.join(PAGES)}: install it again, or give --text FILE."
    )


def read_text(path: Path) -> str:
    """The user's own text.

    Raises:
        ConfigError: it cannot be read, or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"Cannot read {path}: {reason}.") from None


class Questions:
    """Makes questions of a wanted length; no two begin alike, so that no cache of prefixes helps."""

    def __init__(self, text: str, characters_per_token: float) -> None:
        self._words = text.split()
        self._characters_per_token = characters_per_token
        self._number = 0

    def make(self, tokens: int) -> str:
        """About `tokens` tokens of text: other words each time."""
        self._number += 1
        start = f"{self._number}: "
        room = max(1, round(tokens * self._characters_per_token) - len(start))
        place = self._number * 7919 % len(self._words)
        found: list[str] = []
        while room > 0:
            word = self._words[place % len(self._words)]
            found.append(word)
            room -= len(word) + 1
            place += 1
        return start + " ".join(found)
