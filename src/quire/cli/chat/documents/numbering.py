"""Numbers of lists and headings, as they are written before them."""

from __future__ import annotations

LEVELS = 9
LONGEST_LABEL = 50
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"),
    (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip


class Counters:
    """The numbers of a list's levels: one that goes on lets those below begin anew."""

    def __init__(self) -> None:
        self.values: list[int | None] = [None] * LEVELS

    def advance(self, level: int, start: int) -> None:
        """Count an item of a level."""
        value = self.values[level]
        self.values[level] = start if value is None else value + 1
        self.values[level + 1 :] = [None] * (LEVELS - level - 1)


def written(value: int, form: str) -> str:
    """A number in one of the forms that Word has names for; in digits in all others."""
    if form == "none":
        return ""
    if form == "decimalZero":
        return f"{value:02}"
    if form in ("lowerLetter", "upperLetter") and 0 < value <= 780:
        letters = _LETTERS[(value - 1) % 26] * ((value - 1) // 26 + 1)
        return letters.upper() if form == "upperLetter" else letters
    if form in ("lowerRoman", "upperRoman") and 0 < value < 4000:
        return _roman(value).upper() if form == "upperRoman" else _roman(value)
    return str(value)


def _roman(value: int) -> str:
    text = ""
    for worth, letters in _ROMAN:
        text += letters * (value // worth)
        value %= worth
    return text
