"""Choosing tokens from logits: temperature, top_k, top_p, min_p, then one draw by inverse CDF.

Each function takes the logits of M rows and, for each row, its settings and one uniform number in
[0, 1), and returns M token ids. A row's result depends on that row alone: sums run in one order,
ties are broken by token id, and padding adds nothing. Every row has a finite entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.top import GROUP, Ranked, grouped, largest

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]

_CANDIDATES = 64  # looked at first where top_p comes without top_k
_COLDEST = 1e-30  # what float32 can divide by


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of M rows, M entries each. All temperatures are above 0."""

    temperature: Floats
    top_k: NDArray[np.int64]  # 0: no limit
    top_p: Floats
    min_p: Floats

    def at(self, rows: NDArray[np.int64]) -> Settings:
        """Return the settings of some of the rows."""
        return Settings(
            self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows]
        )


def draw(logits: Logits, settings: Settings, uniforms: Floats) -> NDArray[np.int64]:
    """Draw one token for each row (M, V), by the cheapest way that its settings allow."""
    limited = (settings.top_k > 0) & (settings.top_k < logits.shape[1])
    if limited.all():
        return draw_top_k(logits, settings, uniforms)
    nucleus = ~limited & (settings.top_p < 1.0)
    ways = ((limited, draw_top_k), (nucleus, draw_nucleus), (~(limited | nucleus), draw_any))
    tokens = np.zeros(len(logits), dtype=np.int64)
    for mask, way in ways:
        if mask.all():
            return way(logits, settings, uniforms)
        if mask.any():
            rows = np.flatnonzero(mask)
            tokens[rows] = way(logits[rows], settings.at(rows), uniforms[rows])
    return tokens


def draw_top_k(logits: Logits, settings: Settings, uniforms: Floats) -> NDArray[np.int64]:
    """Draw among the `top_k` largest of each row and their ties; top_p and min_p then apply."""
    ranked = largest(logits, int(settings.top_k.max()))
    places = np.minimum(settings.top_k, ranked.values.shape[1]) - 1
    last = ranked.values[np.arange(len(logits)), places, None]
    weights = _weights(ranked.values, settings.temperature)
    weights[ranked.values < last] = 0.0
    cumulative = weights.cumsum(axis=1)
    return _draw_ranked(ranked, weights, cumulative, cumulative[:, -1], settings, uniforms)


def draw_nucleus(logits: Logits, settings: Settings, uniforms: Floats) -> NDArray[np.int64]:
    """Draw from the smallest set of likeliest tokens that holds `top_p` of the probability.

    The set is usually small, and a few candidates hold it. Rows where they do not are sorted.
    """
    dense = _dense_weights(logits, settings.temperature)
    totals = dense.sum(axis=1, dtype=np.float64)
    ranked = largest(logits, _CANDIDATES)
    weights = _weights(ranked.values, settings.temperature)
    cumulative = weights.cumsum(axis=1)
    tokens = _draw_ranked(ranked, weights, cumulative, totals, settings, uniforms)
    held = cumulative[:, min(_CANDIDATES, cumulative.shape[1]) - 1]
    wide = np.flatnonzero(held < settings.top_p * totals)
    if len(wide):
        rest = dense[wide]
        for row, total, share in zip(rest, totals[wide], settings.top_p[wide], strict=True):
            _cut_nucleus(row, float(total), float(share))
        tokens[wide] = _draw_dense(rest, settings.min_p[wide], uniforms[wide])
    return tokens


def draw_any(logits: Logits, settings: Settings, uniforms: Floats) -> NDArray[np.int64]:
    """Draw from the whole vocabulary, less what min_p cuts."""
    weights = _dense_weights(logits, settings.temperature)
    return _draw_dense(weights, settings.min_p, uniforms)


