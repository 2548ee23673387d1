"""An answer on the screen: its parts in the order in which they were written, whatever the cuts."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from quire.cli.chat.answer import Answer, receive
from quire.cli.chat.answer_view import AnswerView, ThoughtStream
from quire.cli.signals import Suspension
from quire.messages import ToolCall
from quire.outputs import AnswerPart, Delta, TextPart, ThoughtPart, Usage
from tests.cli.screen import Screen

CALL = ToolCall("get_weather", '{"city": "Oslo"}')


def on_screen(deltas: Iterable[Delta], *, terminal: bool = False) -> str:
    output = io.StringIO()
    console = Console(
        file=output, width=40, height=200, force_terminal=terminal, color_system=None, _environ={}
    )
    view = AnswerView(console)
    for delta in deltas:
        view.show(delta)
    view.finish()
    screen = Screen(40, 200)
    screen.feed(output.getvalue())
    return screen.text


def delta_of(*parts: AnswerPart) -> Delta:
    text = "".join("[call]" if isinstance(part, ToolCall) else part.text for part in parts)
    return Delta(text=text, parts=parts)


# --- parts in order ----------------------------------------------------------------------------


def test_parts_of_one_delta_are_shown_in_their_order() -> None:
    parts = (
        TextPart("Let me look."),
        CALL,
        TextPart("It is 3 degrees."),
        ThoughtPart("Is that all?"),
        TextPart("Yes."),
    )
    lines = on_screen([delta_of(*parts)]).split("\n")
    assert [line for line in lines if line] == [
        "Let me look.",
        '⚙ get_weather {"city": "Oslo"}',
        "It is 3 degrees.",
        "Thinking:",
        "Is that all?",
        "Yes.",
    ]


def test_a_delta_that_was_not_taken_apart_is_text() -> None:
    assert on_screen([Delta(text="<b>"), Delta(text="c")]) == "<b>c"


TEXTS = st.text(alphabet="ab \n.*`-", max_size=12)
PARTS = st.lists(st.one_of(st.just(CALL), TEXTS.map(TextPart), TEXTS.map(ThoughtPart)), max_size=6)


def cut(parts: list[AnswerPart], cuts: list[int]) -> list[Delta]:
    """Deltas that together have these parts, cut between any two characters."""
    units: list[AnswerPart] = []
    for part in parts:
        units += [part] if isinstance(part, ToolCall) else map(type(part), part.text)
    bounds = [0, *sorted(min(one, len(units)) for one in cuts), len(units)]
    return [delta_of(*units[start:end]) for start, end in pairwise(bounds)]


@pytest.mark.parametrize("terminal", [False, True])
@given(PARTS, st.lists(st.integers(0, 60), max_size=8))
@settings(deadline=None)
def test_cuts_between_deltas_change_nothing(
    terminal: bool, parts: list[AnswerPart], cuts: list[int]
) -> None:
    whole = on_screen([delta_of(*parts)], terminal=terminal)
    assert on_screen(cut(parts, cuts), terminal=terminal) == whole


# --- what is kept ------------------------------------------------------------------------------


def test_an_answer_adds_up_its_deltas() -> None:
    deltas = [
        Delta(text="Hm.", token_ids=(1, 2), parts=(ThoughtPart("Hm."),)),
        Delta(text="a", token_ids=(3,)),
        Delta(text="[call]b", token_ids=(4,), parts=(CALL, TextPart("b"))),
        Delta(finish_reason="stop", usage=Usage(7, 5, cached_tokens=2)),
    ]
    times = iter([10.0, 10.5, 11.0, 12.0, 12.5])
    shown: list[Delta] = []
    answer = receive(deltas, shown.append, clock=lambda: next(times))
    assert shown == deltas
    assert (answer.reasoning, answer.content, answer.calls) == ("Hm.", "ab", (CALL,))
    assert (answer.count, answer.writing) == (5, 2.0)
    assert answer.stats() == (
        "5 tokens · first after 0.50 s · 2 tokens/s · prompt 7 tokens, 2 cached"
    )


def test_an_answer_without_its_end_counts_the_tokens_that_came() -> None:
    def deltas() -> Iterable[Delta]:
        yield Delta(text="half", token_ids=(1, 2))
        raise KeyboardInterrupt

    answer = receive(deltas(), lambda delta: None)
    assert answer.interrupted
    assert (answer.content, answer.count) == ("half", 2)
    assert Answer().stats() == "no tokens"


# --- thoughts ----------------------------------------------------------------------------------


def thought(pieces: list[str], width: int = 20) -> str:
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
    assert [line.rstrip() for line in thought(pieces).split("\n")] == [
        "Thinking:",
        "I should add the",
        "units first.",
        "Then the tens.",
        "",
        "",
    ]


def test_after_a_suspension_a_thought_goes_on_in_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = io.StringIO()
    stream = ThoughtStream(Console(file=output, width=20))
    stream.add("I should add the ")
    output.write("\n[1]+  Stopped\n$ fg\n")
    monkeypatch.setattr(Suspension, "count", Suspension.count + 1)
    stream.add("units and then the tens.")
    stream.finish()
    *_, first, second, _, _ = (line.rstrip() for line in output.getvalue().split("\n"))
    assert (first, second) == ("the units and then", "the tens.")


def test_without_a_thought_nothing_is_shown() -> None:
    assert thought([]) == thought(["\n", ""]) == ""


@given(st.lists(st.text(alphabet="abc de\n\t中", max_size=12)), st.integers(8, 20))
def test_no_word_is_lost_and_short_words_fit_their_lines(pieces: list[str], width: int) -> None:
    text = "".join(pieces)
    lines = thought(pieces, width)
    assert "".join(lines.removeprefix("Thinking:").split()) == "".join(text.split())
    single = "  " not in text and "\t" not in text
    if single and all(cell_len(word) < width for word in text.split()):
        assert all(cell_len(line.rstrip()) <= width for line in lines.split("\n")[1:])


def test_control_characters_are_made_harmless() -> None:
    assert "␛[2J" in thought(["a\x1b", "[2J"])


def test_a_line_that_is_full_is_broken() -> None:
    assert thought(["aaaaa\ta"], width=8) == "Thinking:\naaaaa   \na\n\n"
    assert thought(["aaaaaaaa a"], width=8) == "Thinking:\naaaaaaaa\na\n\n"
