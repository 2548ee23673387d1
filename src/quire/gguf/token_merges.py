"""Merges: which two symbols a byte-pair tokenizer joins, and in which order.

SentencePiece knows no merges. It joins the two neighbours whose joined text is the token of the highest
score, the leftmost two if there are several. As merges, that is every cut of a token into two tokens,
in the order of scores. Most of them can never happen: what a token is made of does not depend on the text
around it (the merges inside of a token are those of the token alone, or it would not have come to be). So
there is one cut at most that makes a token, and `used` finds it for all tokens at once. With these alone
the tokenizers library loads 262,144 tokens in 0.5 s instead of 0.9.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Keys: TypeAlias = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_MULTIPLIER = 0xD6E8FEB86659FD93
_MOST_LEVELS = 32  # each has a tenth of the keys of the one before
_MOST_IMPROPER = 100
_NEVER = np.iinfo(np.int64).max


class Merges(NamedTuple):
    """Merges by the numbers of tokens: `left` and `right` become `whole`, lower ranks first.

    Merges of one rank make the same token, and the leftmost two symbols are joined first.
    """

    left: Ints
    right: Ints
    whole: Ints
    rank: Ints

    def select(self, which: Ints | NDArray[np.bool_]) -> Merges:
        return Merges(*(part[which] for part in self))


def merges_of_scores(pieces: Sequence[str], scores: NDArray[np.floating]) -> Merges:
    """The merges, in order, that make of each text what SentencePiece makes of it.

    Of tokens with the same score longer ones come first. SentencePiece joins the leftmost, and for runs of
    one character (Llama's runs of spaces have no scores of their own) that comes to the same.

    Args:
        pieces: the tokens that text may become, each once.
    """
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    left, right, whole = _cuts(pieces, lengths)
    ranks = np.empty(len(pieces), np.int64)
    ranks[np.lexsort((-lengths, -scores))] = np.arange(len(pieces))
    merges = Merges(left, right, whole, ranks[whole])
    merges = merges.select(used(merges, pieces, lengths))
    return merges.select(np.lexsort((-lengths[merges.left], merges.rank)))


def _cuts(pieces: Sequence[str], lengths: Ints) -> tuple[Ints, Ints, Ints]:
    """Every cut of a piece into two pieces: the numbers of the left, the right and the whole one."""
    text = "".join(pieces).encode("utf-32-le")
    codes = np.frombuffer(text, "<u4").astype(np.uint64) + np.uint64(1)  # NUL counts as well
    ends = np.cumsum(lengths)
    starts = ends - lengths
    hashes = _Hashes(codes)
    table = _Table(hashes.of(starts, ends))
    is_inner = np.ones(len(codes), np.bool_)
    is_inner[starts] = False
    places = np.flatnonzero(is_inner)
    whole = np.repeat(np.arange(len(pieces)), lengths)[places]
    left = table.find(hashes.of(starts[whole], places))
    hits = np.flatnonzero(left >= 0)
    right = table.find(hashes.of(places[hits], ends[whole[hits]]))
    both = np.flatnonzero(right >= 0)
    return left[hits[both]], right[both], whole[hits[both]]


class _Hashes:
    """The hash of any stretch of an array: a polynomial's value modulo 2^64, from sums up to each place."""

    def __init__(self, codes: Keys) -> None:
        count = len(codes)
        self._sums = np.zeros(count + 1, np.uint64)
        powers = np.cumprod(np.full(count, _BASE, np.uint64))
        np.cumsum(codes * powers, out=self._sums[1:])
        self._inverse = np.cumprod(np.full(count + 1, pow(_BASE, -1, 1 << 64), np.uint64))

    def of(self, starts: Ints, ends: Ints) -> Keys:
        return (self._sums[ends] - self._sums[starts]) * self._inverse[starts]


class _Table:
    """The place of 64-bit keys in an array of different ones, for many at once.

    Those that share a slot with another go on to the next, smaller level. (`numpy.searchsorted` takes
    six times as long. Keys that share a slot at all levels are not found: somebody must have made them so.)
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._levels: list[tuple[np.uint64, np.uint64, NDArray[np.int32]]] = []
        rest = np.arange(len(keys), dtype=np.int32)
        while len(rest) and len(self._levels) < _MOST_LEVELS:
            multiplier = np.uint64(pow(_MULTIPLIER, len(self._levels) + 1, 1 << 64))
            bits = max(8, len(rest).bit_length() + 2)
            shift = np.uint64(64 - bits)
            slots = (keys[rest] * multiplier) >> shift
            level = np.full(1 << bits, -1, np.int32)
            level[slots] = rest
            self._levels.append((multiplier, shift, level))
            rest = rest[level[slots] != rest]

    def find(self, wanted: Keys) -> Ints:
        """Their places, -1 for those that are not there."""
        found = np.full(len(wanted), -1, np.int64)
        for multiplier, shift, level in self._levels:
            places = level[(wanted * multiplier) >> shift]
            taken = np.flatnonzero(places >= 0)
            hits = taken[self._keys[places[taken]] == wanted[taken]]
            found[hits] = places[hits]
        return found


def used(merges: Merges, pieces: Sequence[str], lengths: Ints) -> Ints:
    """The numbers of those merges that can happen in any text.

    Shorter tokens come first, as longer ones are made of them. A merge happens if, in the text of its token
    alone, nothing is joined across the cut while its two parts come to be. `_Walk` finds that out as
    if merges happened in the order of their ranks, and they do unless a token is made of one with a
    later rank. Tokens that contain such a token keep all their merges.
    """
    order = np.argsort(lengths[merges.whole], kind="stable")
    borders = np.flatnonzero(np.diff(lengths[merges.whole][order])) + 1
    walk = _Walk(merges, lengths)
    for group in np.split(order, borders):
        walk.add(group)
    happens, improper = walk.happens, walk.improper
    if len(improper) > _MOST_IMPROPER:
        return np.arange(len(order))
    if improper:
        holds = re.compile("|".join(re.escape(pieces[number]) for number in improper)).search
        tainted = [number for number, piece in enumerate(pieces) if holds(piece)]
        happens |= np.isin(merges.whole, tainted)
    return np.flatnonzero(happens)


class _Walk:
    """Finds what happens, from short tokens to long ones."""

    def __init__(self, merges: Merges, lengths: Ints) -> None:
        self._merges = merges
        count = len(lengths)
        self._count = np.uint64(count)
        self._table = _Table(self._pairs(merges.left, merges.right))
        self._exists = lengths == 1
        self._made = np.full(count, -1, np.int64)
        """The rank of the merge that makes each token; characters are there from the beginning."""
        self._left = np.full(count, -1, np.int64)
        self._right = np.full(count, -1, np.int64)
        self.happens = np.zeros(len(merges.left), np.bool_)
        self.improper: list[int] = []

    def add(self, group: Ints) -> None:
        """Take the merges of all tokens of one length."""
        left, right, whole, rank = self._merges
        group = group[self._exists[left[group]] & self._exists[right[group]]]
        group = self._happening(group)
        parts = np.maximum(self._made[left[group]], self._made[right[group]])
        self.improper += whole[group[parts >= rank[group]]].tolist()
        self.happens[group] = True
        tokens = whole[group]
        self._exists[tokens] = True
        self._made[tokens] = rank[group]
        self._left[tokens], self._right[tokens] = left[group], right[group]

    def _happening(self, group: Ints) -> Ints:
        """Those of the merges whose two parts can stand beside each other.

        Backwards in time, of the two symbols at the cut, the one that was made last is taken apart. The
        two that stood there before must not have been joined at an earlier rank, nor at the same
        rank if they stood further left.
        """
        left, right = self._merges.left[group], self._merges.right[group]
        found = [group[:0]]
        while group.size:
            made_left, made_right = self._made[left], self._made[right]
            made = np.maximum(made_left, made_right)
            found.append(group[made < 0])
            going = np.flatnonzero(made >= 0)
            group, made = group[going], made[going]
            is_left = made_left[going] > made_right[going]
            left = np.where(is_left, self._right[left[going]], left[going])
            right = np.where(is_left, right[going], self._left[right[going]])
            rank = self._rank(left, right)
            going = np.flatnonzero((rank > made) | ((rank == made) & is_left))
            group, left, right = group[going], left[going], right[going]
        return np.concatenate(found)

    def _rank(self, left: Ints, right: Ints) -> Ints:
        places = self._table.find(self._pairs(left, right))
        return np.where(places >= 0, self._merges.rank[places], _NEVER)

    def _pairs(self, left: Ints, right: Ints) -> Keys:
        return left.astype(np.uint64) * self._count + right.astype(np.uint64)
