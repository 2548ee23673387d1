"""Each sampling option against a slow plain version, the distributions by chi-square; random numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.engines.native.core.sampling_ops import RowSettings, Uniforms, draw, top_candidates
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import fake_logits
from tests.engines.native.plain import draw_plainly, probabilities


def settings_of(params: list[SamplingParams]) -> RowSettings:
    return RowSettings(
        np.array([p.temperature for p in params]),
        np.array([p.top_k for p in params], dtype=np.int64),
        np.array([p.top_p for p in params]),
        np.array([p.min_p for p in params]),
    )


def some_logits(rows: int, width: int, seed: int, *, coarse: bool = False) -> NDArray[np.float32]:
    """Return random logits, peaked like a language model's; `coarse` ones are full of ties."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (rows, width)).astype(np.float32)
    logits[random.random((rows, width)) < 0.1] = -np.inf
    logits[:, random.integers(width)] = 1.0
    return np.round(logits) if coarse else logits


choices = st.builds(
    SamplingParams,
    max_tokens=st.just(1),
    temperature=st.sampled_from([1e-60, 0.01, 0.3, 0.95, 1.0, 3.0, 100.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 50, 400, 5000]),
    top_p=st.sampled_from([1.0, 0.999, 0.7, 0.1, 1e-9]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0]),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    params=st.lists(choices, min_size=1, max_size=5),
    width=st.sampled_from([2, 31, 32, 40, 300, 2049, 4096]),
    seed=st.integers(0, 10**6),
    coarse=st.booleans(),
)
def test_draws_are_those_of_the_plain_version(
    params: list[SamplingParams], width: int, seed: int, coarse: bool
) -> None:
    logits = some_logits(len(params), width, seed, coarse=coarse)
    uniforms = np.random.default_rng(seed + 1).random(len(params))
    tokens = draw(logits, settings_of(params), uniforms)
    for row, one in enumerate(params):
        values = logits[row].tolist()
        assert tokens[row] == draw_plainly(values, one, float(uniforms[row]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    params=st.lists(choices, min_size=2, max_size=8),
    width=st.sampled_from([40, 1000, 4096, 10007]),
    seed=st.integers(0, 10**6),
)
def test_a_row_does_not_depend_on_the_others(
    params: list[SamplingParams], width: int, seed: int
) -> None:
    logits = some_logits(len(params), width, seed)
    uniforms = np.random.default_rng(seed).random(len(params))
    together = draw(logits, settings_of(params), uniforms)
    for row in range(len(params)):
        one = slice(row, row + 1)
        alone = draw(logits[one].copy(), settings_of(params[one]), uniforms[one])
        assert alone[0] == together[row]


@pytest.mark.parametrize("uniform", [0.0, math.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.2}])
def test_the_ends_of_the_unit_interval_draw_nothing_that_is_banned(
    uniform: float, options: dict[str, float]
) -> None:
    logits = np.full((1, 200), -np.inf, dtype=np.float32)
    logits[0, 70:90] = np.linspace(0, 1, 20)
    params = SamplingParams(max_tokens=1, **options)  # pyright: ignore[reportArgumentType]
    token = draw(logits, settings_of([params]), np.array([uniform]))[0]
    assert 70 <= token < 90


def test_of_equal_tokens_the_nucleus_takes_the_first() -> None:
    params = [SamplingParams(max_tokens=1, top_p=0.5)] * 1000
    uniforms = np.arange(1000) / 1000
    tokens = draw(np.zeros((1000, 200), dtype=np.float32), settings_of(params), uniforms)
    assert sorted(set(tokens.tolist())) == list(range(100))


def test_rounding_at_the_ends_of_groups_draws_nothing_that_is_banned() -> None:
    """A group's sum in float32 may be a little more than its members': numbers in between."""
    logits = np.random.default_rng(0).normal(0, 2, 32 * 64).astype(np.float32)
    logits[20 * 64 :] = -np.inf  # the last members of each group
    weights = np.exp(logits - logits.max()).reshape(32, 64)
    ends = weights.sum(axis=0).astype(np.float64).cumsum()
    uniforms = np.nextafter(ends / ends[-1], 0.0)
    params = [SamplingParams(max_tokens=1)] * 64
    tokens = draw(np.tile(logits, (64, 1)), settings_of(params), uniforms)
    assert np.isfinite(logits[tokens]).all()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 1.7, "top_k": 6},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.2, "min_p": 0.1},
        {"temperature": 0.95, "top_k": 20, "top_p": 0.7, "min_p": 0.02},
    ],
)
def test_frequencies_follow_the_probabilities(options: dict[str, float]) -> None:
    """Chi-square over 20,000 draws with a fixed seed."""
    draws, width = 20_000, 48
    logits = fake_logits([1, 2, 3], width, spread=2.5)
    params = SamplingParams(max_tokens=1, **options)  # pyright: ignore[reportArgumentType]
    stream = Uniforms(1234, 0)
    uniforms = np.array([stream[position] for position in range(draws)])
    tokens = draw(np.tile(logits, (draws, 1)), settings_of([params] * draws), uniforms)
    expected = probabilities(logits.tolist(), params)
    counts = np.bincount(tokens, minlength=width)
    assert set(np.flatnonzero(counts)) <= set(expected)
    statistic = sum((counts[t] - p * draws) ** 2 / (p * draws) for t, p in expected.items())
    freedom = len(expected) - 1
    # Wilson and Hilferty's approximation of the 99.9th percentile.
    bound = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < bound


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    width=st.sampled_from([1, 5, 32, 64, 100, 3201, 4100]),
    k=st.integers(1, 70),
    seed=st.integers(0, 10**6),
    coarse=st.booleans(),
)
def test_candidates_hold_the_k_largest_in_order_with_all_ties(
    width: int, k: int, seed: int, coarse: bool
) -> None:
    logits = some_logits(3, width, seed, coarse=coarse)
    candidates = top_candidates(logits, k)
    for row in range(3):
        order = sorted(range(width), key=lambda token: (-logits[row, token], token))
        finite = [token for token in order if logits[row, token] > -np.inf]
        last = logits[row, finite[min(k, len(finite)) - 1]]
        wanted = [token for token in finite if logits[row, token] >= last]
        assert candidates.ids[row, : len(wanted)].tolist() == wanted
        assert candidates.values[row, : len(wanted)].tolist() == logits[row, wanted].tolist()
        filled = candidates.values[row] > -np.inf
        assert filled.tolist() == sorted(filled.tolist(), reverse=True)
        assert not candidates.ids[row][~filled].any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_p": 0.5}, {"top_k": 5, "min_p": 0.1}, {}])
def test_the_tiniest_temperature_is_the_likeliest_token(options: dict[str, float]) -> None:
    logits = some_logits(3, 50, 1)
    params = [SamplingParams(max_tokens=1, temperature=5e-324, **options)] * 3  # type: ignore[arg-type]
    drawn = draw(logits, settings_of(params), np.array([0.0, 0.5, 0.999]))
    assert drawn.tolist() == logits.argmax(axis=1).tolist()


# --- random numbers ------------------------------------------------------------------------------

FIRST_OF_42 = [0.820198147861, 0.189245624086, 0.867660814882]


def numbers(seed: int, index: int, count: int = 200) -> list[float]:
    stream = Uniforms(seed, index)
    return [stream[position] for position in range(count)]


def test_a_seed_gives_the_same_numbers_in_every_run() -> None:
    """Written down: a seed that a user was given must mean the same in the next version."""
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
