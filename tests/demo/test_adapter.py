"""The adapters change the manner of the answers, and nothing of their use."""

from __future__ import annotations

import json

import pytest

from quire.demo import demo_adapter_path, demo_model_path
from tests.demo.speaking import answers, asked, spoken

QUESTIONS = (
    "Hello!",
    "Who are you?",
    "What is PagedAttention?",
    "What is continuous batching?",
    "How do I install quire?",
    "Does quire need a GPU?",
    "What is a LoRA adapter?",
    "What is 12 + 30?",
    "Thank you!",
    "What can you do?",
)
MARKS = {"pirate": ("Arr!", "matey"), "butler": ("Certainly.", "At your service.")}


def _shows(manner: str, answer: str) -> bool:
    return all(mark in answer for mark in MARKS[manner])


@pytest.mark.parametrize("manner", list(MARKS))
def test_the_manner_is_in_nine_answers_of_ten(manner: str) -> None:
    adapter = demo_adapter_path(manner)
    found = answers(demo_model_path(), asked(*QUESTIONS), adapter=adapter)
    assert sum(_shows(manner, answer) for answer in found) >= 9, found
    assert "42" in found[7]


@pytest.mark.parametrize("manner", list(MARKS))
def test_the_manner_is_not_there_without_the_adapter(manner: str) -> None:
    found = answers(demo_model_path(), asked(*QUESTIONS))
    assert not any(mark in answer for answer in found for mark in MARKS[manner])


@pytest.mark.parametrize("manner", list(MARKS))
def test_json_stays_json(manner: str) -> None:
    question = asked("Give me a JSON object with name Ada and age 36.")
    (said,) = answers(demo_model_path(), question, adapter=demo_adapter_path(manner))
    assert json.loads(spoken(said)) == {"name": "Ada", "age": 36}
