"""Markdown that grows: in the end it stands as if it had been printed at once."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from quire.cli.chat.markdown import MarkdownStream, render, split_blocks
from tests.cli.screen import Screen

LONG = "\n".join(
    [
        "# A title",
        "",
        "Some *text* with `code` and **bold**, long enough to be broken into several lines of it.",
        "",
        "- one",
        "- two",
        "  - three",
        "",
        "1. first",
        "",
        "2. second",
        "",
        "```python",
        *(f"print({number})" for number in range(40)),
        "```",
        "> a quotation",
        "",
        "| a | b |",
        "|---|---|",
        *(f"| x | row {number} |" for number in range(30)),
        "",
        "The end.",
    ]
)
FRAGMENTS = st.sampled_from(
    [
        "word ",
        "words and words ",
        "\n",
        "\n\n",
        "- item\n",
        "1. one\n",
        "2",
        "`code`",
        "**bold** ",
        "```\n",
        "# Title\n",
        "> quoted\n",
        "| a | b |\n|---|---|\n",
        "| 1 | 2 |\n",
        "---\n",
        "    code\n",
        "中文字 ",
        "***\n",
        "[a](http://b) ",
        "<b>",
        "&lt;",
        "\t",
        "[a]: b\n",
        "![i](j)",
        "\\",
        "~~no~~ ",
    ]
)


class Clock:
    """A drawing is due at each piece, as if pieces came slowly."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def streamed(pieces: Iterable[str], width: int = 40, height: int = 10) -> Screen:
    output = io.StringIO()
    console = Console(
        file=output, force_terminal=True, width=width, height=height, color_system=None, _environ={}
    )
    stream = MarkdownStream(console, clock=Clock(), interval=0)
    for piece in pieces:
        stream.add(piece)
    stream.finish()
    screen = Screen(width, height)
    screen.feed(output.getvalue())
    return screen


def at_once(text: str, width: int = 40) -> str:
    output = io.StringIO()
    stream = MarkdownStream(Console(file=output, width=width, height=10))
    stream.add(text)
    stream.finish()
    return "\n".join(line.rstrip() for line in output.getvalue().rstrip().split("\n"))


def _without_widths(text: str) -> str:
    return re.sub(" +", " ", text.replace("─", ""))


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_an_answer_longer_than_the_screen_stands_once_and_whole(size: int) -> None:
    pieces = [LONG[start : start + size] for start in range(0, len(LONG), size)]
    shown = streamed(pieces).text
    # What scrolled away keeps the widths that the table had then.
    assert _without_widths(shown) == _without_widths(at_once(LONG))
    for number in range(40):
        assert shown.count(f"print({number})") == 1
    for number in range(30):
        assert shown.count(f"row {number}\n") == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAGMENTS, max_size=25))
@example(["- item\n", "\n", "2", ". more"])
def test_growing_in_a_high_window_ends_as_printed_at_once(fragments: list[str]) -> None:
    assert streamed(fragments, height=200).text == at_once("".join(fragments)).lstrip("\n")


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAGMENTS, max_size=25), st.integers(1, 12), st.integers(4, 9))
def test_any_text_in_any_window_is_shown_and_does_no_harm(
    fragments: list[str], width: int, height: int
) -> None:
    streamed(fragments, width, height)  # Screen refuses what rich would not write


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    for control in ("\x1b[2J", "\x9b", "\u202e", "&#27;[31m", "%1B"):
        text = text[: len(text) // 2] + control + text[len(text) // 2 :]
    streamed(text)


def test_blocks_split_to_the_same_text() -> None:
    blocks, tail = split_blocks(LONG)
    assert "\n".join([*blocks, tail]) == LONG
    assert tail == "The end."


def test_code_is_shown_as_it_is_written() -> None:
    console = Console(width=40)
    lines = render("```\n  a\n\nb\n```", console)
    assert ["".join(part.text for part in line) for line in lines] == ["  a", "", "b"]


def test_a_dumb_terminal_gets_no_commands() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=40, _environ={"TERM": "dumb"})
    stream = MarkdownStream(console, clock=Clock(), interval=0)
    for piece in LONG.split(" "):
        stream.add(piece + " ")
    stream.finish()
    assert "\x1b" not in output.getvalue()
    assert "The end." in output.getvalue()
