"""One merge of request over configuration over generation_config over defaults."""

from __future__ import annotations

import dataclasses
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from quire.arguments import GeneratingArguments
from quire.errors import PromptTooLongError, RequestError, SamplingError, UnsupportedOptionError
from quire.options import OPTIONS, OPTIONS_BY_NAME, Integer, Number, OnlyValue
from quire.sampling import OptionResolver, SamplingParams


def merged(
    request: dict[str, Any] | None = None,
    configured: dict[str, Any] | None = None,
    generation_config: dict[str, Any] | None = None,
    prompt_length: int = 10,
    context_length: int = 4096,
) -> SamplingParams:
    resolver = OptionResolver(
        configured or {}, generation_config or {}, context_length=context_length
    )
    return resolver.resolve(request or {}, prompt_length)


def test_defaults_are_those_of_llamafactory() -> None:
    params = merged()
    assert (params.temperature, params.top_p, params.top_k) == (0.95, 0.7, 50)
    assert (params.max_tokens, params.repetition_penalty, params.n) == (1024, 1.0, 1)


def test_what_a_request_does_not_set() -> None:
    resolver = OptionResolver({"max_length": 99}, {"do_sample": False}, context_length=4096)
    defaults = resolver.defaults
    assert (defaults["temperature"], defaults["max_new_tokens"]) == (0.0, 99)
    assert (defaults["top_k"], defaults["seed"]) == (50, None)
    assert set(defaults) == set(OPTIONS_BY_NAME)


def test_each_source_beats_the_next() -> None:
    model = {"temperature": 0.1, "top_p": 0.2, "top_k": 3, "eos_token_id": 7}
    params = merged({"temperature": 0.5}, {"temperature": 0.4, "top_p": 0.6}, model)
    assert (params.temperature, params.top_p, params.top_k) == (0.5, 0.6, 3)


def test_what_a_model_must_never_write() -> None:
    resolver = OptionResolver({}, {}, context_length=99, suppressed_token_ids=(7, 9))
    assert resolver.resolve({}, 1).logit_bias == {7: -100.0, 9: -100.0}
    asked = resolver.resolve({"logit_bias": {"9": 50, "3": 1}}, 1)
    assert asked.logit_bias == {7: -100.0, 9: -100.0, 3: 1.0}
    assert resolver.defaults["logit_bias"] == merged().logit_bias == {}


def test_a_models_seed_and_stop_strings() -> None:
    """Under transformers' names for them."""
    model = {"stop_strings": ["a", "b"], "seed": 5, "presence_penalty": 1, "stop": ["c"]}
    params = merged(generation_config=model)
    assert (params.stop, params.seed, params.presence_penalty) == (("a", "b"), 5, 1.0)
    params = merged({"seed": 6}, {"presence_penalty": 0}, model)
    assert (params.seed, params.presence_penalty) == (6, 0.0)
    assert merged({"stop": []}, None, model).stop == ()


def test_none_in_a_request_is_not_given() -> None:
    assert merged({"temperature": None, "seed": None}).temperature == 0.95


def test_zero_means_unset() -> None:
    params = merged({"top_p": 0, "top_k": 0, "repetition_penalty": 0})
    assert (params.top_p, params.top_k, params.repetition_penalty) == (1.0, 0, 1.0)
    assert merged({"top_k": -1}).top_k == 0


@pytest.mark.parametrize(
    ("request_", "configured", "model", "greedy"),
    [
        ({"temperature": 0}, {}, {}, True),
        ({"do_sample": False}, {}, {}, True),
        ({"do_sample": False, "temperature": 0.5}, {}, {}, True),
        ({}, {"do_sample": False}, {"temperature": 0.5}, True),
        ({}, {}, {"do_sample": False}, True),
        ({"temperature": 0.5}, {"do_sample": False}, {}, False),
        ({"do_sample": True}, {"do_sample": False}, {}, False),
        ({}, {"temperature": 0.5}, {"do_sample": False}, False),
    ],
)
def test_greedy(request_: dict, configured: dict, model: dict, greedy: bool) -> None:
    assert merged(request_, configured, model).greedy is greedy


