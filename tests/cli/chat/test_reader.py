"""Typing: several lines, pasting, history, completion."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from quire.cli.chat.editor import NO_EDITOR, find_editor
from quire.cli.chat.folded_texts import FoldedTexts
from quire.cli.chat.reader import (
    CommandCompleter,
    TerminalReader,
    offers_words,
    open_history,
)
from quire.cli.chat.slash_commands import COMMANDS
from quire.options import OPTIONS_BY_NAME

ENTER, ALT_ENTER, UP = "\r", "\x1b\r", "\x1b[A"


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


def reader(keys: PipeInput) -> TerminalReader:
    return TerminalReader(history=InMemoryHistory(), input=keys, output=DummyOutput())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (f"one{ENTER}", "one"),
        (f"one{ALT_ENTER}two{ENTER}", "one\ntwo"),
        (f"one\\{ENTER}two{ENTER}", "one\ntwo"),
        (f"\x1b[200~one\ntwo\\\nthree\x1b[201~{ENTER}", "one\ntwo\\\nthree"),
        (f"naïve 中文 🙂{ENTER}", "naïve 中文 🙂"),
        (f'"""one{ENTER}two"""{ENTER}', '"""one\ntwo"""'),
        (f'"""a docstring""" x{ENTER}', '"""a docstring""" x'),
    ],
)
def test_typing(keys: PipeInput, typed: str, expected: str) -> None:
    keys.send_text(typed)
    assert reader(keys).read(">") == expected


@pytest.mark.parametrize(("typed", "error"), [("a\x03", KeyboardInterrupt), ("\x04", EOFError)])
def test_ctrl_c_and_ctrl_d(keys: PipeInput, typed: str, error: type[BaseException]) -> None:
    keys.send_text(typed)
    with pytest.raises(error):
        reader(keys).read(">")


def test_the_editor_changes_what_is_typed(
    keys: PipeInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is not sent before Enter."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "and\\nmore\\n" >> "$1"\n')
    editor.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(editor))
    one = reader(keys)
    session = one._session
    session.default_buffer.on_text_changed += lambda buffer: (
        keys.send_text(f"!{ENTER}") if buffer.text.endswith("more") else None
    )
    keys.send_text("one\x18\x05")
    assert one.read(">") == "one\nand\nmore!"


def test_without_an_editor_a_text_is_changed_at_the_prompt(
    keys: PipeInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    keys.send_text(f"!{ENTER}")
    assert reader(keys).edit("answer>", "one") == "one!"
    monkeypatch.setenv("EDITOR", sys.executable + " -c pass")
    assert reader(keys).edit("answer>", "one") == "one"


def test_without_an_editor_the_key_says_what_to_set(
    keys: PipeInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.setattr(
        "quire.cli.chat.reader.note", lambda text: keys.send_text(f" {text[:9]}{ENTER}")
    )
    keys.send_text("one\x18\x05")
    assert reader(keys).read(">") == f"one {NO_EDITOR[:9]}"


def test_the_editor_that_was_chosen_comes_before_the_usual_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("vi", "nano"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    assert find_editor() == "nano"
    monkeypatch.setenv("EDITOR", "ed")
    assert find_editor() == "ed"
    monkeypatch.setenv("VISUAL", "code --wait")
    assert find_editor() == "code --wait"


@pytest.mark.parametrize(
    ("typed", "offers"),
    [("", False), ("hello", False), ("/", True), ("//", False), ("/a\n", False), ("see @s", True)],
)
def test_room_for_a_menu_is_taken_where_words_are_offered(typed: str, offers: bool) -> None:
    assert offers_words(typed) is offers


def test_what_was_typed_before_the_first_prompt_is_not_lost(keys: PipeInput) -> None:
    typed = f"Hello é{ENTER}and"
    one = TerminalReader(typed=typed, history=InMemoryHistory(), input=keys, output=DummyOutput())
    assert one.read(">") == "Hello é"
    keys.send_text(f" more{ENTER}")
    assert one.read(">") == "and more"


def test_the_last_line_comes_back_with_the_arrow(keys: PipeInput) -> None:
    one = reader(keys)
    keys.send_text(f"first{ENTER}")
    one.read(">")
    keys.send_text(f"{UP}{ENTER}")
    assert one.read(">") == "first"


def test_the_history_is_kept_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    open_history(FoldedTexts()).append_string("a question\nof two lines")
    assert list(open_history(FoldedTexts()).load_history_strings()) == ["a question\nof two lines"]
    file = tmp_path / "quire" / "chat_history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_history_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("quire.cli.chat.reader._MOST_HISTORY", 1000)
    lines = [f"question {number}\n# of two lines" for number in range(40)]
    history = open_history(FoldedTexts())
    for line in lines:
        history.append_string(line)
    kept = list(open_history(FoldedTexts()).load_history_strings())
    assert 0 < len(kept) < 20
    assert kept == lines[: -len(kept) - 1 : -1]
    file = tmp_path / "quire" / "chat_history"
    assert file.stat().st_size <= 500
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in file.parent.iterdir()] == ["chat_history"]


def test_without_a_place_the_history_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert isinstance(open_history(FoldedTexts()), InMemoryHistory)


def completions(text: str) -> list[str]:
    found = CommandCompleter(COMMANDS).get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + item.start_position] + item.text for item in found]


def test_settings_are_offered_with_their_meaning() -> None:
    document = Document("/set top_k")
    (one,) = CommandCompleter(COMMANDS).get_completions(document, CompleteEvent())
    assert one.display_meta_text == OPTIONS_BY_NAME["top_k"].meaning


def test_completion(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text("")
    assert completions("/") == list(COMMANDS)
    assert completions("/cl") == ["/clear"]
    assert completions("/set temp") == ["/set temperature"]
    assert completions("/help temp") == ["/help temperature"]
    assert completions("/think o") == ["/think on", "/think off"]
    assert completions(f"/load {tmp_path}/ch") == [f"/load {tmp_path}/chat.json"]
    assert completions(f"read @{tmp_path}/ch") == [f"read @{tmp_path}/chat.json"]
    assert completions(f"a@{tmp_path}/ch") == []
    assert completions("hello /") == completions("//") == completions("/clear ") == []
