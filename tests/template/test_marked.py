"""Marked strings: they behave as strings do, and every character keeps its kind.

Own text is drawn from one alphabet and literal text from another, so that each character of a
result tells where it came from.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.template.marked import Marked, is_own, join, join_with, own, percent, to_spans

OWN, LITERAL = "abß .", "ABÉ\n\t"
pieces = st.lists(
    st.one_of(st.text(OWN, max_size=4).map(own), st.text(LITERAL, max_size=4)), max_size=6
)
marked = pieces.map(join).map(lambda text: text if isinstance(text, Marked) else Marked(text))
patterns = st.sampled_from([own("a"), own("."), own(" "), "A", "\n", own("ab"), "AB", own("")])


def check(value: Any) -> None:
    """Each character's mark agrees with its alphabet; a plain string is wholly literal."""
    if isinstance(value, (list, tuple)):
        for item in value:
            check(item)
    elif isinstance(value, str):
        for span in to_spans([value]):
            assert set(span.text) <= set(LITERAL if span.literal else OWN), (value, span)


def plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return str.__str__(value) if isinstance(value, str) else value


OPERATIONS: dict[str, Callable[..., Any]] = {
    "strip": lambda text, _: text.strip(),
    "strip chars": lambda text, other: text.strip(other),
    "lstrip": lambda text, other: text.lstrip(other or None),
    "rstrip": lambda text, other: text.rstrip(other or None),
    "split": lambda text, _: text.split(),
    "split once": lambda text, _: text.split(None, 1),
    "split at": lambda text, other: text.split(other) if other else [text],
    "split at once": lambda text, other: text.split(other, 1) if other else [text],
    "rsplit": lambda text, _: text.rsplit(None, 2),
    "rsplit at": lambda text, other: text.rsplit(other, 1) if other else [text],
    "splitlines": lambda text, _: text.splitlines(),
    "splitlines kept": lambda text, _: text.splitlines(True),
    "partition": lambda text, other: text.partition(other or "A"),
    "rpartition": lambda text, other: text.rpartition(other or "A"),
    "removeprefix": lambda text, other: text.removeprefix(other),
    "removesuffix": lambda text, other: text.removesuffix(other),
    "replace": lambda text, other: text.replace(other or "A", own("ab")),
    "replace once": lambda text, other: text.replace(other or "A", "B", 1),
    "join": lambda text, other: text.join([other, "A", own("b")]),
    "add": lambda text, other: [text + other, other + text, text + "A", "A" + text],
    "repeat": lambda text, _: [text * 3, 2 * text, text * 0, text * -1],
    "item": lambda text, _: [text[0], text[-1]] if text else [],
    "slice": lambda text, _: [text[1:], text[:-1], text[2:4], text[4:2], text[::-1], text[::2]],
    "iterate": lambda text, _: list(text),
    "reversed": lambda text, _: list(reversed(text)),
    "percent": lambda text, other: percent(own("a%sb") + text, (text,)),
}


@pytest.mark.parametrize("name", list(OPERATIONS))
@settings(max_examples=30, deadline=None, derandomize=True)
@given(text=marked, other=patterns)
def test_results_and_kinds(name: str, text: str, other: str) -> None:
    operation = OPERATIONS[name]
    if name == "percent":
        assert plain(operation(text, other)) == "a" + plain(text) + "b" + plain(text)
    else:
        assert plain(operation(text, other)) == operation(plain(text), plain(other))
    check(operation(text, other))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(parts=pieces)
def test_joined(parts: list[str]) -> None:
    text = join(parts)
    assert plain(text) == "".join(map(plain, parts))
    check(text)
    assert [span.text for span in to_spans(parts)] == [plain(run) for run in _runs(text)]
    if isinstance(text, Marked):
        assert text.cuts == tuple(sorted(set(text.cuts)))
        assert all(cut < len(text) for cut in text.cuts)
        assert text.is_own == is_own(text)


def _runs(text: str) -> list[str]:
    return [run for run in text.runs() if run] if isinstance(text, Marked) else [text] * bool(text)


@pytest.mark.parametrize("name", ["lower", "upper", "title", "capitalize", "swapcase", "casefold"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(text=marked)
def test_letters_change_as_in_any_string(name: str, text: str) -> None:
    assert plain(getattr(text, name)()) == getattr(plain(text), name)()


def test_changed_letters_keep_their_kind() -> None:
    text = (own("ab ") + "CD").lower()
    assert [(span.text, span.literal) for span in to_spans([text])] == [
        ("ab ", False),
        ("cd", True),
    ]
    assert is_own(own("user").title())


@pytest.mark.parametrize(
    "method", [operator.methodcaller("center", 9), operator.methodcaller("zfill", 9)]
)
def test_other_methods_are_own_only_on_own_text(method: Callable[[str], str]) -> None:
    assert is_own(method(own("ab")))
    assert not is_own(method(own("ab") + "A"))
    assert plain(method(own("ab") + "A")) == method("abA")


def test_what_is_lost_is_literal() -> None:
    assert [span.literal for span in to_spans([f"{own('a')}x"])] == [True]
    assert [span.literal for span in to_spans(["".join([own("a"), own("b")])])] == [True]
    assert Marked("a").is_own is False


def test_joining_wants_strings() -> None:
    with pytest.raises(TypeError, match="sequence item 1"):
        join_with(own(","), ["a", 1])
    with pytest.raises(TypeError):
        _ = own("a") + 1


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("%s and %s", ("a", "b")),
        ("%5s|%-5s|%.2s", ("a", "b", "cde")),
        ("%d%%", 5),
        ("%(x)s-%(y)03d", {"x": "A", "y": 7}),
        ("%*d", (5, 3)),
        ("%r %c %x", ("a", "b", 255)),
        ("%s", ([1, 2],)),
        ("%s", {"a": 1}),
        ("none", ()),
    ],
)
def test_percent_formats_as_python_does(form: str, values: Any) -> None:
    assert percent(own(form), values) == form % values
    assert percent(form, values) == form % values


@pytest.mark.parametrize(
    ("form", "values"),
    [("%s", ("a", "b")), ("%s %s", ("a",)), ("50%", ()), ("%q", (1,)), ("%d", ("a",))],
)
def test_percent_fails_as_python_does(form: str, values: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as mine:
        percent(own(form), values)
    with pytest.raises(mine.type):
        _ = form % values
