"""vLLM's own outputs as deltas, however they were cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.vllm.launch import import_vllm
from quire.engines.vllm.requests import DeltaReader
from quire.outputs import Delta, Usage
from quire.sampling import SamplingParams

PROMPT = [11, 12, 13]


@pytest.fixture(scope="module", autouse=True)
def vllm() -> Any:
    import_vllm()  # its log goes where an engine's would
    import vllm

    return vllm


def params(**values: Any) -> SamplingParams:
    found: dict[str, Any] = {"max_tokens": 64, **values}
    return SamplingParams(**found)


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
    found |= {token: Logprob(-float(place), place, "t") for place, token in enumerate(likeliest, 1)}
    return found


# --- any cutting ---------------------------------------------------------------------------------


@st.composite
def cuttings(draw: st.DrawFn) -> tuple[dict[int, list[tuple[str, list[int]]]], list[list[int]]]:
    """The pieces of n completions, and in which outputs their indices come."""
    count = draw(st.integers(1, 4))
    piece = st.tuples(st.text(max_size=3), st.lists(st.integers(0, 99), max_size=3))
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
    for place, tokens in enumerate(parts):
        rows = [row(token, 101, 102, 103) for token in tokens]
        reason = "length" if place == len(parts) - 1 else None
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
