"""The vocabulary in a GGUF file's metadata, with everything checked that is made use of.

What contradicts itself is refused. What llama.cpp puts up with as well is mended, and noted: a special
token's id that no token has, tokens without text, tokens that are no UTF-8, and (where llama.cpp stops) the
same token twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from quire.errors import UnsupportedModelError, WeightsError
from quire.gguf.reader import StringList, Value

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""The types of tokens."""
PURPOSES = (UNKNOWN, CONTROL, USER_DEFINED)
"""The types of tokens that are looked for in a text as they are."""

_MOST_TEXTS = 1 << 22  # tokens or merges: the largest known lists have half a million
_MOST_BYTES = 1 << 24  # of all tokens: a quarter of a million of them have two million
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")
_SHAPE = re.compile(r"[<\[].+[>\]]", re.DOTALL)
"""What a special token looks like, where the file gives no types or a wrong one."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The metadata, read key by key, and what its user should hear of it."""

    metadata: Mapping[str, Value]
    source: str
    notes: list[str] = field(default_factory=list[str])

    def wrong(self, problem: str) -> WeightsError:
        return WeightsError(f"{self.source}: {problem}")

    def unsupported(self, problem: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.source}: {problem}")

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(f"{key} is no text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(f"{key} is {_shown(value)}; it must be true or false")
        return value

    def strings(self, key: str) -> StringList:
        value = self.metadata.get(key)
        if value is None:
            raise self.wrong(
                f"{key} is missing, so that the file has no tokenizer that can be read"
            )
        if not isinstance(value, StringList):
            raise self.wrong(f"{key} is no list of texts")
        if len(value) > _MOST_TEXTS:
            raise self.wrong(
                f"{key} has {len(value):,} texts, and {_MOST_TEXTS:,} are the most that is read: it is "
                "damaged, or made to do harm"
            )
        return value

    def numbers(self, key: str, kinds: tuple[type, ...], count: int) -> NDArray[Any] | None:
        """A list with a number for each token, of one of these types."""
        value = self.metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.dtype.type not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise self.wrong(f"{key} is no list of numbers of the type {names}")
        if len(value) != count:
            raise self.wrong(f"{key} has {len(value):,} numbers, and there are {count:,} tokens")
        return value

    def token_id(self, key: str, count: int) -> int | None:
        """The id of a special token: none if no token has it, as old converters wrote."""
        value = self.metadata.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(f"{key} is {_shown(value)}; it must be a token's id")
        if 0 <= value < count:
            return value
        self.notes.append(
            f"{key} is {value}, and there are only {count:,} tokens: it is left aside."
        )
        return None


def _shown(value: object) -> str:
    return f"a value of the type {type(value).__name__}" if len(repr(value)) > 40 else repr(value)


@dataclass(frozen=True, slots=True)
class FileVocabulary:
    """The tokens by their ids."""

    tokens: list[str]
    """All different, none without text."""
    ids: Mapping[str, int]
    types: NDArray[np.int32]
    """They are all `NORMAL` where the file has none."""
    scores: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.tokens)

    def looks_special(self, number: int) -> bool:
        """Whether a token that the file names for a purpose is made for one, and no comma or letter."""
        kind = self.types[number]
        return kind in PURPOSES or (kind != BYTE and bool(_SHAPE.fullmatch(self.tokens[number])))


TOKENS: Final = "tokenizer.ggml.tokens"
_TYPES, _SCORES = "tokenizer.ggml.token_type", "tokenizer.ggml.scores"


def read_vocabulary(keys: Keys) -> FileVocabulary:
    """Read and check the tokens, their types and their scores.

    Raises:
        WeightsError: they are missing, or contradict each other.
    """
    tokens = _read_tokens(keys)
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens) or "" in ids:
        tokens = _made_different(keys, tokens, ids)
        ids = dict(zip(tokens, range(len(tokens)), strict=True))
    return FileVocabulary(tokens, ids, _read_types(keys, tokens), _read_scores(keys, len(tokens)))


def _read_tokens(keys: Keys) -> list[str]:
    raw = list(keys.strings(TOKENS))
    if not raw:
        raise keys.wrong(f"{TOKENS} is empty")
    if (size := sum(map(len, raw))) > _MOST_BYTES:
        raise keys.wrong(
            f"{TOKENS} has {size:,} bytes, and {_MOST_BYTES:,} are the most that is read: it is damaged, "
            "or made to do harm"
        )
    try:
        return [token.decode() for token in raw]
    except UnicodeDecodeError:
        pass
    tokens: list[str] = []
    invalid: list[int] = []
    for number, token in enumerate(raw):
        try:
            tokens.append(token.decode())
        except UnicodeDecodeError:
            tokens.append(f"[INVALID_{number}]")
            invalid.append(number)
    keys.notes.append(f"{_these(invalid)} no UTF-8: no text becomes such a token.")
    return tokens


def _made_different(keys: Keys, tokens: list[str], ids: Mapping[str, int]) -> list[str]:
    """Give names of their own to tokens that have no text, or that of an earlier one."""
    seen: set[str] = set()
    different: list[str] = []
    duplicates: list[int] = []
    for number, token in enumerate(tokens):
        name = token
        if not token or token in seen:
            name = f"[{'DUPLICATE' if token else 'EMPTY'}_{number}]"
            while name in ids or name in seen:
                name = f"[{name}]"
            if token:
                duplicates.append(number)
        seen.add(name)
        different.append(name)
    if duplicates:
        keys.notes.append(
            f"{_these(duplicates)} there before under a lower id: no text becomes such a token."
        )
    return different


def _these(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"token {numbers[0]} is"
    return f"{len(numbers):,} tokens (the first is {numbers[0]}) are"


def _read_types(keys: Keys, tokens: list[str]) -> NDArray[np.int32]:
    types = keys.numbers(_TYPES, (np.int32, np.uint32), len(tokens))
    if types is None:
        return np.full(len(tokens), NORMAL, np.int32)
    for number in np.flatnonzero(types == BYTE).tolist():
        if not _BYTE_TOKEN.fullmatch(tokens[number]):
            raise keys.wrong(
                f"{TOKENS}: token {number} is marked as a byte and named {tokens[number][:40]!r}; it "
                "must be <0x00> to <0xFF>"
            )
    return types.astype(np.int32)


def _read_scores(keys: Keys, count: int) -> NDArray[np.float32] | None:
    scores = keys.numbers(_SCORES, (np.float32, np.int32), count)
    if scores is None:
        return None
    if not np.isfinite(scores).all():
        raise keys.wrong(f"{_SCORES} has values that are no finite numbers")
    return scores.astype(np.float32)  # llama.cpp compares them so, whole numbers too
