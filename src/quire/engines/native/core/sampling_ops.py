"""Random numbers, and functions that draw tokens: temperature, top_k, top_p, min_p, inverse CDF.

Each function takes the logits of M rows and, for each row, its settings and one uniform number in
[0, 1), and returns M token ids. A row's result depends on that row alone, bit for bit: sums run in
one order, ties are broken by token id, and padding adds nothing. Every row has a finite entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Logits = NDArray[np.float32]

GROUP = 32
"""Columns taken together. Column `c` belongs to group `c % G` of the `G = V // GROUP` groups: this
way NumPy reduces whole vectors, several times faster than runs of 32 neighbours."""

_TOP_P_CANDIDATES = 64  # looked at first where top_p comes without top_k
_LOWEST_TEMPERATURE = 1e-30  # what float32 can divide by
_UNIFORMS_CHUNK = 64
_MASK_64 = 2**64 - 1


# --- random numbers ------------------------------------------------------------------------------


class Uniforms:
    """The random numbers of one completion: number `i` is for its token `i`.

    Philox is counter-based, keyed by (seed, completion index): streams are independent, and a
    number depends on nothing but its key and position, so neither the other requests of a batch
    nor a preemption can change what is drawn. The raw bits are scaled here because NumPy promises
    the bit stream of Philox for ever, but not what `Generator.random` makes of it.
    """

    def __init__(self, seed: int, index: int) -> None:
        self._key = (seed & _MASK_64, index)
        self._first = 0
        self._numbers: list[float] = []
        self._stream: np.random.Philox | None = None  # made at the first draw

    def __getitem__(self, position: int) -> float:
        """Return the number for one position, in [0, 1). Positions are asked for in rising order."""
        while position >= self._first + len(self._numbers):
            if self._stream is None:
                self._stream = np.random.Philox(key=np.array(self._key, dtype=np.uint64))
            self._first += len(self._numbers)
            raw = self._stream.random_raw(_UNIFORMS_CHUNK)
            self._numbers = ((raw >> np.uint64(11)) * 2.0**-53).tolist()
        return self._numbers[position - self._first]


# --- drawing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowSettings:
    """The sampling settings of M rows, M entries each. All temperatures are above 0."""

    temperature: Floats
    top_k: Ids  # 0: no limit
    top_p: Floats
    min_p: Floats

    def at(self, rows: Ids) -> RowSettings:
        """Return the settings of some of the rows."""
        return RowSettings(
            self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows]
        )


def draw(logits: Logits, settings: RowSettings, uniforms: Floats) -> Ids:
    """Draw one token for each row (M, V), by the cheapest method that its settings allow."""
    has_top_k = (settings.top_k > 0) & (settings.top_k < logits.shape[1])
    if has_top_k.all():
        return draw_top_k(logits, settings, uniforms)
    has_top_p = ~has_top_k & (settings.top_p < 1.0)
    methods = (
        (has_top_k, draw_top_k),
        (has_top_p, draw_top_p),
        (~(has_top_k | has_top_p), draw_all),
    )
    tokens = np.zeros(len(logits), dtype=np.int64)
    for mask, method in methods:
        if mask.all():
            return method(logits, settings, uniforms)
        if mask.any():
            rows = np.flatnonzero(mask)
            tokens[rows] = method(logits[rows], settings.at(rows), uniforms[rows])
    return tokens


def draw_top_k(logits: Logits, settings: RowSettings, uniforms: Floats) -> Ids:
    """Draw among the `top_k` largest of each row and their ties; top_p and min_p then apply."""
    candidates = top_candidates(logits, int(settings.top_k.max()))
    columns = np.minimum(settings.top_k, candidates.values.shape[1]) - 1
    kth = candidates.values[np.arange(len(logits)), columns, None]
    weights = _weights(candidates.values, settings.temperature)
    weights[candidates.values < kth] = 0.0
    cumulative = weights.cumsum(axis=1)
    return _draw_candidate(candidates, weights, cumulative, cumulative[:, -1], settings, uniforms)


def draw_top_p(logits: Logits, settings: RowSettings, uniforms: Floats) -> Ids:
    """Draw from the smallest set of likeliest tokens that holds `top_p` of the probability.

    The set is usually small, and a few candidates hold it. Rows where they do not are sorted.
    """
    dense = _dense_weights(logits, settings.temperature)
    totals = dense.sum(axis=1, dtype=np.float64)
    candidates = top_candidates(logits, _TOP_P_CANDIDATES)
    weights = _weights(candidates.values, settings.temperature)
    cumulative = weights.cumsum(axis=1)
    tokens = _draw_candidate(candidates, weights, cumulative, totals, settings, uniforms)
    # Rows with ties have more candidates. Whether a row is sorted must not depend on those of others.
    mass = cumulative[:, min(_TOP_P_CANDIDATES, cumulative.shape[1]) - 1]
    wide = np.flatnonzero(mass < settings.top_p * totals)
    if len(wide):
        rest = dense[wide]
        for row, total, share in zip(rest, totals[wide], settings.top_p[wide], strict=True):
            _cut_to_top_p(row, float(total), float(share))
        tokens[wide] = _draw_dense(rest, settings.min_p[wide], uniforms[wide])
    return tokens


def draw_all(logits: Logits, settings: RowSettings, uniforms: Floats) -> Ids:
    """Draw from the whole vocabulary, less what min_p cuts."""
    weights = _dense_weights(logits, settings.temperature)
    return _draw_dense(weights, settings.min_p, uniforms)


def _weights(values: Logits, temperature: Floats) -> Floats:
    """Return exp((value - largest) / temperature) for values that descend along each row."""
    wide = values.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):  # where temperatures are tiny
        return np.exp((wide - wide[:, :1]) / temperature[:, None])


def _dense_weights(logits: Logits, temperature: Floats) -> Logits:
    """The same over whole rows, in float32: an error of 1e-7 in a probability does not matter."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    with np.errstate(over="ignore", under="ignore"):
        shifted /= np.maximum(temperature, _LOWEST_TEMPERATURE)[:, None].astype(np.float32)
        return np.exp(shifted, out=shifted)


