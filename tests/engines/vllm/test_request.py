"""quire's sampling settings as vLLM's own, checked by the installed vLLM."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engines.vllm.launch import import_vllm
from quire.engines.vllm.requests import to_vllm
from quire.errors import SamplingError
from quire.response_format import Constraint, read_response_format
from quire.sampling import SamplingParams


@pytest.fixture(scope="module", autouse=True)
def vllm() -> ModuleType:
    import_vllm()  # its log goes where an engine's would
    import vllm

    return vllm


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}

MAPPED: dict[str, tuple[Any, str, Any]] = {
    # quire's field: a value, vLLM's field, and what it then holds
    "max_tokens": (33, "max_tokens", 33),
    "n": (3, "n", 3),
    "min_tokens": (4, "min_tokens", 4),
    "temperature": (0.75, "temperature", 0.75),
    "top_p": (0.5, "top_p", 0.5),
    "top_k": (7, "top_k", 7),
    "min_p": (0.25, "min_p", 0.25),
    "repetition_penalty": (1.5, "repetition_penalty", 1.5),
    "presence_penalty": (-0.5, "presence_penalty", -0.5),
    "frequency_penalty": (0.5, "frequency_penalty", 0.5),
    "seed": (5, "seed", 5),
    "stop": (("a", "b"), "stop", ["a", "b"]),
    "stop_token_ids": ((3, 4), "stop_token_ids", [3, 4]),
    "eos_token_ids": ((8, 9), "stop_token_ids", [8, 9]),
    "ignore_eos": (True, "ignore_eos", True),
    "logit_bias": ({1: 2.0}, "logit_bias", {1: 2.0}),
    "bad_words": (("no",), "bad_words", ["no"]),
    "logprobs": (2, "logprobs", 2),
    "prompt_logprobs": (0, "prompt_logprobs", 0),
    "response_format": (Constraint("regex", "a+"), "structured_outputs", None),
    "skip_special_tokens": (False, "skip_special_tokens", False),
    "streamed": (False, "output_kind", None),
}
ELSEWHERE = {
    "priority": "given to AsyncLLM.generate",
    "cache_salt": "goes with the prompt",
    "timeout": "kept by the caller of the engine",
    "adapter": "given to AsyncLLM.generate",
    "request_id": "given to AsyncLLM.generate",
}


def params(**values: Any) -> SamplingParams:
    found: dict[str, Any] = {"max_tokens": 16, **values}
    return SamplingParams(**found)


def test_every_field_has_a_decision() -> None:
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    assert names == set(MAPPED) | set(ELSEWHERE)
    assert not set(MAPPED) & set(ELSEWHERE)


@pytest.mark.parametrize("name", sorted(MAPPED))
def test_each_field_arrives(name: str) -> None:
    value, theirs, expected = MAPPED[name]
    plain, changed = to_vllm(params()), to_vllm(params(**{name: value}))
    assert getattr(plain, theirs) != getattr(changed, theirs)
    if expected is not None:
        assert getattr(changed, theirs) == expected


def test_nothing_else_changes() -> None:
    plain = to_vllm(params())
    for name, (value, theirs, _) in MAPPED.items():
        changed = to_vllm(params(**{name: value}))
        derived = {"output_text_buffer_length", "skip_reading_prefix_cache", "_all_stop_token_ids"}
        differing = {
            field
            for field in type(plain).__struct_fields__
            if getattr(plain, field) != getattr(changed, field)
        }
        assert differing - derived == {theirs}, name


def test_defaults_that_constrain_nothing() -> None:
    plain = to_vllm(params())
    assert (plain.temperature, plain.top_p, plain.top_k, plain.min_p) == (1.0, 1.0, 0, 0.0)
    assert plain.logit_bias is plain.structured_outputs is plain.seed is plain.logprobs is None
    assert plain.stop == plain.stop_token_ids == plain.bad_words == []
    assert plain.detokenize
    assert plain.clone().stop is plain.stop  # no deep copy: it was made for one request


def test_eos_ends_unless_ignored_and_stop_tokens_always_do() -> None:
    given = {"stop_token_ids": (3,), "eos_token_ids": (8, 3)}
    assert to_vllm(params(**given)).stop_token_ids == [3, 8]
    assert to_vllm(params(**given, ignore_eos=True)).stop_token_ids == [3]


def test_min_tokens_never_exceed_max_tokens() -> None:
    assert to_vllm(params(max_tokens=5, min_tokens=9)).min_tokens == 5


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (None, None),
        (0, 0),
        (5, 5),
        (-1, 2**63 - 1),
        (2**64 - 1, 2**63 - 1),
        (-(2**63), 0),
        (2**63, 0),
    ],
)
def test_seeds(seed: int | None, expected: int | None) -> None:
    assert to_vllm(params(seed=seed)).seed == expected


@given(st.integers(-(2**63), 2**64 - 1))
def test_every_seed_is_one_that_vllm_can_carry(seed: int) -> None:
    import msgspec

    mapped = to_vllm(params(seed=seed))
    assert mapped.seed is not None
    assert 0 <= mapped.seed < 2**63
    assert msgspec.msgpack.Decoder().decode(msgspec.msgpack.encode(mapped.seed)) == mapped.seed


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_greedy_completions_are_asked_for_once(temperature: float) -> None:
    mapped = to_vllm(params(n=4, temperature=temperature))
    assert mapped.n == (1 if temperature == 0 else 4)


def test_greedy_ignores_truncation() -> None:
    mapped = to_vllm(params(temperature=0.0, top_p=0.1, top_k=3, min_p=0.5))
    assert (mapped.top_p, mapped.top_k, mapped.min_p) == (1.0, 0, 0.0)


# --- refusals ------------------------------------------------------------------------------------


def test_a_temperature_that_vllm_refuses() -> None:
    assert to_vllm(params(temperature=2.0)).temperature == 2.0
    with pytest.raises(SamplingError, match=r"temperature must be at most 2 with vLLM, not 2\.5"):
        to_vllm(params(temperature=2.5))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", 3.0),
        ("frequency_penalty", -3.0),
        ("repetition_penalty", 0.0),
        ("top_p", 1.5),
        ("min_p", 1.5),
        ("top_k", -5),
        ("max_tokens", 0),
        ("logprobs", -2),
    ],
)
def test_what_vllm_refuses_is_named(name: str, value: Any) -> None:
    with pytest.raises(SamplingError, match=rf"vLLM refuses the request's settings: .*{name}"):
        to_vllm(params(**{name: value}))


# --- structured outputs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "field", "value"),
    [
        ({"type": "json_object"}, "json_object", True),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "json", SCHEMA),
        ({"type": "regex", "regex": "[ab]+"}, "regex", "[ab]+"),
        ({"type": "choice", "choice": ["yes", "no"]}, "choice", ["yes", "no"]),
        ({"type": "grammar", "grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
    ],
)
def test_structured_outputs(form: dict[str, Any], field: str, value: Any) -> None:
    constraint = read_response_format(form)
    found = to_vllm(params(response_format=constraint)).structured_outputs
    assert found is not None
    kinds = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")
    assert {kind for kind in kinds if getattr(found, kind) is not None} == {field}
    assert getattr(found, field) == value
    assert not found.disable_any_whitespace


def test_text_constrains_nothing() -> None:
    assert to_vllm(params(response_format=read_response_format({"type": "text"}))) == to_vllm(
        params()
    )


# --- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "cumulative", "kind"),
    [
        ({}, False, "DELTA"),
        ({"n": 3}, False, "DELTA"),
        ({"streamed": False}, False, "FINAL_ONLY"),
        ({}, True, "CUMULATIVE"),
        ({"streamed": False}, True, "CUMULATIVE"),
        ({"n": 3}, True, "FINAL_ONLY"),
        ({"n": 3, "temperature": 0.0}, True, "CUMULATIVE"),
    ],
)
def test_the_kind_of_outputs(given: dict[str, Any], cumulative: bool, kind: str) -> None:
    assert to_vllm(params(**given), cumulative=cumulative).output_kind.name == kind
