"""Words of other programs are understood, or it is said what does the same."""

from __future__ import annotations

import pytest

from quire.cli.chat.other_programs import NAMES, in_our_words
from quire.cli.chat.session import SETTINGS
from quire.cli.chat.slash_commands import COMMANDS
from tests.cli.chat.test_terminal_chat import contents, converse


@pytest.mark.parametrize("word", ["exit", "quit", "Exit ", "/bye", "/quit", "/q", ".exit"])
def test_words_that_leave(word: str) -> None:
    assert contents(converse(word, "never sent")[1]) == []


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("/set system Be brief.", "/system Be brief."),
        ('/set system """Be\nbrief."""', "/system Be\nbrief."),
        ("/set verbose", "/stats on"),
        ("/set quiet", "/stats off"),
        ("/set think", "/think on"),
        ("/set think high", "/think high"),
        ("/set nothink", "/think off"),
        ("/set format json", '/set response_format {"type": "json_object"}'),
        ("/set noformat", "/set response_format default"),
        ("/set parameter temperature 0.5", "/set temperature 0.5"),
        ("/set parameter num_predict 5", "/set max_new_tokens 5"),
        ("/set parameter repeat_penalty 1.1", "/set repetition_penalty 1.1"),
        ("/set parameter stop END 'a b'", '/set stop ["END", "a b"]'),
        ("/set parameter stop [END]", "/set stop [END]"),
        ("/set temperature 0.5", "/set temperature 0.5"),
        ("/set", "/set"),
        ("/show", "/info"),
        ("/show info", "/info"),
        ("/show parameters", "/set"),
        ("/show system", "/system"),
        ("/read a file.txt", "/file a file.txt"),
        ("/glob *.py", "/file *.py"),
        ("/? set", "/help set"),
        (".file a.txt", "/file a.txt"),
        (".regenerate", "/retry"),
        (".filed", ".filed"),
        ("a sentence ", "a sentence "),
        ("...and so on", "...and so on"),
        ("!important", "!important"),
        ("clear the table", "clear the table"),
        ("/save my chat.md", "/save my chat.md"),
    ],
)
def test_words_that_are_understood(word: str, ours: str) -> None:
    assert in_our_words(word) == ours


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("clear", "/clear begins a new conversation"),
        ("help", "/help lists the commands"),
        ("!multi", "Several lines"),
        ("!fragment notes", "@ before a path"),
        (".role poet", "/system TEXT"),
        ("/set format xml", "response_format"),
        ("/list", "quire list"),
        ("/undo", "/edit question"),
        ("/set wordwrap", "wrapped between words"),
        ("/set parameter num_ctx 8192", "vllm_maxlen"),
        ("/show template", "quire prompt"),
        ("/show colours", "/show takes info, parameters, system"),
    ],
)
def test_words_that_are_told(word: str, text: str) -> None:
    _, model, shown = converse(word, f" {word}")
    assert text in " ".join(shown.split())
    assert contents(model) == [[f" {word}"]]


def test_what_stands_for_a_word_is_there() -> None:
    assert set(NAMES.values()) <= COMMANDS.keys()
    assert not NAMES.keys() & COMMANDS.keys()
    assert in_our_words("/set parameter num_predict 5").split()[1] in SETTINGS


def test_other_names_of_commands_are_understood() -> None:
    _, model, shown = converse(
        "/set parameter temperature 0", "one", "/regen", "/new", "/show", "two"
    )
    assert [request["temperature"] for request in model.requests] == [0, 0, 0]
    assert contents(model) == [["one"], ["one"], ["two"]]
    assert "FakeEngine, 4,096 tokens of context" in shown


def test_the_keys_are_told() -> None:
    assert "Ctrl-X Ctrl-E opens the editor" in converse("/? shortcuts")[2]


def test_several_lines_that_begin_with_a_slash_are_a_text() -> None:
    _, model, _ = converse("/* a comment\n * of two lines */", "/system Be\nbrief.", "one")
    assert contents(model)[0] == ["/* a comment\n * of two lines */"]
    assert model.requests[1]["system"] == "Be\nbrief."
