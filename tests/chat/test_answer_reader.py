"""The readers of a stream: whatever the chunking, the same result as reading it whole."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.chat.answer_reader import (
    AnswerReader,
    ReasoningSplitter,
    SpecialTokenFilter,
    TextMarks,
    held_back,
)
from quire.messages import ToolCall
from quire.outputs import Delta, DeltaSum, TextPart, ThoughtPart, Usage
from quire.tools.registry import get_tool_format

WORDS = ("<think>\n", "\n</think>\n\n")


def split(chunks: list[str], *, inside: bool = False, continues: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(WORDS, inside=inside, continues=continues)
    pieces = [splitter.add(chunk) for chunk in chunks] + [splitter.flush()]
    return "".join(piece[0] for piece in pieces), "".join(piece[1] for piece in pieces)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello", ("", "Hello")),
        ("<think>\nshort\n</think>\n\nHello", ("short", "Hello")),
        ("<think>\n\n</think>\n\nHello", ("", "Hello")),
        ("\n<think>a</think>b", ("a", "b")),
        ("<think>\ncut off", ("cut off", "")),
        ("<thin", ("", "<thin")),
        ("a <think>b</think>", ("", "a <think>b</think>")),
        ("<think>\na\n\nb </thi x\n</think>\n\nc </think> d", ("a\n\nb </thi x", "c </think> d")),
        ("", ("", "")),
    ],
)
def test_splits_a_thought(text: str, expected: tuple[str, str]) -> None:
    assert split([text]) == expected
    assert split(list(text)) == expected


def test_a_thought_begun_in_the_prompt() -> None:
    assert split(list("so\n</think>\n\nyes"), inside=True) == ("so", "yes")


@pytest.mark.parametrize(
    ("inside", "text", "expected"),
    [
        (True, "\n\nand so\n</think>\n\nyes", ("\n\nand so", "yes")),
        (True, " so", (" so", "")),
        (False, "\n\nand so", ("", "\n\nand so")),
        (False, "<think>\nno", ("", "<think>\nno")),
    ],
)
def test_what_continues_a_text_keeps_its_line_breaks(
    inside: bool, text: str, expected: tuple[str, str]
) -> None:
    """Neither is it at the beginning, where a thought may be opened."""
    for chunks in ([text], list(text)):
        assert split(chunks, inside=inside, continues=True) == expected


@pytest.mark.parametrize(
    ("begun", "rest", "parts"),
    [
        ('<tool_call>\n{"name": "f", "ar', 'guments": {}}\n</tool_call>', [ToolCall("f", "{}")]),
        (
            "Hi.\n<tool",
            '_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
            [ToolCall("f", "{}")],
        ),
        ("a <", "b> c", [TextPart("b> c")]),
        ("a", " b", [TextPart(" b")]),
        ("a <tool", "s> b", [TextPart("s> b")]),
    ],
)
def test_a_call_that_the_prompt_has_begun(begun: str, rest: str, parts: list[Any]) -> None:
    """It is read whole, and no text of the prompt comes again."""
    for chunks in ([rest], list(rest)):
        reader = AnswerReader(
            thought_words=WORDS,
            continues=True,
            tools=partial(get_tool_format("qwen").parser, ()),
            begun=begun,
            decode=lambda ids: "",
        )
        whole = DeltaSum()
        for index, chunk in enumerate(chunks):
            last = index + 1 == len(chunks)
            whole.add(reader.read(Delta(text=chunk, finish_reason="stop" if last else None)))
        assert list(whole.parts) == parts
        called = isinstance(parts[-1], ToolCall)
        assert whole.finish_reason == ("tool_calls" if called else "stop")


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "\n", "a", "<", "/th", "ink>", " "]), max_size=12
    )
)
def test_any_chunking_gives_the_same(chunks: list[str]) -> None:
    assert split(chunks) == split(["".join(chunks)]) == split(list("".join(chunks)))


@given(st.lists(st.sampled_from(["<|end|>", "<|", "end", "|>", "<", "x", "<|endx"]), max_size=12))
def test_special_tokens_are_hidden_whatever_the_chunking(chunks: list[str]) -> None:
    whole = "".join(chunks)
    stream = SpecialTokenFilter(["<|end|>"])
    assert "".join(map(stream.add, list(whole))) + stream.flush() == whole.replace("<|end|>", "")


def test_plain_text_is_not_held_back() -> None:
    assert held_back("a < b", ["<think>"]) == 0
    assert held_back("a <th", ["<think>"]) == 3
    assert SpecialTokenFilter(["<|end|>"]).add("1 < 2, ") == "1 < 2, "


def reader(*, special: tuple[str, ...] = (), tools: bool = False) -> AnswerReader:
    """A reader of answers whose tokens are single characters, numbered by their code points."""
    tool_format = get_tool_format("qwen")
    return AnswerReader(
        special=special,
        thought_words=WORDS,
        tools=partial(tool_format.parser, TOOLS) if tools else None,
        decode=lambda ids: "".join(map(chr, ids)),
    )


TOOLS = ({"name": "f", "parameters": {"type": "object", "properties": {}}},)
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def read(text: str, cuts: list[str], one: AnswerReader) -> Delta:
    """The sum of what a reader makes of a text that comes in pieces."""
    assert "".join(cuts) == text
    total = DeltaSum()
    for number, piece in enumerate(cuts, start=1):
        last = number == len(cuts)
        ids = tuple(map(ord, piece))
        usage = Usage(1, len(text)) if last else None
        delta = Delta(0, piece, ids, finish_reason="stop" if last else None, usage=usage)
        total.add(one.read(delta))
    return total.delta()


def test_hidden_texts_leave_all_three_streams() -> None:
    text = "<think>a<s>b</think><s>c<s>"
    found = read(text, list(text), reader(special=("<s>",)))
    assert (found.reasoning, found.content) == ("ab", "c")
    assert found.text == "<think>ab</think>c"


def test_parts_come_in_the_order_in_which_they_were_written() -> None:
    text = f"<think>hm</think>\n\na {CALL} b {CALL} c"
    call = ToolCall("f", "{}")
    wanted = (ThoughtPart("hm"), TextPart("a "), call, TextPart(" b "), call, TextPart(" c"))
    for cuts in ([text], list(text), [text[:20], text[20:]]):
        found = read(text, cuts, reader(tools=True))
        assert found.parts == wanted
        assert found.finish_reason == "tool_calls"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", CALL, "a", " ", "\n", "<s>", "<"]), max_size=8)
)
def test_parts_do_not_depend_on_the_cuts(pieces: list[str]) -> None:
    text = "".join(pieces)
    wanted = read(text, [text], reader(special=("<s>",), tools=True))
    for cuts in (pieces or [""], list(text) or [""]):
        found = read(text, cuts, reader(special=("<s>",), tools=True))
        assert found.parts == wanted.parts
        assert found.text == wanted.text
        assert found.finish_reason == wanted.finish_reason


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("<think>abcd</think>e", 4),
        ("<think>ab", 2),
        ("a <think>b</think>", 0),
        ("abc", 0),
    ],
)
def test_the_tokens_of_a_thought_are_counted(text: str, counted: int) -> None:
    """One by one the tokens of the markers' own characters count with what they may yet become."""
    whole = read(text, [text], reader())
    assert whole.usage is not None
    assert whole.usage.reasoning_tokens == counted
    by_marker = [piece for piece in re.split("(</?think>)", text) if piece]
    cuts = [cut for piece in by_marker for cut in ([piece] if "think" in piece else list(piece))]
    streamed = read(text, cuts, reader())
    assert streamed.usage is not None
    assert streamed.usage.reasoning_tokens == counted


