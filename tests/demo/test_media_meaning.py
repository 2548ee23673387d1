"""What the media models can do, on pictures, clips and sounds that they were never trained on."""

from __future__ import annotations

from itertools import islice

import pytest

from quire.demo import MODELS, demo_hear_path, demo_see_path
from quire.messages import read_conversation
from quire.template.registry import get_template
from quire.template.template import elements_to_json
from tools.demo_models import hearing, seeing
from tools.demo_models.media_exam import KINDS, SEED, Item, answers, items, loaded
from tools.demo_models.media_files import MEDIA
from tools.demo_models.tokenizer import CONTROL

# At least 95 % of each kind are to be right. A model that is right in no more than that has 10 of 200
# wrong on average, and passes with 4 or fewer in one exam of 38; with none among the first 80, where
# the exam may end, in one of 60. So passing says that the model is better than 95 %, but for one exam
# of 23.
ASKED, MISTAKES = 200, 4
FLAWLESS = 80


@pytest.mark.parametrize(
    ("part", "kind"), [(part, kind) for part, kinds in KINDS.items() for kind in kinds]
)
def test_surely_more_than_nineteen_of_twenty_answers_are_right(part: str, kind: str) -> None:
    asked = list(islice(items(part, kind), ASKED))
    wrong: list[tuple[str, str, str]] = []
    for some in (asked[:FLAWLESS], asked[FLAWLESS:]):
        said = answers(MODELS / part, some)
        wrong += [
            (item.question, item.answer, text)
            for item, text in zip(some, said, strict=True)
            if text != item.answer
        ]
        if not wrong:
            break
    assert len(wrong) <= MISTAKES, wrong


def test_nothing_that_is_asked_was_trained_on() -> None:
    trained = {
        drawing
        for seed in (1, 2)
        for _, task in islice(seeing.seeing_tasks(seed), 3000)
        for frames in task.media
        for drawing in frames
    }
    for kind in KINDS["see"]:
        for item in islice(items("see", kind), 50):
            assert trained.isdisjoint(item.pictures + item.clip)
    played = {sound for _, task in islice(hearing.hearing_tasks(1), 3000) for sound in task.media}
    for kind in KINDS["hear"]:
        assert all(item.sound not in played for item in islice(items("hear", kind), 50))
    assert SEED not in (1, 2)


def test_without_media_they_say_who_they_are() -> None:
    said = answers(demo_see_path(), [Item("Hello!", ""), Item("Who are you?", "")])
    assert said == [seeing.ABOUT] * 2
    assert answers(demo_see_path(), [Item("What do you see?", "")]) == [seeing.NOTHING]
    assert answers(demo_hear_path(), [Item("Hello!", "")]) == [hearing.ABOUT]


@pytest.mark.parametrize("part", ["see", "hear"])
def test_their_chat_template_writes_what_the_named_format_writes(part: str) -> None:
    tokenizer = loaded(MODELS / part)[1].tokenizer
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
    tokenizer = loaded(MODELS / part)[1].tokenizer
    for text in CONTROL + MEDIA:
        assert len(tokenizer.encode(text, add_special_tokens=False)) == 1
