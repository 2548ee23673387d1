"""What a model writes can show nothing but text."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.characters import harmless
from quire.cli.terminal import Harmless, report_error

ANY = st.text(alphabet=st.characters(exclude_categories=()), max_size=80)
BIDI = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


@given(ANY)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for character in harmless(text):
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")
        assert character not in BIDI


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S", "Zs", "M"))))
def test_plain_text_of_any_script_is_left_as_it_is(text: str) -> None:
    assert harmless(text) == text


@given(ANY, st.lists(st.integers(0, 80)))
def test_a_stream_is_made_harmless_as_the_whole_is(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    stream = Harmless()
    pieces = [stream.add(text[start:end]) for start, end in pairwise(places)]
    assert "".join([*pieces, stream.flush()]) == harmless(text)


def test_the_line_break_of_windows_is_one() -> None:
    stream = Harmless()
    assert stream.add("a\r") + stream.add("\nb\r") + stream.flush() == "a\nb\u240d"


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report_error("no such file:\n\x1b[2Jx")
    assert capsys.readouterr().err == "quire: no such file: \u241b[2Jx\n"