def _draw_candidate(
    candidates: Candidates,
    weights: Floats,
    cumulative: Floats,
    totals: Floats,
    settings: RowSettings,
    uniforms: Floats,
) -> Ids:
    """Cut candidates by top_p (a share of `totals`) and min_p, and draw one for each row."""
    kept = weights > 0.0
    kept &= cumulative - weights < (settings.top_p * totals)[:, None]
    kept &= weights >= settings.min_p[:, None]  # the likeliest weighs 1
    rows = np.arange(len(weights))
    last = kept.sum(axis=1) - 1  # what is kept is a prefix
    targets = uniforms * cumulative[rows, last]
    columns = (cumulative <= targets[:, None]).sum(axis=1)
    return candidates.ids[rows, np.minimum(columns, last)]


def _cut_to_top_p(weights: Logits, total: float, share: float) -> None:
    """Set to 0 all but the likeliest tokens that hold a share of the total (V,), in place.

    All weights below `floor` together are less than what may be left out: they need no sorting.
    """
    floor = (1.0 - share) * total / len(weights)
    descending = np.sort(weights[weights >= floor])[::-1]
    cumulative = descending.cumsum(dtype=np.float64)
    kept = min(int(np.searchsorted(cumulative, share * total)) + 1, len(cumulative))
    last = descending[kept - 1]
    weights[weights < last] = 0.0
    ties = np.flatnonzero(weights == last)
    above = int(np.count_nonzero(weights > last))
    weights[ties[kept - above :]] = 0.0


def _draw_dense(weights: Logits, min_p: Floats, uniforms: Floats) -> Ids:
    """Draw in proportion to the weights (M, V), whose largest is 1, less what min_p cuts.

    A cumulative sum over the vocabulary would cost more than all else here. So first a group of
    tokens is drawn, then a token in it, with one number for both. Columns that are in no group come
    after all groups, each for itself.
    """
    if min_p.any():
        weights[weights < min_p[:, None].astype(np.float32)] = 0.0
    body, rest = _grouped(weights)
    sums = np.concatenate([body.sum(axis=1), rest], axis=1).astype(np.float64)
    cumulative = sums.cumsum(axis=1)
    targets = np.minimum(uniforms * cumulative[:, -1], np.nextafter(cumulative[:, -1], 0.0))
    group = _first_above(cumulative, targets)
    rows = np.arange(len(weights))
    before = cumulative[rows, group] - sums[rows, group]
    columns, inside = _group_members(weights, body.shape[2], group)
    within = before[:, None] + inside.astype(np.float64).cumsum(axis=1)
    return columns[rows, _last_positive(inside, _first_above(within, targets))]


