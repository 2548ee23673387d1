"""Which rows are chosen, in which order: numbers that `datasets` 4.0.0 and NumPy gave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from quire.batch.inputs.orders import (
    Mix,
    check_shares,
    choose_samples,
    interleave,
    read_split,
    validation_part,
)
from quire.errors import ConfigError

COUNTS = [3, 5, 4]


@pytest.mark.parametrize(
    ("mix", "shares", "expected"),
    [
        ("concat", None, [*range(12)]),
        ("interleave_under", None, [0, 3, 8, 1, 4, 9, 2, 5, 10]),
        ("interleave_under", [0.5, 0.3, 0.2], [3, 0, 8, 4, 1, 9, 5, 6, 2]),
        ("interleave_under", [0.1, 0.1, 0.8], [8, 9, 10, 11]),
        ("interleave_over", None, [0, 3, 8, 1, 4, 9, 2, 5, 10, 0, 6, 11, 1, 7, 8]),
        ("interleave_over", [0.5, 0.3, 0.2], [3, 0, 8, 4, 1, 9, 5, 6, 2, 0, 1, 10, 7, 11]),
        # In turns without the sets that have ended; no version of `datasets` up to 4.0.0 has it.
        ("interleave_once", None, [0, 3, 8, 1, 4, 9, 2, 5, 10, 6, 11, 7]),
    ],
)
def test_sets_are_mixed_as_datasets_mixes_them(
    mix: Mix, shares: Sequence[float] | None, expected: list[int]
) -> None:
    assert interleave(COUNTS, mix, shares, 42).tolist() == expected


@pytest.mark.parametrize("shares", [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
def test_once_takes_each_row_once(shares: list[float]) -> None:
    order = interleave(COUNTS, "interleave_once", shares, 7).tolist()
    assert sorted(order) == [*range(12)]
    for begin, end in ((0, 3), (3, 8), (8, 12)):
        assert [one for one in order if begin <= one < end] == [*range(begin, end)]


@pytest.mark.parametrize("mix", ["interleave_under", "interleave_over"])
def test_a_set_without_rows_ends_the_mix(mix: Mix) -> None:
    assert interleave([0, 2], mix, None, 42).tolist() == []
    assert interleave([0, 2], "interleave_once", [0.5, 0.5], 42).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0.1, [18, 10, 17]), (0.25, [18, 10, 17, 22, 16, 15]), (5, [18, 10, 17, 22, 16])],
)
def test_val_size_takes_the_rows_of_train_test_split(size: float, expected: list[int]) -> None:
    assert validation_part(23, size, 42).tolist() == expected


@pytest.mark.parametrize("size", [23, 30, 1.0])
def test_val_size_must_leave_something(size: float) -> None:
    with pytest.raises(ConfigError, match="val_size"):
        validation_part(23, size, 42)


def test_num_samples_go_on_from_set_to_set_and_repeat_rows() -> None:
    """Rule 8: even as many samples as rows are shuffled."""
    random = np.random.RandomState(42)
    found = [choose_samples(*one, random).tolist() for one in ((10, 4), (6, 6), (3, 7))]
    assert found == [[8, 1, 5, 0], [3, 1, 0, 4, 5, 2], [0, 1, 2, 0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [*range(23)]),
        ("train[:5]", [0, 1, 2, 3, 4]),
        ("train[20:]", [20, 21, 22]),
        ("train[10%:20%]", [2, 3, 4]),
        ("train[-3:]", [20, 21, 22]),
        ("train[:50%]+train[90%:]", [*range(12), 21, 22]),
        ("train[ :5]", None),
        ("train[30:40]", []),
        ("train[:-20]", [0, 1, 2]),
    ],
)
def test_splits_are_those_of_datasets(split: str, expected: list[int] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="cannot be read"):
            read_split(split, "set")
        return
    slices = read_split(split, "set")
    assert [place for one in slices for place in one.of(23)] == expected


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "one split, train: there is no 'test'"),
        ("train[:200%]", "at most 100"),
        ("train[10:", "cannot be read"),
        ("train[:10%](pct1_dropremainder)", "cannot be read"),
    ],
)
def test_a_split_that_files_do_not_have_is_refused(split: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_split(split, "set")


@pytest.mark.parametrize(
    ("shares", "mix", "message"),
    [
        ([0.5, 0.5], "concat", "needs mix_strategy"),
        ([0.5, 0.5], "interleave_under", "2 shares for 3"),
        ([0.5, 0.4, 0.2], "interleave_under", "shares of 1"),
        ([1.5, -0.5, 0.0], "interleave_under", "shares of 1"),
        ([0.5, 0.5, 0.0], "interleave_over", "a share of 0"),
    ],
)
def test_shares_that_do_not_fit_are_refused(shares: list[float], mix: Mix, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_shares(shares, 3, mix)
