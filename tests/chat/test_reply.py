"""The readers of a stream: whatever the chunking, the same result as reading it whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.chat.reply import ReasoningSplitter, ReplyReader, SpecialTokenFilter, held_back

WORDS = ("<think>\n", "\n</think>\n\n")


def split(chunks: list[str], *, inside: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(WORDS, inside=inside)
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


def test_hidden_texts_leave_all_three_streams() -> None:
    reader = ReplyReader(special=["<s>"], reasoning=ReasoningSplitter(WORDS), tools=None)
    parts = [reader.add(char) for char in "<think>a<s>b</think><s>c<s>"] + [reader.flush()]
    assert "".join(part.reasoning for part in parts) == "ab"
    assert "".join(part.content for part in parts) == "c"
    assert "".join(part.text for part in parts) == "<think>ab</think>c"