def _group_members(weights: Logits, groups: int, group: Ids) -> tuple[Ids, Logits]:
    """Return the columns of one group a row, and their weights (M, GROUP); 0 where there is none."""
    first = np.where(group < groups, group, groups * GROUP + group - groups)
    columns = first[:, None] + groups * np.arange(GROUP)
    real = (group < groups)[:, None] | (np.arange(GROUP) == 0)
    inside = weights[np.arange(len(weights))[:, None], np.where(real, columns, 0)]
    return columns, np.where(real, inside, np.float32(0.0))


def _first_above(cumulative: Floats, targets: Floats) -> Ids:
    """Return each row's first column whose cumulative weight exceeds the target."""
    columns = (cumulative <= targets[:, None]).sum(axis=1)
    return np.minimum(columns, cumulative.shape[1] - 1)


def _last_positive(weights: Logits, columns: Ids) -> Ids:
    """Step back from columns without weight, where rounding has led past the last one with any."""
    every = np.arange(weights.shape[1])
    fits = (weights > 0.0) & (every <= columns[:, None])
    return np.where(fits, every, 0).max(axis=1)


# --- the largest entries, without sorting the vocabulary -----------------------------------------


@dataclass(frozen=True, slots=True)
class Candidates:
    """The likeliest tokens of M rows, in C columns: descending by value, equal values by token id.

    Columns that a row does not need hold the value -inf and token 0.
    """

    ids: Ids  # (M, C)
    values: Logits  # (M, C)


def top_candidates(logits: Logits, k: int) -> Candidates:
    """Return the k largest entries of each row (M, V), all that equal the k-th, and maybe more.

    Ties with the k-th are all kept: which of them would be cut must not depend on how a partition
    happens to leave them, and so on the batch. Entries of -inf are left out.
    """
    row, token = _at_least_kth(logits, k)
    starts = np.searchsorted(row, np.arange(len(logits) + 1))
    column = np.arange(len(row)) - starts[row]
    shape = (len(logits), int(np.diff(starts).max(initial=1)))
    ids = np.zeros(shape, dtype=np.int64)
    values = np.full(shape, -np.inf, dtype=np.float32)
    ids[row, column] = token
    values[row, column] = logits[row, token]
    # Each row is sorted as integers that hold value and id: far quicker than argsort.
    bits = (values + np.float32(0.0)).view(np.int32).astype(np.int64)  # -0.0 becomes 0.0
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # IEEE floats in the order of integers
    keys = np.sort((-ascending << 32) | ids, axis=1)
    ascending = -(keys >> 32)
    bits = np.where(ascending < 0, ascending ^ 0x7FFFFFFF, ascending).astype(np.int32)
    return Candidates(keys & 0xFFFFFFFF, bits.view(np.float32))


def _at_least_kth(logits: Logits, k: int) -> tuple[Ids, Ids]:
    """Return rows and columns, in order of rows, of entries that contain the k largest of each row.

    Where k groups have an entry of at least `bound`, the k largest are not below it: the k-th
    largest of the groups' maxima bounds them, at the cost of one pass.
    """
    body, rest = _grouped(logits)
    groups = body.shape[2]
    worthwhile = groups >= 2 * k
    maxima = body.max(axis=1) if worthwhile else logits
    column = max(0, maxima.shape[1] - k)
    bound = np.partition(maxima, column, axis=1)[:, column, None]
    bound = np.maximum(bound, np.finfo(np.float32).min)  # no entry of -inf reaches it
    if not worthwhile:
        return _nonzero(logits >= bound)
    group_row, group = _nonzero(maxima >= bound)
    which, member = _nonzero(body[group_row, :, group] >= bound[group_row])
    row, column = group_row[which], member * groups + group[which]
    if rest.shape[1]:
        rest_row, rest_column = _nonzero(rest >= bound)
        row = np.concatenate([row, rest_row])
        column = np.concatenate([column, rest_column + groups * GROUP])
        order = row.argsort(kind="stable")
        row, column = row[order], column[order]
    return row, column


def _grouped(logits: Logits) -> tuple[Logits, Logits]:
    """Return views: the columns in groups (M, GROUP, G), and those that are left (M, V % GROUP)."""
    rows, width = logits.shape
    groups = width // GROUP
    split = groups * GROUP
    return logits[:, :split].reshape(rows, GROUP, groups), logits[:, split:]


def _nonzero(mask: NDArray[np.bool_]) -> tuple[Ids, Ids]:
    """Return rows and columns of what is true: np.nonzero, but several times faster."""
    flat = np.flatnonzero(mask)
    row = flat // mask.shape[1]
    return row, flat - row * mask.shape[1]