def _cut_nucleus(weights: Logits, total: float, share: float) -> None:
    """Set to 0 what comes after the likeliest tokens that hold a share of the total (V,), in place.

    All weights below `floor` together are less than what may be left out: they need no sorting.
    """
    floor = (1.0 - share) * total / len(weights)
    descending = np.sort(weights[weights >= floor])[::-1]
    ends = descending.cumsum(dtype=np.float64)
    kept = min(int(np.searchsorted(ends, share * total)) + 1, len(ends))
    last = descending[kept - 1]
    weights[weights < last] = 0.0
    ties = np.flatnonzero(weights == last)
    above = int(np.count_nonzero(weights > last))
    weights[ties[kept - above :]] = 0.0


def _draw_dense(weights: Logits, min_p: Floats, uniforms: Floats) -> NDArray[np.int64]:
    """Draw in proportion to the weights (M, V), whose largest is 1, less what min_p cuts.

    First a group of tokens is drawn, then a token in it, with one number for both. Columns that are
    in no group come after all groups, each for itself.
    """
    if min_p.any():
        weights[weights < min_p[:, None].astype(np.float32)] = 0.0
    body, rest = grouped(weights)
    sums = np.concatenate([body.sum(axis=1), rest], axis=1).astype(np.float64)
    ends = sums.cumsum(axis=1)
    targets = np.minimum(uniforms * ends[:, -1], np.nextafter(ends[:, -1], 0.0))
    group = _invert(ends, targets)
    rows = np.arange(len(weights))
    before = ends[rows, group] - sums[rows, group]
    columns, inside = _members(weights, body.shape[2], group)
    within = before[:, None] + inside.astype(np.float64).cumsum(axis=1)
    return columns[rows, _last_positive(inside, _invert(within, targets))]


def _members(
    weights: Logits, groups: int, group: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Logits]:
    """Return the columns of one group a row, and their weights (M, GROUP); 0 where there is none."""
    first = np.where(group < groups, group, groups * GROUP + group - groups)
    columns = first[:, None] + groups * np.arange(GROUP)
    real = (group < groups)[:, None] | (np.arange(GROUP) == 0)
    inside = weights[np.arange(len(weights))[:, None], np.where(real, columns, 0)]
    return columns, np.where(real, inside, np.float32(0.0))


def _draw_ranked(
    ranked: Ranked,
    weights: Floats,
    cumulative: Floats,
    totals: Floats,
    settings: Settings,
    uniforms: Floats,
) -> NDArray[np.int64]:
    """Cut ranked candidates by top_p (a share of `totals`) and min_p, and draw one for each row."""
    kept = weights > 0.0
    kept &= cumulative - weights < (settings.top_p * totals)[:, None]
    kept &= weights >= settings.min_p[:, None]  # the likeliest weighs 1
    rows = np.arange(len(weights))
    last = kept.sum(axis=1) - 1  # what is kept is a prefix
    place = (cumulative <= (uniforms * cumulative[rows, last])[:, None]).sum(axis=1)
    return ranked.ids[rows, np.minimum(place, last)]


def _weights(values: Logits, temperature: Floats) -> Floats:
    """Return exp((value - largest) / temperature) for values that descend along each row."""
    wide = values.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):  # where temperatures are tiny
        return np.exp((wide - wide[:, :1]) / temperature[:, None])


def _dense_weights(logits: Logits, temperature: Floats) -> Logits:
    """The same over whole rows, in float32: an error of 1e-7 in a probability is no matter."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    with np.errstate(over="ignore", under="ignore"):
        shifted /= np.maximum(temperature, _COLDEST)[:, None].astype(np.float32)
        return np.exp(shifted, out=shifted)


def _invert(cumulative: Floats, targets: Floats) -> NDArray[np.int64]:
    """Return the first place of each row whose cumulative weight exceeds the target."""
    place = (cumulative <= targets[:, None]).sum(axis=1)
    return np.minimum(place, cumulative.shape[1] - 1)


def _last_positive(weights: Logits, place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Step back from a place without weight, where rounding has led past the last one with any."""
    columns = np.arange(weights.shape[1])
    fits = (weights > 0.0) & (columns <= place[:, None])
    return np.where(fits, columns, 0).max(axis=1)