@pytest.mark.parametrize(
    ("request_", "configured", "prompt", "expected"),
    [
        ({}, {}, 10, 1024),
        ({"max_new_tokens": 5}, {"max_new_tokens": 7}, 10, 5),
        ({"max_length": 50}, {"max_new_tokens": 7}, 10, 40),
        ({"max_length": 5}, {}, 10, 1),
        ({}, {"max_length": 64}, 10, 54),
        ({}, {"max_new_tokens": 7, "max_length": 64}, 10, 7),
        ({"max_new_tokens": 10_000}, {}, 4000, 96),
        ({}, {}, 4095, 1),
    ],
)
def test_max_tokens(request_: dict, configured: dict, prompt: int, expected: int) -> None:
    assert merged(request_, configured, prompt_length=prompt).max_tokens == expected


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(PromptTooLongError, match="4,096 tokens and the context holds 4,096"):
        merged(prompt_length=4096)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("temperature", -1, "temperature must be between 0"),
        ("temperature", float("nan"), "temperature must be a number"),
        ("temperature", "hot", "temperature must be a number"),
        ("n", 0, "n must be at least 1"),
        ("num_return_sequences", 0, "num_return_sequences must be at least 1"),
        ("n", 1.5, "n must be an integer"),
        ("top_p", 2, "top_p must be between 0 and 1"),
        ("top_k", -2, "top_k must be at least -1"),
        ("top_k", 2**31, "top_k must be at least -1 and at most"),
        ("min_p", 1.1, "min_p"),
        ("presence_penalty", 3, "presence_penalty must be between -2 and 2"),
        ("stop", [""], "stop must be"),
        ("stop", [3], "stop must be"),
        ("stop", ["a", 3], r"stop\[1\] is 3"),
        ("stop", {"a": 1}, "stop is {'a': 1}"),
        ("logit_bias", {"x": 1}, "no token id"),
        ("logit_bias", {"9" * 5000: 1}, "no token id"),
        ("logit_bias", {"-1": 1}, "no token id"),
        ("logit_bias", {math.inf: 1}, "no token id"),
        ("repetition_penalty", 1e-38, "between 0.001 and 100, or 0"),
        ("repetition_penalty", 1e-300, "between 0.001 and 100, or 0"),
        ("repetition_penalty", 101, "between 0.001 and 100, or 0"),
        ("logit_bias", {"1": 200}, "logit_bias"),
        ("timeout", 0, "timeout must be above 0"),
        ("seed", "a", "seed must be an integer"),
        ("do_sample", "no", "do_sample must be true or false"),
        ("max_new_tokens", 0, "max_new_tokens must be at least 1"),
        ("logprobs", 1000, "logprobs must be at least 0 and at most 64"),
        ("response_format", "json", "response_format"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object, told: str) -> None:
    with pytest.raises(SamplingError, match=told):
        merged({name: value})


def test_a_wrong_value_is_shown_in_part() -> None:
    for name, value in {"temperature": ["x" * 10**6] * 9, "seed": "9" * 10**6}.items():
        with pytest.raises(SamplingError) as refused:
            merged({name: value})
        assert len(str(refused.value)) < 1000


EXTREMES = [
    *(0, 1, -1, 2**31 - 1, 2**31, -(2**31) - 1, 2**63, 2**64, 10**400, -(10**400), 10**5000),
    *(-0.0, 5e-324, 1e-300, 1e-45, 1.2e-38, 1e-38, 1e-7, 0.999999999, 3.4e38, 3.5e38, 1.8e308),
    *(-1e-300, -3.4e38, math.inf, -math.inf, math.nan),
]
NUMERIC = [one.name for one in OPTIONS if isinstance(one.type, (Number, Integer, OnlyValue))]


