"""A request's settings as vLLM's own, checked by the installed vLLM, and its outputs as deltas."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.vllm.launch import import_vllm
from quire.engines.vllm.requests import DeltaReader, to_vllm
from quire.errors import SamplingError
from quire.outputs import Delta, Usage
from quire.response_format import Constraint, read_response_format
from quire.sampling import SamplingParams

PROMPT = [11, 12, 13]


@pytest.fixture(scope="module", autouse=True)
def vllm() -> ModuleType:
    import_vllm()  # its log goes where an engine's would
    import vllm

    return vllm


def params(**values: Any) -> SamplingParams:
    found: dict[str, Any] = {"max_tokens": 16, **values}
    return SamplingParams(**found)


# --- settings ------------------------------------------------------------------------------------


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
    "include_stop_str_in_output": (True, "include_stop_str_in_output", True),
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
    "continues": "kept by the reader of the answer",
}


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


# --- outputs as deltas, however they were cut ----------------------------------------------------


def completion(
    index: int, text: str, tokens: list[int], reason: str | None = None, **values: Any
) -> Any:
    from vllm import CompletionOutput

    values = {"cumulative_logprob": None, "logprobs": None, **values}
    return CompletionOutput(index, text, tokens, finish_reason=reason, **values)


def output(*completions: Any, **values: Any) -> Any:
    from vllm import RequestOutput

    values = {"prompt_logprobs": None, **values}
    return RequestOutput("r", None, PROMPT, outputs=list(completions), finished=False, **values)


def read(reader: DeltaReader, *outputs: Any) -> list[Delta]:
    return [delta for output in outputs for delta in reader.read(output)]


def row(chosen: int, *likeliest: int, rank: int | None = None) -> dict[int, Any]:
    """One position as vLLM gives it: the chosen token first, then the likeliest with their ranks."""
    from vllm.logprobs import Logprob

    found = {chosen: Logprob(-9.0, rank or len(likeliest) + 5, "c")}
    found |= {token: Logprob(-float(n), n, "t") for n, token in enumerate(likeliest, 1)}
    return found


@st.composite
def cuttings(draw: st.DrawFn) -> tuple[dict[int, list[tuple[str, list[int]]]], list[list[int]]]:
    """The pieces of n completions, and in which outputs their indices come."""
    count = draw(st.integers(1, 4))
    piece = st.tuples(st.text("a\né🙂", max_size=3), st.lists(st.integers(0, 99), max_size=3))
    pieces = {index: draw(st.lists(piece, min_size=1, max_size=5)) for index in range(count)}
    order = draw(st.permutations([index for index in pieces for _ in pieces[index]]))
    groups: list[list[int]] = []
    for index in order:
        if groups and index not in groups[-1] and draw(st.booleans()):
            groups[-1].append(index)
        else:
            groups.append([index])
    return pieces, groups


def outputs_of(
    pieces: dict[int, list[tuple[str, list[int]]]], groups: list[list[int]], reasons: list[str]
) -> Iterator[Any]:
    left = {index: list(parts) for index, parts in pieces.items()}
    for group in groups:
        found: list[Any] = []
        for index in group:
            text, tokens = left[index].pop(0)
            reason = None if left[index] else reasons[index]
            found.append(completion(index, text, tokens, reason))
        yield output(*found, num_cached_tokens=2)


@given(
    cuttings(),
    st.lists(st.sampled_from(["stop", "length", "abort", "error"]), min_size=4, max_size=4),
)
@settings(deadline=None)
def test_each_index_has_one_finish_and_all_its_text(
    cutting: tuple[dict[int, list[tuple[str, list[int]]]], list[list[int]]], reasons: list[str]
) -> None:
    pieces, groups = cutting
    reader = DeltaReader(params(n=len(pieces)), len(PROMPT))
    deltas = read(reader, *outputs_of(pieces, groups, reasons))
    assert reader.unfinished == 0
    for index, parts in pieces.items():
        mine = [delta for delta in deltas if delta.index == index]
        tokens = [token for _, part in parts for token in part]
        assert "".join(delta.text for delta in mine) == "".join(text for text, _ in parts)
        assert [token for delta in mine for token in delta.token_ids] == tokens
        assert [delta.finish_reason for delta in mine][:-1] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == reasons[index]
        assert mine[-1].usage == Usage(len(PROMPT), len(tokens), 2)
        assert all(delta.usage is None for delta in mine[:-1])
        assert all(delta.text or delta.token_ids for delta in mine[:-1])


def test_unfinished_counts_down() -> None:
    reader = DeltaReader(params(n=2), 3)
    assert reader.unfinished == 2
    read(reader, output(completion(1, "a", [1], "stop")))
    assert reader.unfinished == 1
    assert read(reader, output(completion(0, "", []))) == []
    assert reader.unfinished == 1
    read(reader, output(completion(0, "", [], "stop")))
    assert reader.unfinished == 0


def test_a_whole_answer_in_one_output() -> None:
    reader = DeltaReader(params(n=2, streamed=False), 3)
    outputs = output(completion(0, "ab", [1, 2], "stop"), completion(1, "c", [3], "length"))
    assert read(reader, outputs) == [
        Delta(0, "ab", (1, 2), finish_reason="stop", usage=Usage(3, 2)),
        Delta(1, "c", (3,), finish_reason="length", usage=Usage(3, 1)),
    ]


def test_greedy_copies() -> None:
    reader = DeltaReader(params(n=3, temperature=0.0, prompt_logprobs=0), 3)
    rows = [None, row(12), row(13)]
    deltas = read(
        reader,
        output(completion(0, "a", [1]), prompt_logprobs=rows),
        output(completion(0, "b", [2], "stop")),
    )
    assert [(delta.index, delta.text) for delta in deltas] == [
        (0, "a"), (1, "a"), (2, "a"), (0, "b"), (1, "b"), (2, "b"),
    ]  # fmt: skip
    assert reader.unfinished == 0
    assert [delta.usage for delta in deltas] == [None] * 3 + [Usage(3, 2)] * 3
    assert [delta.prompt_logprobs is None for delta in deltas] == [False] + [True] * 5


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("abort", "abort"),
        ("error", "error"),
        ("repetition", "stop"),
        ("a word of a later version", "stop"),
    ],
)
def test_finish_reasons(theirs: str, ours: str) -> None:
    (delta,) = read(DeltaReader(params(), 3), output(completion(0, "", [], theirs)))
    assert delta.finish_reason == ours
    assert (delta.error is not None) == (ours == "error")
    assert not delta.refused


def test_an_error_of_a_constrained_request_is_its_own_fault() -> None:
    """vLLM ends a request so where its grammar rejects what was sampled."""
    constrained = params(response_format=Constraint("choice", ("yes",)))
    (delta,) = read(DeltaReader(constrained, 3), output(completion(0, "", [], "error")))
    assert delta.refused
    assert "response_format" in (delta.error or "")


def test_every_reason_of_the_installed_vllm_is_known() -> None:
    from vllm.v1.engine import FinishReason

    from quire.engines.vllm.requests import _FINISH_REASONS

    assert {str(reason) for reason in FinishReason} == set(_FINISH_REASONS)


@pytest.mark.parametrize(("reason", "expected"), [("END", "END"), (7, 7), (2, None), (None, None)])
def test_stop_reasons(reason: str | int | None, expected: str | int | None) -> None:
    settings = params(stop=("END",), stop_token_ids=(7,), eos_token_ids=(2,))
    last = completion(0, "a", [2], "stop", stop_reason=reason)
    (delta,) = read(DeltaReader(settings, 3), output(last))
    assert delta.stop_reason == expected


def test_a_stop_token_that_is_vllms_eos_is_told_all_the_same() -> None:
    settings = params(stop_token_ids=(7,), eos_token_ids=(7,))
    for reason, expected in (("stop", 7), ("length", None)):
        (delta,) = read(DeltaReader(settings, 3), output(completion(0, "a", [7], reason)))
        assert delta.stop_reason == expected


@pytest.mark.parametrize(("cached", "expected"), [(None, 0), (0, 0), (2, 2)])
def test_cached_tokens(cached: int | None, expected: int) -> None:
    last = output(completion(0, "a", [1], "stop"), num_cached_tokens=cached)
    (delta,) = read(DeltaReader(params(), 3), last)
    assert delta.usage == Usage(3, 1, expected)


# --- log-probabilities ---------------------------------------------------------------------------


def test_tops_are_limited_and_ranked() -> None:
    rows = [row(5, 9, 8, 7), row(8, 9, 8, 7)]
    found = completion(0, "ab", [5, 8], "stop", logprobs=rows)
    (delta,) = read(DeltaReader(params(logprobs=2), 3), output(found))
    assert delta.logprobs is not None
    first, second = delta.logprobs
    assert (first.token_id, first.logprob, first.rank) == (5, -9.0, 8)
    assert list(first.top.items()) == [(9, -1.0), (8, -2.0)]
    assert (second.token_id, second.logprob, second.rank) == (8, -2.0, 2)
    assert list(second.top.items()) == [(9, -1.0), (8, -2.0)]


def test_no_tops() -> None:
    found = completion(0, "a", [5], "stop", logprobs=[row(5, rank=1)])
    (delta,) = read(DeltaReader(params(logprobs=0), 3), output(found))
    assert delta.logprobs is not None
    assert (delta.logprobs[0].rank, delta.logprobs[0].top) == (1, {})


def test_logprobs_that_were_not_asked_for() -> None:
    found = completion(0, "a", [5], "stop", logprobs=[row(5, 9)])
    (delta,) = read(DeltaReader(params(), 3), output(found))
    assert delta.logprobs is None


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=5), st.integers(0, 3))
@settings(deadline=None)
def test_each_token_has_its_row(parts: list[list[int]], top: int) -> None:
    reader = DeltaReader(params(logprobs=top), 3)
    deltas: list[Delta] = []
    for index, tokens in enumerate(parts):
        rows = [row(token, 101, 102, 103) for token in tokens]
        reason = "length" if index == len(parts) - 1 else None
        deltas += read(reader, output(completion(0, "", tokens, reason, logprobs=rows)))
    found = [entry for delta in deltas for entry in delta.logprobs or ()]
    assert [entry.token_id for entry in found] == [token for part in parts for token in part]
    assert all(list(entry.top) == [101, 102, 103][:top] for entry in found)


@pytest.mark.parametrize("tokens", [[], [6]])
def test_rows_that_are_repeated_on_an_abort(tokens: list[int]) -> None:
    """0.20 and 0.27 give a last output without tokens all rows again; merged, after its own."""
    reader = DeltaReader(params(logprobs=1), 3)
    rows = [row(token, 101) for token in tokens] + [row(5, 101)]
    deltas = read(
        reader,
        output(completion(0, "a", [5], logprobs=[row(5, 101)])),
        output(completion(0, "", tokens, "abort", logprobs=rows)),
    )
    assert deltas[-1].finish_reason == "abort"
    assert [entry.token_id for entry in deltas[-1].logprobs or ()] == tokens


def test_prompt_logprobs_come_once_with_index_0() -> None:
    reader = DeltaReader(params(n=2, prompt_logprobs=1), 3)
    rows = [None, row(12, 101, 102), row(13, 13)]
    deltas = read(
        reader,
        output(completion(1, "x", [1]), prompt_logprobs=rows),
        output(completion(0, "y", [2]), prompt_logprobs=rows),
        output(completion(0, "z", [3], "stop"), completion(1, "", [], "stop")),
    )
    carriers = [delta for delta in deltas if delta.prompt_logprobs is not None]
    assert [delta.text for delta in carriers] == ["y"]
    assert carriers[0].prompt_logprobs is not None
    nothing, first, second = carriers[0].prompt_logprobs
    assert nothing is None
    assert first is not None
    assert (first.token_id, first.rank, first.top) == (12, 7, {101: -1.0})
    assert second is not None
    assert (second.token_id, second.rank, second.top) == (13, 1, {13: -1.0})
