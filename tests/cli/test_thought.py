"""A thought is shown whole, wrapped at words, and harmless."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from quire.cli.thought import ThoughtStream


def shown(pieces: list[str], width: int = 20) -> str:
    output = io.StringIO()
    stream = ThoughtStream(Console(file=output, width=width))
    for piece in pieces:
        stream.add(piece)
    stream.finish()
    return output.getvalue()


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_lines_break_between_words(size: int) -> None:
    text = "\nI should add the units first.\nThen the tens.\n\n"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert [line.rstrip() for line in shown(pieces).split("\n")] == [
        "Thinking:",
        "I should add the",
        "units first.",
        "Then the tens.",
        "",
        "",
    ]


def test_without_a_thought_nothing_is_shown() -> None:
    assert shown([]) == shown(["\n", ""]) == ""


@given(st.lists(st.text(alphabet="abc de\n\t中", max_size=12)), st.integers(8, 20))
def test_no_word_is_lost_and_short_words_fit_their_lines(pieces: list[str], width: int) -> None:
    text = "".join(pieces)
    lines = shown(pieces, width)
    assert "".join(lines.removeprefix("Thinking:").split()) == "".join(text.split())
    single = "  " not in text and "\t" not in text
    if single and all(cell_len(word) < width for word in text.split()):
        assert all(cell_len(line.rstrip()) <= width for line in lines.split("\n")[1:])


def test_control_characters_are_made_harmless() -> None:
    assert "␛[2J" in shown(["a\x1b", "[2J"])


def test_a_line_that_is_full_is_broken() -> None:
    assert shown(["aaaaa\ta"], width=8) == "Thinking:\naaaaa   \na\n\n"
    assert shown(["aaaaaaaa a"], width=8) == "Thinking:\naaaaaaaa\na\n\n"
