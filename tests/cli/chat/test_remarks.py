"""Remarks of quire's own on terminals of any width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from quire.cli.chat.remarks import two_columns, wrapped_remark

TEXT = st.text(st.sampled_from("ab 中\n"), max_size=60)


@given(TEXT, st.integers(4, 30))
def test_lines_end_between_words_and_nothing_is_lost(text: str, width: int) -> None:
    shown = wrapped_remark(text, width)
    assert shown.split() == text.split()
    for line in shown.split("\n"):
        assert cell_len(line.rstrip()) <= width or max(map(cell_len, line.split())) > width


def test_a_path_is_left_to_the_terminal_so_that_it_is_copied_whole() -> None:
    path = "/a/long/path/to/chats.db"
    assert wrapped_remark(f"Saved 2 messages to {path}.", 20) == f"Saved 2 messages to {path}."
    assert wrapped_remark(f"kept as 12 in {path} now, and more", 20) == (
        f"kept as 12 in {path}\nnow, and more"
    )


@pytest.mark.parametrize(
    ("width", "between", "lines"),
    [
        (41, "  ", ["name    a word", "longer  some words more"]),
        (19, "  ", ["name    a word", "longer  some words", "        more"]),
        (15, "  ", ["name", "  a word", "longer", "  some words", "  more"]),
        (17, " = ", ["name = a word", "longer = some", "  words more"]),
    ],
)
def test_names_and_what_is_said_of_them(width: int, between: str, lines: list[str]) -> None:
    rows = {"name": "a word", "longer": "some words more"}
    assert two_columns(rows, width, between).split("\n") == lines
