"""Merges of tokens by their scores, and by a list."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from quire.gguf.token_merges import Merges, merges_of_scores, used
from tests.gguf.tokenizer_files import GGML, LETTERS, NORMAL, byte_pairs, load, make


def joined(text: str, scores: Mapping[str, float]) -> list[str]:
    """What SentencePiece makes of a text: the best two neighbours are joined, the leftmost of equals."""
    symbols = list(text)
    while True:
        pairs = [left + right for left, right in itertools.pairwise(symbols)]
        best = max((scores[pair] for pair in pairs if pair in scores), default=None)
        if best is None:
            return symbols
        place = next(n for n, pair in enumerate(pairs) if scores.get(pair) == best)
        symbols[place : place + 2] = [pairs[place]]


def tokenizer_of(pieces: Sequence[str], pairs: Iterable[tuple[str, str]]) -> Backend:
    model = {
        "type": "BPE",
        "vocab": {piece: number for number, piece in enumerate(pieces)},
        "merges": list(pairs),
    }
    return Backend.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))


def pairs_of(pieces: list[str], merges: Merges) -> list[tuple[str, str]]:
    numbers = zip(merges.left.tolist(), merges.right.tolist(), strict=True)
    return [(pieces[left], pieces[right]) for left, right in numbers]


longer_pieces = st.lists(
    st.text("ab\0", min_size=2, max_size=6), min_size=1, max_size=25, unique=True
)


@settings(max_examples=400, deadline=None)
@given(longer_pieces, st.lists(st.text("ab\0", max_size=14), max_size=20), st.randoms())
def test_merges_of_scores(longer: list[str], some: list[str], random: Any) -> None:
    """The ids are SentencePiece's, also where a token is made of worse ones."""
    pieces = ["a", "b", "\0", *longer]
    random.shuffle(pieces)
    scores = {piece: -float(number) for number, piece in enumerate(pieces)}
    order = list(pieces)
    random.shuffle(order)
    made = merges_of_scores(order, np.array([scores[piece] for piece in order], np.float32))
    backend = tokenizer_of(order, pairs_of(order, made))
    for text in (*some, *pieces, "".join(pieces)):
        assert backend.encode(text).tokens == joined(text, scores)


@settings(max_examples=400, deadline=None)
@given(st.integers(2, 40), st.lists(st.text("abc", max_size=16), max_size=20), st.randoms())
def test_used_merges(count: int, some: list[str], random: Any) -> None:
    """Merges of any order and number make the same of every text without those that never happen."""
    pieces = ["a", "b", "c"]
    pairs: list[tuple[str, str]] = []
    for _ in range(count):
        pair = random.choice(pieces), random.choice(pieces)
        if pair not in pairs and len(pair[0] + pair[1]) < 9:
            pairs.append(pair)
            pieces = list(dict.fromkeys([*pieces, pair[0] + pair[1]]))
    random.shuffle(pairs)
    numbers = np.array(
        [(pieces.index(left), pieces.index(right)) for left, right in pairs], np.int64
    )
    whole = np.array([pieces.index(left + right) for left, right in pairs], np.int64)
    lengths = np.array([len(piece) for piece in pieces])
    merges = Merges(numbers[:, 0], numbers[:, 1], whole, np.arange(len(pairs)))
    kept = merges.select(used(merges, pieces, lengths))
    complete, fewer = tokenizer_of(pieces, pairs), tokenizer_of(pieces, pairs_of(pieces, kept))
    for text in (*some, *pieces, "".join(pieces)):
        assert complete.encode(text).ids == fewer.encode(text).ids


def test_runs_of_equal_scores() -> None:
    """Llama's runs of spaces all have the same score: the longest is made first, from the left."""
    pieces = ["▁" * count for count in range(1, 17)]
    made = merges_of_scores(pieces, np.full(16, -1e9, np.float32))
    backend = tokenizer_of(pieces, pairs_of(pieces, made))
    for count in range(1, 70):
        expected = [16] * (count // 16) + [count % 16] * (count % 16 > 0)
        assert [len(token) for token in backend.encode("▁" * count).tokens] == expected


def test_merges_of_a_large_vocabulary() -> None:
    """transformers #40334: 50 minutes for 256,000 tokens. Here it is a second, all in all."""
    random = np.random.default_rng(0)
    pieces = dict.fromkeys("abcdefghijklmnopqrstuvwxyz")
    known = list(pieces)
    while len(known) < 256_000:
        picks = random.integers(0, len(known), (100_000, 2)).tolist()
        pieces.update(dict.fromkeys(known[left] + known[right] for left, right in picks))
        known = [piece for piece in pieces if len(piece) <= 16][:256_000]
    start = time.process_time()
    made = merges_of_scores(known, -np.arange(len(known), dtype=np.float32))
    assert time.process_time() - start < 20
    assert len(made.left) > len(known) // 2


def test_each_token_is_made_by_one_merge(tmp_path: Path) -> None:
    """A list with every cut of every token, as Llama 3's is, comes out with one for each."""
    word = "abcde"
    tokens = [word[start : start + size] for size in range(1, 6) for start in range(6 - size)]
    cuts = [f"{token[:at]} {token[at:]}" for token in tokens for at in range(1, len(token))]
    metadata = {**byte_pairs(cuts), f"{GGML}.tokens": tokens}
    del metadata[f"{GGML}.token_type"]
    merges = json.loads(make(tmp_path, metadata).tokenizer_json)["model"]["merges"]
    made = ["ab cd", "bc de", "ab cde"]
    assert merges == ["a b", "b c", "c d", "d e", *merges[4:7], *made]
    assert merges[4:7] == ["ab c", "bc d", "cd e"]
    assert len(cuts) == 20


@pytest.mark.parametrize("part", ["b c", "#version"])
def test_merges_that_no_line_of_text_can_hold(tmp_path: Path, part: str) -> None:
    """The library would split the first at its space, and pass over the second."""
    left, right = ("a", part) if " " in part else (part, "a")
    whole = left + right
    metadata = byte_pairs([f"{left} {right}"])
    tokens = [*dict.fromkeys([*LETTERS, part, whole])]
    metadata[f"{GGML}.tokens"] = tokens
    metadata[f"{GGML}.token_type"] = np.full(len(tokens), NORMAL, np.int32)
    made = make(tmp_path, metadata)
    assert json.loads(made.tokenizer_json)["model"]["merges"] == [[left, right]]
    assert whole in load(tmp_path, made).backend.get_vocab()
