"""Answers as blocks: the same blocks however they are cut into deltas."""

from __future__ import annotations

import random

import pytest

from quire.chat.response import ChatDelta
from quire.messages import ToolCall
from quire.outputs import TokenLogprob
from quire.server.blocks import BlockReader
from tests.server.apis.streams import ANSWERS, Answer

Block = tuple[str, str | ToolCall]


def blocks(deltas: list[ChatDelta]) -> list[Block]:
    """The blocks that the reader's pieces form."""
    reader = BlockReader()
    found: list[Block] = []
    for piece in (piece for delta in deltas for piece in reader.add(delta)):
        if piece.call is not None:
            found.append(("call", piece.call))
        elif found and found[-1][0] == piece.kind:
            found[-1] = (piece.kind, str(found[-1][1]) + piece.text)
        else:
            found.append((piece.kind, piece.text))
    return found


def expected(answer: Answer) -> list[Block]:
    """What a person would write down: no block of white space beside others."""
    found: list[Block] = []
    if answer.thought.strip():
        found.append(("thought", answer.thought))
    if answer.text.strip() or (answer.text and not found and not answer.calls):
        found.append(("text", answer.text))
    return [*found, *(("call", call) for call in answer.calls)]


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_blocks_do_not_depend_on_the_cuts(answer: Answer) -> None:
    assert blocks(answer.whole()) == expected(answer)
    for seed in range(30):
        assert blocks(answer.cut(random.Random(seed))) == expected(answer)


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    call = ToolCall("f", "{}")
    deltas = [
        ChatDelta(content="a"),
        ChatDelta(tool_calls=(call,)),
        ChatDelta(content="\n"),
        ChatDelta(tool_calls=(call,)),
        ChatDelta(content="\n"),
        ChatDelta(content="b", finish_reason="stop"),
    ]
    assert blocks(deltas) == [("text", "a"), ("call", call), ("call", call), ("text", "\nb")]


def test_logprobs_go_with_the_text_they_are_of() -> None:
    def one(number: int) -> tuple[TokenLogprob, ...]:
        return (TokenLogprob(number, -1.0, {}),)

    deltas = [
        ChatDelta(reasoning="hm", logprobs=one(1)),
        ChatDelta(logprobs=one(2)),  # what ends the thought
        ChatDelta(content="a", logprobs=one(3)),
        ChatDelta(logprobs=one(4)),  # half a character
        ChatDelta(content="ü", logprobs=one(5)),
        ChatDelta(finish_reason="stop", logprobs=one(6)),  # the end of the turn
    ]
    reader = BlockReader()
    pieces = [piece for delta in deltas for piece in reader.add(delta)]
    shown = [[logprob.token_id for logprob in piece.logprobs] for piece in pieces]
    assert [piece.text for piece in pieces] == ["hm", "a", "ü"]
    assert shown == [[], [3], [4, 5]]
