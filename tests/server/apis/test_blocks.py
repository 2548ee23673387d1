"""Answers as blocks: the same blocks however they are cut into deltas."""

from __future__ import annotations

import random

import pytest

from quire.messages import ToolCall
from quire.outputs import ChatDelta, TokenLogprob
from quire.server.apis.blocks import BlockReader
from tests.chat.deltas import gained
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
        gained(content="a"),
        gained(tool_calls=(call,)),
        gained(content="\n"),
        gained(tool_calls=(call,)),
        gained(content="\n"),
        gained(content="b", finish_reason="stop"),
    ]
    assert blocks(deltas) == [("text", "a"), ("call", call), ("call", call), ("text", "\nb")]


def test_logprobs_go_with_the_text_they_are_of() -> None:
    def one(number: int) -> tuple[TokenLogprob, ...]:
        return (TokenLogprob(number, -1.0, {}),)

    deltas = [
        gained(reasoning="hm", logprobs=one(1)),
        gained(logprobs=one(2)),  # what ends the thought
        gained(content="a", logprobs=one(3)),
        gained(logprobs=one(4)),  # half a character
        gained(content="ü", logprobs=one(5)),
        gained(finish_reason="stop", logprobs=one(6)),  # the end of the turn
    ]
    reader = BlockReader()
    pieces = [piece for delta in deltas for piece in reader.add(delta)]
    shown = [[logprob.token_id for logprob in piece.logprobs] for piece in pieces]
    assert [piece.text for piece in pieces] == ["hm", "a", "ü"]
    assert shown == [[], [3], [4, 5]]