def test_plain_deltas_pass_through_as_they_are() -> None:
    one = reader()
    one.read(Delta(0, "He", (1,)))
    delta = Delta(0, "llo", (2,))
    assert one.read(delta) is delta


# --- calls in thoughts, and what stands around texts -----------------------------------------------


def parts_of(text: str, size: int, **arguments: Any) -> list[tuple[str, str]]:
    """The parts that a reader makes of a text in pieces of some size, as kinds and texts."""
    tool_format = get_tool_format("qwen")
    answer = AnswerReader(
        thought_words=WORDS,
        tools=partial(tool_format.parser, TOOLS),
        openings=tool_format.openings,
        decode=lambda ids: "",
        **arguments,
    )
    found: list[tuple[str, str]] = []
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    for index, piece in enumerate(pieces):
        last = index == len(pieces) - 1
        delta = Delta(0, piece, finish_reason="stop" if last else None)
        for part in answer.read(delta).all_parts():
            kind = type(part).__name__
            content = part.name if isinstance(part, ToolCall) else part.text
            if found and found[-1][0] == kind != "ToolCall":
                content = found.pop()[1] + content
            found.append((kind, content))
    return found


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"<think>I call.\n{CALL}", [("ThoughtPart", "I call."), ("ToolCall", "f")]),
        (
            f"<think>I call.\n{CALL}\n{CALL}",
            [("ThoughtPart", "I call."), ("ToolCall", "f"), ("ToolCall", "f")],
        ),
        (
            f"<think>So {CALL} would do.</think>Done.",
            [("ThoughtPart", f"So {CALL} would do."), ("TextPart", "Done.")],
        ),
        (
            f"<think>So {CALL}</think>{CALL}",
            [("ThoughtPart", f"So {CALL}"), ("ToolCall", "f")],
        ),
        ("<think>A <tool_call> is", [("ThoughtPart", "A <tool_call> is")]),
    ],
)
def test_a_call_in_a_thought_is_one_where_nothing_closes_it(
    text: str, expected: list[tuple[str, str]], size: int
) -> None:
    assert parts_of(text, size) == expected


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|START|>Yes.<|STOP|>", [("TextPart", "Yes.")]),
        ("Yes.", [("TextPart", "Yes.")]),
        ("all\nYes, all\n of it.", [("TextPart", "Yes, all\n of it.")]),
        ("<think>So.</think><|START|>Yes.<|STOP|>", [("ThoughtPart", "So."), ("TextPart", "Yes.")]),
        (f"Wait.<|STOP|>{CALL}", [("TextPart", "Wait."), ("ToolCall", "f")]),
        ("Yes.<think>\n</think> Or no.", [("TextPart", "Yes. Or no.")]),
        ("Say <think> aloud.", [("TextPart", "Say <think> aloud.")]),
        ("</think>Yes.", [("TextPart", "Yes.")]),
    ],
)
def test_what_stands_around_a_text_is_no_text(
    text: str, expected: list[tuple[str, str]], size: int
) -> None:
    marks = TextMarks(("<|START|>", "all\n"), ("<|STOP|>",), WORDS)
    assert parts_of(text, size, marks=marks) == expected


def test_a_thought_that_is_opened_twice() -> None:
    assert parts_of("<think>\nSo.</think>Yes.", 3, inside=True) == [
        ("ThoughtPart", "So."),
        ("TextPart", "Yes."),
    ]
