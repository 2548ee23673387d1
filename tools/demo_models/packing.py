"""Dialogues packed into rows of tokens. A token sees only its own dialogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from tools.demo_models.exchange import Dialogue, segments

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

ROW = 512
IGNORED = -100
# Dialogues that wait for a row with room for them.
WAITING = 64


class Tokens(NamedTuple):
    """One dialogue's ids, and for each the id to predict at its place (IGNORED: none)."""

    ids: list[int]
    labels: list[int]


class Batch(NamedTuple):
    """Rows of tokens, each array [rows, ROW]. `owner` numbers the dialogue that a token is of."""

    ids: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    owner: np.ndarray


def encoded(
    tokenizer: Tokenizer, dialogues: Iterable[Dialogue], chunk: int = 256
) -> Iterator[Tokens]:
    """Encode each segment by itself, as prompts are; dialogues longer than a row are left out."""
    stream = iter(dialogues)
    while some := list(islice(stream, chunk)):
        parts = [segments(dialogue) for dialogue in some]
        codes = iter(tokenizer.encode_batch([part.text for row in parts for part in row]))
        for row in parts:
            ids: list[int] = []
            learned: list[int] = []
            for part in row:
                piece = next(codes).ids
                ids += piece
                learned += piece if part.learn else [IGNORED] * len(piece)
            if len(ids) <= ROW:
                yield Tokens(ids, [*learned[1:], IGNORED])


def batches(stream: Iterator[Tokens], rows: int) -> Iterator[Batch]:
    """Fill rows, taking for each the waiting dialogues that still fit."""
    waiting: list[Tokens] = []
    while True:
        packed: list[list[Tokens]] = []
        for _ in range(rows):
            waiting += islice(stream, WAITING - len(waiting))
            packed.append(_fill(waiting))
        if not any(packed):
            return
        yield _batch(packed)


def _fill(waiting: list[Tokens]) -> list[Tokens]:
    """Take from `waiting`, oldest first, all that fits into one row."""
    row: list[Tokens] = []
    room = ROW
    for tokens in list(waiting):
        if len(tokens.ids) <= room:
            row.append(tokens)
            waiting.remove(tokens)
            room -= len(tokens.ids)
    return row


def _batch(packed: list[list[Tokens]]) -> Batch:
    import numpy as np

    shape = (len(packed), ROW)
    batch = Batch(
        np.zeros(shape, np.int64),
        np.full(shape, IGNORED),
        np.zeros(shape, np.int64),
        np.full(shape, -1),
    )
    for line, row in enumerate(packed):
        start = 0
        for number, tokens in enumerate(row):
            place = slice(start, start + len(tokens.ids))
            batch.ids[line, place] = tokens.ids
            batch.labels[line, place] = tokens.labels
            batch.positions[line, place] = np.arange(len(tokens.ids))
            batch.owner[line, place] = number
            start = place.stop
    return batch
