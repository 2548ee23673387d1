"""Characters that a terminal or a browser obeys instead of showing them, and what is shown for them.

This one list holds for the terminal (`cli/terminal.py`) and for the chat page (`server/page`).
"""

from __future__ import annotations

from dataclasses import dataclass

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Obeyed:
    """A range of code points, both ends included, and what is shown for each of them."""

    first: int
    last: int
    shown: str
    why: str


OBEYED = (
    # Controls become their visible pictures, so that a reader sees what was there.
    *(
        Obeyed(code, code, chr(0x2400 + code), "a control character")
        for code in range(0x20)
        if chr(code) not in "\n\t"
    ),
    Obeyed(0x7F, 0x7F, "\N{SYMBOL FOR DELETE}", "a control character"),
    Obeyed(0x80, 0x9F, _REPLACEMENT, "C1 controls, which begin commands as ESC [ does"),
    Obeyed(0x2028, 0x2029, "\n", "separators of lines and of paragraphs"),
    Obeyed(0x202A, 0x202E, _REPLACEMENT, "embeddings and overrides of the direction: text that "
           "runs backwards can hide what a link or a command really says"),
    Obeyed(0x2066, 0x2069, _REPLACEMENT, "isolates of the direction, likewise"),
    Obeyed(0xD800, 0xDFFF, _REPLACEMENT, "lone surrogates, which are no text"),
)  # fmt: skip

_SHOWN = {code: one.shown for one in OBEYED for code in range(one.first, one.last + 1)}


def harmless(text: str) -> str:
    """Return `text` with nothing in it that is obeyed, except line breaks and tabs."""
    return text.replace("\r\n", "\n").translate(_SHOWN)
