"""What ends a completion, and stop strings in a stream: nothing of one is shown, nothing else lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quire.engines.native.core.stop import Finish, StopChecker
from quire.sampling import SamplingParams
from quire.stop_strings import StopStrings
from tests.engines.native.fake_runner import NumberText
from tests.engines.native.plain import first_stop

texts = st.text(alphabet="ab\n<>", max_size=40)
stops = st.lists(st.text(alphabet="ab\n<>", min_size=1, max_size=5), min_size=1, max_size=4)
pieces = st.lists(st.text(alphabet="ab\n<>", max_size=6), max_size=12)


def longest_beginning(text: str, strings: list[str]) -> int:
    """Return how much of the text's end may become a stop string."""
    beginnings = (string[:length] for string in strings for length in range(1, len(string)))
    return max((len(part) for part in beginnings if text.endswith(part)), default=0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(chunks=pieces, strings=stops, keep=st.booleans())
@example(chunks=["a", "ab"], strings=["aab", "ab"], keep=False)
@example(chunks=["<", "<", "a", ">"], strings=["<a>"], keep=True)
def test_streamed_text_is_the_text_cut_at_the_first_stop(
    chunks: list[str], strings: list[str], keep: bool
) -> None:
    stream, shown = StopStrings(strings, keep=keep), ""
    text = "".join(chunks)
    cut = first_stop(text, strings)
    so_far = ""
    for chunk in chunks:
        shown, so_far = shown + stream.add(chunk), so_far + chunk
        if stream.match is not None:
            break
        assert shown == so_far[: len(so_far) - longest_beginning(so_far, strings)]
    if cut is None:
        assert stream.match is None
        assert shown + stream.flush() == text
    else:
        end = cut[0] + (len(cut[1]) if keep else 0)
        assert (shown, stream.match) == (text[:end], cut[1])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(early=pieces, late=pieces, strings=stops)
@example(early=["aba"], late=["ba"], strings=["aba"])
def test_nothing_is_found_before_it_is_armed(
    early: list[str], late: list[str], strings: list[str]
) -> None:
    """An occurrence that is complete before `min_tokens` is text; one that ends later counts."""
    stream, shown = StopStrings(strings), ""
    for chunk in early:
        shown += stream.add(chunk, armed=False)
        assert stream.match is None
    for chunk in late:
        if stream.match is None:
            shown += stream.add(chunk)
    text = "".join([*early, *late])
    cut = first_stop(text, strings, len("".join(early)))
    if cut is None:
        assert shown + stream.flush() == text
    else:
        assert (shown, stream.match) == (text[: cut[0]], cut[1])


def test_no_stop_strings_hold_nothing_back() -> None:
    stream = StopStrings(())
    assert stream.add("abc") == "abc"
    assert stream.flush() == ""


def test_long_streams_take_one_look_at_each_character() -> None:
    stream = StopStrings(["a" * 50 + "b"])
    shown = "".join(stream.add("a") for _ in range(20_000))
    assert len(shown) == 20_000 - 50
    assert stream.add("b") == ""
    assert stream.match == "a" * 50 + "b"


# --- what ends a completion ----------------------------------------------------------------------


def check_all(tokens: list[int], **options: Any) -> tuple[str, Finish | None, int]:
    """Read tokens up to the end. Returns the text, the finish, and how many tokens were read."""
    checker = StopChecker(SamplingParams(**{"max_tokens": 9, **options}), NumberText(), None)
    shown = ""
    for count, token in enumerate(tokens, 1):
        text, finish = checker.check(token, count)
        shown += text
        if finish is not None:
            return shown, finish, count
    return shown, None, len(tokens)


KEEP = {"include_stop_str_in_output": True}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("1 2 3 4 5 ", None, 5)),
        ({"max_tokens": 3}, ("1 2 3 ", Finish("length"), 3)),
        ({"eos_token_ids": (3,)}, ("1 2 ", Finish("stop"), 3)),
        ({"eos_token_ids": (3,), "stop_token_ids": (3,)}, ("1 2 ", Finish("stop", 3), 3)),
        ({"eos_token_ids": (3,), "ignore_eos": True}, ("1 2 3 4 5 ", None, 5)),
        ({"stop_token_ids": (2, 4), "min_tokens": 3}, ("1 2 3 ", Finish("stop", 4), 4)),
        ({"stop": ("2 3",)}, ("1 ", Finish("stop", "2 3"), 3)),
        ({"stop": ("2 3", " 4"), "min_tokens": 4}, ("1 2 3", Finish("stop", " 4"), 4)),
        ({"stop": ("3 5",), "max_tokens": 3}, ("1 2 3 ", Finish("length"), 3)),
        # A stop string wins over the length, a stop token over a stop string.
        ({"stop": ("3 ",), "max_tokens": 3}, ("1 2 ", Finish("stop", "3 "), 3)),
        ({"stop": ("3 ",), "stop_token_ids": (3,)}, ("1 2 ", Finish("stop", 3), 3)),
        # With `include_stop_str_in_output` what ends a completion is its end.
        ({**KEEP, "stop": ("2 3",)}, ("1 2 3", Finish("stop", "2 3"), 3)),
        ({**KEEP, "stop_token_ids": (3,)}, ("1 2 3 ", Finish("stop", 3), 3)),
        ({**KEEP, "stop": ("2 3 5",), "stop_token_ids": (3,)}, ("1 2 3 ", Finish("stop", 3), 3)),
        ({**KEEP, "stop": ("9",), "max_tokens": 2}, ("1 2 ", Finish("length"), 2)),
    ],
)
def test_what_ends_a_completion_and_what_it_shows(
    options: dict[str, Any], expected: tuple[str, Finish | None, int], streamed: bool
) -> None:
    text, finish, count = check_all([1, 2, 3, 4, 5], **options, streamed=streamed)
    if not streamed and finish is None:
        text = expected[0]  # whole answers show nothing before their end
    assert (text, finish, count) == expected


def test_text_held_back_may_complete_a_stop_string_at_the_end() -> None:
    """Then it is the stop string that ends the completion, and not its length."""

    class LateText(NumberText):
        def flush(self) -> str:
            return "!?"

    checker = StopChecker(SamplingParams(max_tokens=1, stop=("!",)), LateText(), None)
    assert checker.check(1, 1) == ("1 ", Finish("stop", "!"))
