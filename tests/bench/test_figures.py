"""Percentiles and perplexity against NumPy, and what a load's times become."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.bench.figures import PERCENTILES, AnswerTimes, LoadTimes, Quality, percentiles

Numbers = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


@given(Numbers)
def test_percentiles_are_numpys(values: list[float]) -> None:
    found = percentiles(values)
    for percent in PERCENTILES:
        assert found[percent] == pytest.approx(np.percentile(values, percent), abs=1e-6)


def test_no_values_have_no_percentiles() -> None:
    assert percentiles([]) == {}


def test_perplexity_and_its_errors() -> None:
    generator = np.random.default_rng(0)
    ours = -generator.exponential(2.0, 500)
    theirs = ours + generator.normal(0.01, 0.1, 500)
    first, second = Quality(tuple(ours)), Quality(tuple(theirs))
    assert first.perplexity == pytest.approx(np.exp(-ours.mean()))
    error = ours.std(ddof=1) / math.sqrt(500)
    assert first.error == pytest.approx(first.perplexity * error)
    mean, error = second.against(first)
    difference = ours - theirs
    assert mean == pytest.approx(difference.mean())
    assert error == pytest.approx(difference.std(ddof=1) / math.sqrt(500))


def test_perplexity_of_the_impossible_is_infinite() -> None:
    assert Quality((-1.0, -math.inf)).perplexity == math.inf
    assert Quality((-5000.0,)).perplexity == math.inf


def test_load_times_survive_json() -> None:
    times = LoadTimes(1.5, (AnswerTimes(0.1, 1.4, 3, 8, (0.6, 0.7)),) * 2)
    assert LoadTimes.read(asdict(times)) == times
    assert times.rate == pytest.approx(6 / 1.5)
