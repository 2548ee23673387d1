"""Answers that real chat templates have written are read back, without the templates."""

from __future__ import annotations

from functools import cache

import pytest

from tests.template.real.conversations import ANSWERS, ASK
from tests.template.real.outputs import Output, read_outputs, reader_of
from tests.template.real.reading import Reader, problem
from tests.template.real.records import RIGHT, read_records

OUTPUTS = read_outputs()


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.templates[0])
def test_its_answers_are_read(output: Output) -> None:
    @cache
    def reader(prompt: str) -> Reader:
        return reader_of(output, prompt)

    question = ([ASK], output.learned.shows_tools)
    for case, written in output.answers.items():
        for how, read in reader(written.prompt).read(question, written).items():
            assert not problem(ANSWERS[case], written, read), f"{case}, {how}: {written.text!r}"


def test_all_that_is_recorded_as_right_is_here() -> None:
    answers = {name: output.answers for output in OUTPUTS for name in output.templates}
    for name, found in read_records().items():
        cases = zip(ANSWERS, found.readings, strict=True)
        right = [case for case, letter in cases if letter == RIGHT]
        assert list(answers.get(name, ())) == (right if found.shows_calls else [])
