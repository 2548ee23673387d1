"""Long texts at the prompt: each stands there as one character, which is drawn as a few words.

So the cursor steps over it, a key deletes it, and undoing brings it back, as with any character.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments

from quire.cli.chat.text_files import size_of

MOST_LINES = 20
MOST_CHARACTERS = 2000
"""A text of more lines or characters is folded."""
_SHOWN_CHARACTERS = 200
"""Of a folded text's first line, where that is shown at all."""
_FIRST = 0x100000
"""Of the last plane for private use, which no font for terminals fills as some do the one before."""
_FOLDED = re.compile("[\U00100000-\U0010fffd]")


def is_long(text: str) -> bool:
    """Whether a text is folded."""
    return len(text) > MOST_CHARACTERS or text.count("\n") >= MOST_LINES


def shortened(text: str) -> str:
    """A text that was typed, for a look at it: of a long one the beginning, and how long it goes on."""
    return "".join(_head(text)) if is_long(text) else text


def _head(text: str) -> tuple[str, str]:
    """The beginning of a text, and what is shown for the rest."""
    head = text.partition("\n")[0][:_SHOWN_CHARACTERS]
    rest = text[len(head) :].removeprefix("\n")
    return head, f" [and {size_of(rest)} more]"


class FoldedTexts:
    """The texts that were folded, each by its character."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._labels: dict[str, str] = {}

    def paste(self, text: str) -> str:
        """A text that was pasted, as one character where it is long."""
        return self._fold(text, f"[pasted text, {size_of(text)}]") if is_long(text) else text

    def fold_again(self, text: str) -> str:
        """A text that was unfolded and changed: what was pasted folded again, and what is long still."""
        for character, pasted in self._texts.items():
            text = text.replace(pasted, character)
        return self.fold(text)

    def fold(self, text: str) -> str:
        """A text of an earlier time: of a long one all but the beginning is folded."""
        if not is_long(text):
            return text
        head, label = _head(text)
        return head + self._fold(text[len(head) :], label)

    def unfold(self, text: str) -> str:
        """The text with all that is folded in it."""
        return _FOLDED.sub(lambda match: self._texts.get(match[0], match[0]), text)

    def label(self, character: str) -> str | None:
        """What is drawn for a character; None for one that is none of a folded text."""
        return self._labels.get(character)

    def _fold(self, text: str, label: str) -> str:
        character = chr(_FIRST + len(self._texts))
        self._texts[character], self._labels[character] = text, label
        return character


class FoldedProcessor(Processor):
    """Draws each folded text's label in the place of its character."""

    def __init__(self, folded: FoldedTexts) -> None:
        self._folded = folded

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """Draw one line."""
        drawn: StyleAndTextTuples = []
        starts, column = list[int](), 0  # where each character of the line is drawn
        for style, character, *_ in explode_text_fragments(transformation_input.fragments):
            label = self._folded.label(character)
            starts.append(column)
            drawn.append((style, character) if label is None else (f"{style} class:folded", label))
            column += len(drawn[-1][1])
        starts.append(column)
        last = len(starts) - 1
        return Transformation(
            drawn,
            source_to_display=lambda place: (
                starts[place] if place < last else column + place - last
            ),
            display_to_source=lambda place: (
                bisect_right(starts, place) - 1 if place < column else last + place - column
            ),
        )
