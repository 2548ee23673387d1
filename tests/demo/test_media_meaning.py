"""What the media models can do, on pictures, clips and sounds that they were never trained on."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from quire.demo import MODELS, demo_hear_path, demo_see_path, hearing, seeing
from quire.demo.media_exam import KINDS, SEED, Item, answers, graded, items, loaded
from quire.demo.media_files import MEDIA
from quire.demo.tokenizer import CONTROL
from quire.messages import read_conversation
from quire.template.encode import elements_to_json
from quire.template.registry import get_template

# How many questions of each kind are asked about each medium.
PICTURES = {"name": 60, "count": 80, "several": 30}
MEDIA_OF = {
    "pictures": ("see", PICTURES),
    "clips": ("see", {"way": 40}),
    "sounds": ("hear", {"pitch": 40, "beeps": 60}),
}


@pytest.mark.parametrize("medium", MEDIA_OF)
def test_nineteen_of_twenty_answers_are_right(medium: str) -> None:
    """Of each medium; and no kind of question is right in fewer than nine of ten cases.

    Counting shapes is the weakest, at 93 %.
    """
    part, counts = MEDIA_OF[medium]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wrong = {kind: graded(MODELS / part, part, kind, count) for kind, count in counts.items()}
    finally:
        torch.set_num_threads(threads)
    found = [
        (item.question, item.answer, said) for missed in wrong.values() for item, said in missed
    ]
    assert len(found) <= 0.05 * sum(counts.values()), found
    for kind, missed in wrong.items():
        assert len(missed) <= 0.1 * counts[kind], found


def test_every_kind_of_question_is_asked() -> None:
    for part, kinds in KINDS.items():
        asked = [kind for name, counts in MEDIA_OF.values() if name == part for kind in counts]
        assert sorted(asked) == sorted(kinds)


def test_nothing_that_is_asked_was_trained_on() -> None:
    trained = {
        drawing
        for _, task in islice(seeing.seeing_tasks(1), 3000)
        for frames in task.media
        for drawing in frames
    }
    for kind in KINDS["see"]:
        for item in islice(items("see", kind), 50):
            assert trained.isdisjoint(item.pictures + item.clip)
    played = {sound for _, task in islice(hearing.hearing_tasks(1), 3000) for sound in task.media}
    for kind in KINDS["hear"]:
        assert all(item.sound not in played for item in islice(items("hear", kind), 50))
    assert SEED != 1


def test_without_media_they_say_who_they_are() -> None:
    said = answers(demo_see_path(), [Item("Hello!", ""), Item("Who are you?", "")])
    assert said == [seeing.ABOUT] * 2
    assert answers(demo_see_path(), [Item("What do you see?", "")]) == [seeing.NOTHING]
    assert answers(demo_hear_path(), [Item("Hello!", "")]) == [hearing.ABOUT]


@pytest.mark.parametrize("part", ["see", "hear"])
def test_their_chat_template_writes_what_the_named_format_writes(part: str) -> None:
    tokenizer = loaded(MODELS / part)[1]
    messages = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "What do you see?"},
    ]
    name = {"see": "qwen2_vl", "hear": "qwen2_audio"}[part]
    for start in ([], [{"role": "system", "content": "Be brief."}]):
        elements = get_template(name, None).render(read_conversation(start + messages))
        expected = "".join(str(element) for element in elements_to_json(elements))
        found = tokenizer.apply_chat_template(
            start + messages, tokenize=False, add_generation_prompt=True
        )
        assert found == expected


@pytest.mark.parametrize("part", ["see", "hear"])
def test_control_tokens_are_one_token_each(part: str) -> None:
    tokenizer = loaded(MODELS / part)[1]
    for text in CONTROL + MEDIA:
        assert len(tokenizer.encode(text, add_special_tokens=False)) == 1
