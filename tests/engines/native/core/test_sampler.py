"""A step's rows at once: each sequence gets what it would get alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.native.core.input_processor import EngineLimits, InputProcessor
from quire.engines.native.core.multimodal import MediaLimits
from quire.engines.native.core.sampler import Sampled, Sampler
from quire.engines.native.core.sequence import Sequence
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import NumberText, fake_logits

VOCAB = 300

options = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.0, 0.0, 0.7, 1.5]), "seed": st.integers(0, 50)},
    optional={
        "top_k": st.sampled_from([0, 1, 40]),
        "top_p": st.sampled_from([0.5, 0.95, 1.0]),
        "min_p": st.just(0.02),
        "presence_penalty": st.just(1.0),
        "repetition_penalty": st.just(1.2),
        "logit_bias": st.just({5: 30.0}),
        "min_tokens": st.just(1),
        "stop_token_ids": st.just((5,)),
        "logprobs": st.integers(0, 3),
    },
)


def make_sequence(number: int, given_options: dict[str, Any]) -> Sequence:
    limits = EngineLimits(
        vocab_size=VOCAB,
        max_model_len=16,
        block_size=16,
        num_blocks=1,
        media_limits=MediaLimits(hidden_size=8),
    )
    inputs = InputProcessor(limits, lambda params: NumberText())
    prompt = Prompt((1, 2, number % VOCAB))
    params = SamplingParams(max_tokens=5, **given_options)
    return inputs.make_request(str(number), prompt, params).sequences[0]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    rows=st.lists(options, min_size=1, max_size=9),
    left_out=st.integers(0, 3),
    spoilt=st.sets(st.integers(0, 8), max_size=2),
)
def test_each_row_is_what_it_is_alone(
    rows: list[dict[str, Any]], left_out: int, spoilt: set[int]
) -> None:
    """Also when the logits have more rows than are drawn from, and some hold NaN."""
    sequences = [make_sequence(number, one) for number, one in enumerate(rows)]
    logits_rows = [number + left_out for number in range(len(rows))]
    logits = np.array([fake_logits([row], VOCAB) for row in range(len(rows) + left_out)])
    logits[[row for row in logits_rows if row - left_out in spoilt], 7] = np.nan
    sampler = Sampler()
    sampler.sample(logits[:1].copy(), [0], sequences[:1])  # its settings must not stick
    together = sampler.sample(logits.copy(), logits_rows, sequences)
    for number, sequence in enumerate(sequences):
        alone = Sampler().sample(logits[logits_rows[number]][None].copy(), [0], [sequence])
        assert (number in together.unusable) == bool(alone.unusable) == (number in spoilt)
        if not alone.unusable:
            assert together.tokens[number] == alone.tokens[0]
            assert logprob_of(together, number) == logprob_of(alone, 0)
            wanted = sequence.request.params.logprobs
            assert (logprob_of(alone, 0) is None) == (wanted is None)


def logprob_of(sampled: Sampled, number: int) -> object:
    return None if sampled.logprobs is None else sampled.logprobs[number]


def test_several_sequences_may_draw_from_one_row() -> None:
    """The completions of one request, when its prompt has just been computed."""
    sequences = [make_sequence(number, {"temperature": 1.0, "seed": number}) for number in range(8)]
    logits = fake_logits([3], VOCAB)[None]
    tokens = Sampler().sample(logits.copy(), [0] * 8, sequences).tokens
    assert len(set(tokens)) > 1
    for number, sequence in enumerate(sequences):
        assert Sampler().sample(logits.copy(), [0], [sequence]).tokens == [tokens[number]]


def test_requests_without_a_seed_differ() -> None:
    streams = [make_sequence(number, {"temperature": 1.0}).uniforms for number in range(20)]
    assert len({stream[0] for stream in streams if stream is not None}) == 20
