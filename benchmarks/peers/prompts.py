"""Prompts of an exact length, the same for all peers, and new ones for each turn."""

from __future__ import annotations

import random
import re
from pathlib import Path

from benchmarks.peers.worker import Prompt


class PromptMaker:
    """Makes prompts of whole words that are one token each."""

    def __init__(self, model: Path, seed: int = 0) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._words = [
            (f" {word[1:]}", number)
            for word, number in sorted(tokenizer.get_vocab().items())
            if re.fullmatch("[Ġ▁][a-z]{3,}", word)
            and tokenizer.encode(f" {word[1:]}", add_special_tokens=False).ids == [number]
        ]
        self._random = random.Random(seed)

    def make(self, count: int, length: int, shared: int = 0) -> list[Prompt]:
        """`count` prompts of `length` tokens, the first `shared` of which they have in common.

        A prompt is never given twice, so that no peer finds it in a cache of prefixes.
        """
        start = self._random.choices(self._words, k=shared)
        prompts: list[Prompt] = []
        for _ in range(count):
            words = [*start, *self._random.choices(self._words, k=length - shared)]
            prompts.append(
                Prompt("".join(word for word, _ in words), [number for _, number in words])
            )
        return prompts
