"""Texts as the words that ROUGE compares: those of jieba, as LLaMA-Factory has them.

jieba's dictionary matters only where there are Han characters. All other text is divided here, into
the very words that jieba would make of it, and needs neither the package nor the second in which it
reads its dictionary.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from quire.errors import ConfigError

_BLOCK = re.compile(r"([\u4e00-\u9fd5a-zA-Z0-9+#&._%-]+)")
"""What jieba divides as one piece: Han characters, and what may stand in a word of ASCII."""
_HAN = re.compile(r"[\u4e00-\u9fd5]")
_DICTIONARY_ASCII = re.compile(r"(AT&T|[cC]#|[cC]\+\+)")
"""The words of jieba's dictionary that have no Han character. None can overlap another, and each is
likelier than its characters alone, so that it is a word wherever it stands."""
_NUMBER_OR_NAME = re.compile(r"([a-zA-Z0-9]+(?:\.[0-9]+)?%?)")
_SPACE = re.compile(r"(\r\n|\s)")

_SENTENCE_END = re.compile(r"([。！？?])(.)", re.DOTALL)
_SIX_DOTS = re.compile(r"(\.{6})(.)", re.DOTALL)


def check_can_divide() -> None:
    """Check that texts with Han characters can be divided.

    Raises:
        ConfigError: jieba is not installed.
    """
    if importlib.util.find_spec("jieba") is None:
        raise ConfigError(
            'ROUGE of texts with Chinese characters needs jieba: pip install "quire-llm[batch]".'
        )


def rouge_words(text: str) -> list[str]:
    """The words of a text, as rouge-chinese has them of jieba's words joined by spaces.

    A line of white space alone is one empty word; lines end at a line feed, and after what ends a
    Chinese sentence.

    Raises:
        ConfigError: the text has Han characters, and jieba is not installed.
    """
    joined = " ".join(cut(text))
    if not joined.strip():
        return []
    for end in (_SENTENCE_END, _SIX_DOTS):
        joined = end.sub(r"\1\n\2", joined)
    lines = filter(None, joined.rstrip().split("\n"))
    return [word for line in lines for word in line.split() or [""]]


def cut(text: str) -> Iterator[str]:
    """The words of a text, white space included, exactly as `jieba.cut` gives them.

    Raises:
        ConfigError: the text has Han characters, and jieba is not installed.
    """
    # With a group in the pattern, every second piece is one that it matched.
    for index, piece in enumerate(_BLOCK.split(text)):
        if len(piece) == 1 or (index % 2 and piece.isascii() and piece.isalnum()):
            yield piece
        elif not index % 2:
            yield from _cut_others(piece)
        elif _HAN.search(piece):
            yield from _jieba()(piece)
        else:
            yield from _cut_ascii(piece)


def _cut_others(text: str) -> Iterator[str]:
    """Each character by itself, but the two of a line's end."""
    for index, piece in enumerate(_SPACE.split(text)):
        if index % 2:
            yield piece
        else:
            yield from piece


def _cut_ascii(block: str) -> Iterator[str]:
    for index, piece in enumerate(_DICTIONARY_ASCII.split(block)):
        if index % 2:
            yield piece
        else:
            yield from filter(None, _NUMBER_OR_NAME.split(piece))


@functools.cache
def _jieba() -> Callable[[str], Iterable[str]]:
    check_can_divide()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its source is of before Python 3.12
        import jieba

    jieba.setLogLevel(logging.CRITICAL)
    tokenizer: Any = jieba.Tokenizer()
    # It would keep its dictionary in the system's folder for temporary files, and run what anybody
    # has put there by that name. Below this no file can be.
    tokenizer.tmp_dir = os.devnull
    tokenizer.initialize()
    return tokenizer.cut
