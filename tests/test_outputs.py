"""Deltas add up: whatever the cuts, the sum says the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quire.messages import ToolCall
from quire.outputs import (
    AnswerPart,
    AnswerSum,
    Delta,
    DeltaSum,
    TextPart,
    ThoughtPart,
    TokenLogprob,
    Usage,
)

PARTS: st.SearchStrategy[AnswerPart] = st.one_of(
    st.builds(TextPart, st.sampled_from(["a", "bc", " "])),
    st.builds(ThoughtPart, st.sampled_from(["hm", "\n"])),
    st.builds(ToolCall, st.sampled_from(["f", "g"]), st.just("{}")),
)
DELTAS = st.lists(
    st.builds(
        Delta,
        text=st.sampled_from(["", "a", "bc"]),
        token_ids=st.lists(st.integers(0, 9), max_size=2).map(tuple),
        parts=st.one_of(st.none(), st.lists(PARTS, max_size=3).map(tuple)),
    ),
    max_size=12,
)


def added(deltas: list[Delta]) -> Delta:
    total = DeltaSum()
    for delta in deltas:
        total.add(delta)
    return total.delta()


@given(DELTAS, st.lists(st.integers(0, 12), max_size=4))
def test_sums_of_sums_are_the_sum(deltas: list[Delta], cuts: list[int]) -> None:
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(deltas)), len(deltas)]
    groups = [deltas[start:end] for start, end in pairwise(bounds)]
    in_steps = added([added(group) for group in groups if group])
    at_once = added(deltas)
    assert replace(in_steps, parts=in_steps.all_parts()) == replace(
        at_once, parts=at_once.all_parts()
    )


@given(DELTAS)
def test_every_character_and_every_call_is_in_the_sum_in_order(deltas: list[Delta]) -> None:
    def flat(parts: tuple[AnswerPart, ...]) -> list[object]:
        return [
            one
            for part in parts
            for one in (
                [part] if isinstance(part, ToolCall) else [(type(part), c) for c in part.text]
            )
        ]

    total = added(deltas)
    assert flat(total.all_parts()) == [x for delta in deltas for x in flat(delta.all_parts())]
    assert total.token_ids == tuple(token for delta in deltas for token in delta.token_ids)
    assert total.text == "".join(delta.text for delta in deltas)


def test_single_values_are_kept_wherever_they_stand() -> None:
    logprob = TokenLogprob(1, -1.0, {})
    total = added(
        [
            Delta(2, "a", (1,), (logprob,), prompt_tokens=5, prompt_logprobs=(None,)),
            Delta(2, "b", (2,), (logprob,)),
            Delta(2, "", (), None, "stop", "x", Usage(5, 2)),
        ]
    )
    assert total == Delta(
        2, "ab", (1, 2), (logprob, logprob), "stop", "x", Usage(5, 2), (None,), None, None, 5
    )
    assert total.content == "ab"


def test_completions_of_one_request_are_added_apart() -> None:
    answers = AnswerSum()
    for index, text in ((1, "b"), (0, "a"), (1, "c"), (0, "d")):
        answers.add(Delta(index, text, (1,)))
    assert [(one.index, one.text) for one in answers.deltas()] == [(0, "ad"), (1, "bc")]
    first, second = answers.responses()
    assert (first.response_text, first.response_length, first.finish_reason) == ("ad", 2, "abort")
    assert second.parts == (TextPart("bc"),)
