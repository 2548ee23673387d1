"""Each completion's own numbers."""

from __future__ import annotations

import numpy as np

from quire.engines.native.randomness import Uniforms, random_seed

FIRST_OF_42 = [0.820198147861, 0.189245624086, 0.867660814882]


def numbers(seed: int, index: int, count: int = 200) -> list[float]:
    stream = Uniforms(seed, index)
    return [stream[position] for position in range(count)]


def test_a_seed_gives_the_same_numbers_in_every_run() -> None:
    """Written down: a seed that was told to a user must mean the same in the next version."""
    assert [round(number, 12) for number in numbers(42, 0, 3)] == FIRST_OF_42


def test_positions_may_be_skipped_and_asked_for_twice() -> None:
    plain, stream = numbers(7, 1), Uniforms(7, 1)
    assert [stream[p] for p in (3, 3, 64, 190)] == [plain[p] for p in (3, 3, 64, 190)]


def test_completions_and_seeds_differ() -> None:
    streams = [tuple(numbers(seed, index, 5)) for seed in (0, 1, -1, 2**63) for index in (0, 1, 2)]
    assert len(set(streams)) == len(streams)


def test_numbers_are_uniform() -> None:
    many = np.array([number for index in range(50) for number in numbers(3, index)])
    assert 0.0 <= many.min() < many.max() < 1.0
    counts = np.histogram(many, bins=20, range=(0, 1))[0]
    expected = len(many) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # 99.9 % at 19 degrees of freedom


def test_requests_without_a_seed_differ() -> None:
    assert len({random_seed() for _ in range(20)}) == 20
