"""Which rows of data sets are answered, and in which order: LLaMA-Factory's own, number for number."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from quire.errors import ConfigError

Mix: TypeAlias = Literal["concat", "interleave_under", "interleave_over", "interleave_once"]
Positions: TypeAlias = npt.NDArray[np.int64]
"""Places of rows, from 0."""

_PART = re.compile(
    r"(?P<split>\w+(?:\.\w+)*)"
    r"(?:\[(?:(?P<begin>-?[\d_]+)(?P<begin_pct>%)?)?:(?:(?P<end>-?[\d_]+)(?P<end_pct>%)?)?\])?"
)


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a split, such as `[:100]` or `[10%:20%]`."""

    begin: int | None = None
    end: int | None = None
    is_percent: bool = False

    @property
    def is_head(self) -> bool:
        """Whether it can be cut while rows stream by, without knowing how many there are."""
        return (
            not self.is_percent and (self.begin or 0) >= 0 and (self.end is None or self.end >= 0)
        )

    def of(self, count: int) -> range:
        """The rows of `count` that it keeps; percentages are rounded to the nearest row."""
        begin, end = self.begin or 0, count if self.end is None else self.end
        if self.is_percent:
            begin = round(begin * count / 100)
            end = count if self.end is None else round(self.end * count / 100)
        begin = max(count + begin, 0) if begin < 0 else begin
        end = max(count + end, 0) if end < 0 else end
        return range(min(begin, count), min(end, count))


WHOLE = (Slice(),)


def read_split(text: str, name: str) -> tuple[Slice, ...]:
    """The parts of a local set's split, such as `train[:100]+train[50%:]`.

    Raises:
        ConfigError: it cannot be read, or names another split than `train`, which is all that files
            have.
    """
    slices: list[Slice] = []
    for part in re.split(r"\s*\+\s*", text.strip()):
        match = _PART.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"The split {text!r} of {name} cannot be read: it is written such as train, "
                "train[:100] or train[10%:20%]."
            )
        if match["split"] not in ("train", "all"):
            raise ConfigError(
                f"{name} is read from files, which have one split, train: there is no "
                f"{match['split']!r}."
            )
        bounds = [int(match[key]) if match[key] else None for key in ("begin", "end")]
        is_percent = bool(match["begin_pct"] or match["end_pct"])
        if is_percent and any(bound is not None and abs(bound) > 100 for bound in bounds):
            raise ConfigError(f"The split {text!r} of {name}: a percentage is at most 100.")
        slices.append(Slice(bounds[0], bounds[1], is_percent))
    return tuple(slices)


def choose_samples(count: int, wanted: int, random: np.random.RandomState) -> Positions:
    """`num_samples` rows of a set: shuffled, and some of them again where there are fewer.

    Args:
        random: goes on from one set to the next.
    """
    chosen = random.permutation(count)[:wanted]
    if wanted > count:
        chosen = np.concatenate((chosen, random.choice(count, wanted - count)))
    return chosen.astype(np.int64)


def check_shares(shares: Sequence[float] | None, sets: int, mix: Mix) -> None:
    """Check `interleave_probs`.

    Raises:
        ConfigError: there are more or fewer than data sets, they are no shares of 1, or nothing is
            interleaved.
    """
    if shares is None:
        return
    if mix == "concat":
        raise ConfigError(
            "interleave_probs needs mix_strategy: interleave_under, interleave_over or "
            "interleave_once."
        )
    if len(shares) != sets:
        raise ConfigError(f"interleave_probs has {len(shares)} shares for {sets} data sets.")
    if any(share < 0 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-8):
        raise ConfigError(
            f"interleave_probs must be shares of 1, not {', '.join(map(str, shares))}."
        )
    if mix != "interleave_under" and min(shares) == 0:
        raise ConfigError("interleave_probs has a share of 0, so that its data set never ends.")


def interleave(
    counts: Sequence[int], mix: Mix, shares: Sequence[float] | None, seed: int
) -> Positions:
    """Rows of several sets as one, each by its place among all rows of all sets.

    Args:
        counts: how many rows each set has.
    """
    offsets = np.cumsum([0, *counts[:-1]])
    if mix == "concat":
        return np.arange(sum(counts), dtype=np.int64)
    if min(counts) == 0 and mix != "interleave_once":
        return np.zeros(0, np.int64)
    if shares is None:
        return _in_turns(counts, offsets, mix)
    ended, at = [count == 0 for count in counts], [0] * len(counts)
    found: list[int] = []
    for index in _draws(len(counts), shares, seed):
        if any(ended) if mix == "interleave_under" else all(ended):
            break
        if mix == "interleave_once" and ended[index]:
            continue
        found.append(at[index] + int(offsets[index]))
        at[index] += 1
        if at[index] >= counts[index]:
            ended[index], at[index] = True, 0
    return np.array(found, np.int64)


def _in_turns(counts: Sequence[int], offsets: npt.NDArray[np.int_], mix: Mix) -> Positions:
    rounds = min(counts) if mix == "interleave_under" else max(counts)
    turns = np.arange(rounds).reshape(-1, 1)
    places = np.mod(turns, np.maximum(counts, 1)) + offsets
    if mix == "interleave_once":
        return places[turns < np.array(counts)].astype(np.int64)
    return places.flatten().astype(np.int64)


def _draws(sets: int, shares: Sequence[float], seed: int) -> Iterator[int]:
    random = np.random.default_rng(seed)
    while True:
        yield from random.choice(sets, size=1000, p=shares).tolist()


def validation_part(count: int, size: float, seed: int) -> Positions:
    """The rows that `val_size` takes: a share below 1, or so many, drawn at random.

    Raises:
        ConfigError: there are not more rows than that.
    """
    wanted = int(size) if size > 1 else math.ceil(size * count)
    if not 0 < wanted < count:
        raise ConfigError(f"val_size: {size:g} leaves nothing of {count} rows to choose from.")
    return np.random.default_rng(seed).permutation(count)[:wanted].astype(np.int64)
