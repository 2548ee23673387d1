"""Long texts at the prompt: a few words in their place, and all of them when they are sent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples, fragment_list_to_text
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.layout.controls import BufferControl
from prompt_toolkit.layout.processors import Transformation, TransformationInput
from prompt_toolkit.output import DummyOutput

from quire.cli.chat.folded_texts import (
    MOST_CHARACTERS,
    MOST_LINES,
    FoldedProcessor,
    FoldedTexts,
    is_long,
)
from quire.cli.chat.reader import TerminalReader, open_history

LONG = "\n".join(f"line {number}\tof 你好" for number in range(1, 215))
ENTER, BACKSPACE, LEFT, UNDO, EDIT, UP = "\r", "\x7f", "\x1b[D", "\x1f", "\x18\x05", "\x1b[A"


def pasted(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


def typed(*lines: str) -> list[str]:
    """What a reader gives for these keys, each time that it is asked."""
    with create_pipe_input() as pipe:
        one = TerminalReader(history=InMemoryHistory(), input=pipe, output=DummyOutput())
        read: list[str] = []
        for line in lines:
            pipe.send_text(line)
            read.append(one.read(">"))
        return read


def drawn(folded: FoldedTexts, line: str) -> Transformation:
    fragments: StyleAndTextTuples = [("", line[:3]), ("class:x", line[3:])]
    one = TransformationInput(
        BufferControl(), Document(line), 0, lambda place: place, fragments, 80, 24
    )
    return FoldedProcessor(folded).apply_transformation(one)


def test_a_long_text_is_sent_whole() -> None:
    assert typed(f"read {pasted(LONG)} now{ENTER}") == [f"read {LONG} now"]


def test_two_long_texts_are_told_apart() -> None:
    other = LONG.upper()
    assert typed(pasted(LONG) + pasted(other) + ENTER) == [LONG + other]


@pytest.mark.parametrize("keys", [f"{BACKSPACE}", f"{LEFT}\x1b[3~", "\x15"])
def test_one_key_deletes_it(keys: str) -> None:
    assert typed(f"{pasted(LONG)}{keys}one{ENTER}") == ["one"]


def test_the_cursor_steps_over_it_and_undoing_brings_it_back() -> None:
    assert typed(f"{pasted(LONG)}{LEFT}a {ENTER}") == [f"a {LONG}"]
    assert typed(f"{pasted(LONG)}{BACKSPACE}{UNDO}{ENTER}") == [LONG]


def test_the_last_question_comes_back_as_it_was_typed() -> None:
    first, second = typed(f"read {pasted(LONG)}{ENTER}", f"{UP}!{ENTER}")
    assert second == f"{first}!"


@pytest.mark.parametrize(
    ("text", "long"),
    [
        ("\n" * (MOST_LINES - 1), False),
        ("\n" * MOST_LINES, True),
        ("a" * MOST_CHARACTERS, False),
        ("a" * (MOST_CHARACTERS + 1), True),
    ],
)
def test_what_is_long(text: str, long: bool) -> None:
    assert is_long(text) is long
    assert (FoldedTexts().paste(text) == text) is not long


def test_it_is_drawn_as_a_few_words() -> None:
    folded = FoldedTexts()
    line = f"read {folded.paste(LONG)} now, {folded.paste('a' * 2345)}"
    shown = fragment_list_to_text(drawn(folded, line).fragments)
    assert shown == "read [pasted text, 214 lines] now, [pasted text, 2,345 characters]"


def test_a_place_in_what_is_drawn_is_one_in_the_line() -> None:
    folded = FoldedTexts()
    line = f"ab{folded.paste(LONG)}cd"
    change = drawn(folded, line)
    label = len("[pasted text, 214 lines]")
    assert [change.source_to_display(place) for place in range(7)] == [
        0, 1, 2, 2 + label, 3 + label, 4 + label, 5 + label,
    ]  # fmt: skip
    assert [change.display_to_source(change.source_to_display(place)) for place in range(7)] == [
        *range(7)
    ]
    assert change.display_to_source(5) == 2  # a click on a label is one on its beginning


@given(st.lists(st.text(max_size=5) | st.integers(0, 3)))
def test_unfolding_gives_the_text_back(parts: list[str | int]) -> None:
    folded = FoldedTexts()
    texts = [part if isinstance(part, str) else LONG + str(part) for part in parts]
    shown = "".join(map(folded.paste, texts))
    assert folded.unfold(shown) == "".join(texts)
    assert folded.unfold(folded.fold_again("".join(texts))) == "".join(texts)


def test_the_editor_shows_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "editor.py"
    script.write_text(
        "import pathlib, sys\nfile = pathlib.Path(sys.argv[1])\ntext = file.read_text('utf-8')\n"
        f"pathlib.Path({str(tmp_path / 'seen')!r}).write_text(text, 'utf-8')\n"
        "file.write_text('First: ' + text, 'utf-8')\n"
    )
    monkeypatch.setenv("VISUAL", f"{sys.executable} {script}")
    with create_pipe_input() as pipe:
        one = TerminalReader(history=InMemoryHistory(), input=pipe, output=DummyOutput())
        buffer = one._session.default_buffer
        shown: list[str] = []

        def send(_: object) -> None:
            if buffer.text.startswith("First"):
                shown.append(buffer.text)
                pipe.send_text(f"!{ENTER}")

        buffer.on_text_changed += send
        pipe.send_text(f"{pasted(LONG)}{EDIT}")
        assert one.read(">") == f"First: {LONG}!"
    assert (tmp_path / "seen").read_text("utf-8") == f"{LONG}\n"
    assert len(shown[0]) == len("First: ") + 1  # folded again


def test_the_history_keeps_the_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folded = FoldedTexts()
    open_history(folded).append_string(f"read {folded.paste(LONG)}")
    later = FoldedTexts()
    (line,) = open_history(later).load_history_strings()
    assert later.unfold(line) == f"read {LONG}"
    shown = fragment_list_to_text(drawn(later, line).fragments)
    assert shown == "read line 1\tof 你好 [and 213 lines more]"


def test_a_dumb_terminal_gets_what_was_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert typed(f"{pasted(LONG)}{ENTER}") == [LONG]