@pytest.mark.parametrize("name", NUMERIC)
def test_a_number_however_large_or_small_is_taken_or_refused_by_name(name: str) -> None:
    for value in EXTREMES:
        text, penalty = "", 1.0
        try:
            penalty = merged({name: value}).repetition_penalty
        except RequestError as error:
            text = str(error)
        assert not text or (name in text and len(text) < 500)
        assert np.float32(1e30) / np.float32(penalty) < np.inf


@pytest.mark.parametrize("value", EXTREMES, ids=range(len(EXTREMES)))
def test_numbers_by_token_are_taken_or_refused(value: Any) -> None:
    for options in ({"logit_bias": {5: value}}, {"logit_bias": {value: 1}}):
        with suppress(SamplingError):
            bias = merged(options).logit_bias
            assert all(0 <= token < 2**31 and -100 <= bias[token] <= 100 for token in bias)
    with suppress(SamplingError):
        assert all(
            0 <= token < 2**31 for token in merged({"stop_token_ids": [value]}).stop_token_ids
        )


@pytest.mark.parametrize(
    ("request_", "configured"),
    [
        ({"min_tokens": 6, "max_new_tokens": 5}, {}),
        ({"min_tokens": 6}, {"max_new_tokens": 5}),
        ({"min_tokens": 1025}, {}),
        ({"min_tokens": 6, "max_length": 15}, {}),
    ],
)
def test_more_tokens_at_least_than_at_most_are_refused(request_: Any, configured: Any) -> None:
    with pytest.raises(SamplingError, match=r"min_tokens is .*\(max_tokens"):
        merged(request_, configured)
    request_["min_tokens"] -= 1
    merged(request_, configured)


def test_what_the_context_leaves_refuses_no_min_tokens() -> None:
    params = merged({"min_tokens": 50, "max_new_tokens": 50}, prompt_length=4090)
    assert (params.min_tokens, params.max_tokens) == (50, 6)


def test_unknown_and_unsupported_options_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedOptionError, match="did you mean 'temperature'"):
        merged({"temprature": 1})
    with pytest.raises(UnsupportedOptionError, match="num_beams"):
        merged({"num_beams": 4})
    with pytest.raises(UnsupportedOptionError, match="length_penalty"):
        merged({"length_penalty": 2.0})
    with pytest.raises(SamplingError, match="not both"):
        merged({"n": 2, "num_return_sequences": 2})


def test_stop_words_of_the_template_and_of_the_request_add_up() -> None:
    resolver = OptionResolver({}, {}, context_length=10, eos_token_ids=(2,))
    params = resolver.resolve({"stop": "x"}, 1, stop_token_ids=(5,), stop_strings=("###",))
    assert (params.stop, params.stop_token_ids, params.eos_token_ids) == (("###", "x"), (5,), (2,))


def test_ignored_eos_ends_nothing_even_as_a_stop_token() -> None:
    resolver = OptionResolver({}, {}, context_length=100, eos_token_ids=(2, 3))
    assert resolver.resolve({"ignore_eos": True}, 1, stop_token_ids=(3, 9)).stop_token_ids == (9,)
    assert resolver.resolve({}, 1, stop_token_ids=(3, 9)).stop_token_ids == (3, 9)
    own = {"ignore_eos": True, "stop_token_ids": [3, 7]}
    assert resolver.resolve(own, 1).stop_token_ids == (7,)


def test_the_table_and_the_settings_know_each_other() -> None:
    fields = {one.name for one in dataclasses.fields(SamplingParams)}
    made = {one.param for one in OPTIONS if one.param is not None}
    assert made | {"eos_token_ids", "streamed"} == fields


def test_the_configuration_has_the_tables_defaults() -> None:
    configured = GeneratingArguments().to_dict()
    assert configured == {name: OPTIONS_BY_NAME[name].default for name in configured}
