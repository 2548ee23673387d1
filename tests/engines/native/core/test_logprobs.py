"""Log-probabilities and ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quire.engines.native.core.logprobs import log_sum_exp, token_logprobs
from tests.engines.native.fake_runner import fake_logits


@pytest.mark.parametrize("width", [3, 50, 5000])
def test_logprobs_ranks_and_rivals(width: int) -> None:
    logits = np.array([fake_logits([row], width) for row in range(5)])
    tokens = np.array([row % width for row in range(5)])
    tops = [0, 1, 3, 2, 0]
    for row, one in enumerate(token_logprobs(logits, tokens, tops)):
        values = logits[row].astype(np.float64)
        exact = values - math.log(np.exp(values).sum())
        order = sorted(range(width), key=lambda token: (-values[token], token))
        assert one.token_id == tokens[row]
        assert one.logprob == pytest.approx(exact[tokens[row]], abs=1e-5)
        assert one.rank == 1 + order.index(tokens[row])
        assert list(one.top) == order[: tops[row]]
        assert list(one.top.values()) == pytest.approx([exact[t] for t in one.top], abs=1e-5)


def test_a_row_is_the_same_in_any_company() -> None:
    logits = np.array([fake_logits([row], 9001) for row in range(9)])
    tokens = np.arange(9)
    together = token_logprobs(logits, tokens, [4] * 9)
    for row in range(9):
        one = slice(row, row + 1)
        assert token_logprobs(logits[one].copy(), tokens[one], [4]) == [together[row]]


def test_many_rows_are_done_in_groups() -> None:
    logits = np.array([fake_logits([row], 70_000) for row in range(20)])
    results = token_logprobs(logits, np.zeros(20, dtype=np.int64), [1] * 20)
    expected = logits[:, 0] - log_sum_exp(logits)
    assert [one.logprob for one in results] == pytest.approx(expected.tolist())


def test_minus_infinity_has_no_share_and_nan_shows() -> None:
    logits = np.array([[0.0, -np.inf, 0.0], [np.nan, 0.0, 0.0], [np.inf, 0, 0]], dtype=np.float32)
    results = log_sum_exp(logits)
    assert results[0] == pytest.approx(math.log(2))
    assert np.isnan(results[1:]).all()
