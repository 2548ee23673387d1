"""Templates in each shape of calls: their renderings are transformers', and their answers are read back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from quire.errors import RequestError
from tests.template.call_shapes import SHAPES, SPEAKING, reference_of
from tests.template.real.conversations import ANSWERS, ASK, TEXT, Answer
from tests.template.real.measure import Measure
from tests.template.real.reading import Read, Reader, problem
from tests.template.real.records import SANE_RENDERINGS, Written
from tests.template.real.reference import fixed_time


@pytest.fixture(autouse=True)
def same_day() -> Iterator[None]:
    with fixed_time():
        yield


@cache
def reader_of(shape: str) -> Reader:
    return Reader(SHAPES[shape])


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("shape", SPEAKING)
def test_its_answers_are_read(shape: str, case: str) -> None:
    answer = ANSWERS[case]
    written = reference_of(shape).answer(answer)
    if written is None:
        assert shape in ("bare_json", "harmony")  # whose templates refuse a second call
        assert len(answer.calls) == 2
        return
    question = reference_of(shape).question(answer)
    for how, read in reader_of(shape).read(question, written).items():
        assert not problem(answer, written, read), f"{how}, from {written.text!r}"


@pytest.mark.parametrize("case", ["text", "call"])
@pytest.mark.parametrize("shape", SPEAKING)
def test_the_end_of_its_turn_is_a_stop(shape: str, case: str) -> None:
    written = reference_of(shape).answer(ANSWERS[case])
    assert written is not None
    tokenizer = reader_of(shape).tokenizer
    if written.text.rstrip().endswith(tuple(tokenizer.special_texts)):
        assert len(reader_of(shape).answer_ids(written)) < len(tokenizer.encode(written.text))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_rendered_as_in_transformers(shape: str) -> None:
    found = Measure(shape, SHAPES[shape]).compare()
    assert set(found.renderings) <= SANE_RENDERINGS, "\n".join(found.details)


def test_tools_that_a_template_does_not_show_are_refused() -> None:
    reader = reader_of("no_tools")
    assert reader.prompt([ASK], tools=False)
    with pytest.raises(RequestError, match="tools"):
        reader.prompt([ASK], tools=True)


def test_what_is_wrong_is_found() -> None:
    answer = ANSWERS["text, call"]
    written = Written("", f"{TEXT} ... Paris", "")
    right = Read(TEXT, "", (("get_weather", {"city": "Paris"}),), "tool_calls")
    assert not problem(answer, written, right)
    assert problem(answer, written, Read(TEXT, "", right.calls, "stop")) == "finish reason stop"
    assert problem(answer, written, Read(TEXT, "", (), "stop")).startswith("calls ()")
    assert problem(answer, written, Read("", TEXT, right.calls)).startswith("text ''; thought")
    unclosed = Written("<think>", f"{TEXT} ... Paris", "<think>")
    assert not problem(answer, unclosed, Read("", TEXT, right.calls, "tool_calls"))
    assert problem(Answer(), written, right).startswith("calls")
