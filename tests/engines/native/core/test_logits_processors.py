"""Biases, bans and penalties against the plain version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.native.core.logits_processors import (
    ProcessedRow,
    TokenCounts,
    bad_word_ids,
    banned_tokens,
    make_logits_processor,
    process_logits,
)
from quire.errors import SamplingError, UnsupportedOptionError
from quire.sampling import SamplingParams
from tests.engines.native.plain import adjusted

VOCAB = 20

rule_options = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.sampled_from([0.5, 1.0, 1.3]),
        "presence_penalty": st.sampled_from([-1.0, 0.0, 0.7]),
        "frequency_penalty": st.sampled_from([-0.5, 0.0, 0.4]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.sampled_from([-100.0, 2.5])),
        "min_tokens": st.integers(0, 5),
        "stop_token_ids": st.just((3, 4)),
        "eos_token_ids": st.just((9,)),
        "ignore_eos": st.booleans(),
    },
)
ids = st.lists(st.integers(0, VOCAB - 1), max_size=8)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(rule_options, ids, ids), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_processed_logits_are_those_of_the_plain_version(
    rows: list[tuple[dict[str, Any], list[int], list[int]]], seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (len(rows), VOCAB)).astype(np.float32)
    before = logits.copy()
    processed: list[ProcessedRow] = []
    for row, (given_options, prompt, output) in enumerate(rows):
        params = SamplingParams(max_tokens=9, **given_options)
        processor = make_logits_processor(params, VOCAB, None)
        counts = TokenCounts(np.array(prompt, dtype=np.int32))
        for token in output:
            counts.add(token)
        processed.append(
            ProcessedRow(
                row,
                processor,
                np.array(output, dtype=np.int32),
                counts if processor.penalizes else None,
            )
        )
    process_logits(logits, processed)
    for row, (given_options, prompt, output) in enumerate(rows):
        params = SamplingParams(max_tokens=9, **given_options)
        expected = adjusted(before[row].tolist(), params, prompt, output)
        np.testing.assert_allclose(logits[row], expected, rtol=1e-5, atol=1e-5)


def test_counts_grow_past_their_first_room() -> None:
    counts = TokenCounts(np.array([5, 5, 2], dtype=np.int32))
    for token in [*range(300), 7, 7]:
        counts.add(token)
    by_token = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
    assert by_token == {token: 3.0 if token == 7 else 1.0 for token in range(300)}


@pytest.mark.parametrize(
    ("output", "banned"),
    [
        ([], {4}),
        ([1], {4, 2}),
        ([1, 2], {4, 3}),
        ([9, 1, 2], {4, 3}),
        ([1, 2, 1], {4, 2}),
        ([2], {4}),
    ],
)
def test_bad_words_ban_the_token_that_would_complete_them(
    output: list[int], banned: set[int]
) -> None:
    words = ((4,), (1, 2), (1, 2, 3))
    assert set(banned_tokens(np.array(output, dtype=np.int32), words)) == banned


def test_bad_words_are_read_at_a_beginning_and_after_a_space() -> None:
    def encode(text: str) -> Sequence[int]:
        return [ord(character) for character in text]

    assert bad_word_ids(["ab", " c"], encode) == (
        (97, 98),
        (32, 97, 98),
        (32, 99),
    )


def test_what_cannot_be_honoured_is_refused() -> None:
    with pytest.raises(SamplingError, match="token 20; the vocabulary ends at 19"):
        make_logits_processor(SamplingParams(max_tokens=1, logit_bias={20: 1.0}), VOCAB, None)
    with pytest.raises(UnsupportedOptionError, match="bad_words"):
        make_logits_processor(SamplingParams(max_tokens=1, bad_words=("x",)), VOCAB, None)
