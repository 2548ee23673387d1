"""Stop strings of a client hold for the answer, wherever its text is cut, and not for the thought."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.chat import ChatModel
from quire.chat.answer_stops import AnswerStops, TurnEnds
from quire.messages import ToolCall
from quire.outputs import AnswerPart, Delta, DeltaSum, TextPart, ThoughtPart
from tests.parrots import Lesson, make_parrot

CALL = ToolCall("f", "{}")


def summed(deltas: Iterable[Delta], *strings: str, keep: bool = False) -> Delta:
    stops, total = AnswerStops(strings, 7, keep=keep), DeltaSum()
    for delta in deltas:
        total.add(stops.read(delta))
        if stops.ended:
            break
    assert stops.ended
    return total.delta()


def test_a_thought_is_not_cut() -> None:
    parts = (ThoughtPart("So STOP it."), TextPart("Yes. STOP it."))
    delta = Delta(0, "<think>So STOP it.</think>Yes. STOP it.", (1, 2), parts=parts)
    found = summed([delta], "STOP")
    assert found.parts == (ThoughtPart("So STOP it."), TextPart("Yes. "))
    assert found.text == "<think>So STOP it.</think>Yes. "
    assert (found.finish_reason, found.stop_reason) == ("stop", "STOP")
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, 2)
    assert summed([delta], "STOP", keep=True).text.endswith("Yes. STOP")


def test_a_string_does_not_reach_across_a_call() -> None:
    parts: tuple[AnswerPart, ...] = (TextPart("ST"), CALL, TextPart("OP"))
    found = summed([Delta(0, "STOP", (1,), finish_reason="tool_calls", parts=parts)], "STOP")
    assert found.parts == parts
    assert found.finish_reason == "tool_calls"


@given(
    st.text("STOP ab"), st.lists(st.text("STOP ab", min_size=1, max_size=3), min_size=1, max_size=2)
)
def test_any_cut_gives_the_same(text: str, strings: list[str]) -> None:
    whole = summed([Delta(0, text, finish_reason="length")], *strings)
    pieces = [Delta(0, char) for char in text]
    cut = summed([*pieces, Delta(0, "", finish_reason="length")], *strings)
    assert (cut.text, cut.content, cut.stop_reason) == (
        whole.text,
        whole.content,
        whole.stop_reason,
    )
    first = min((text.find(s) + len(s) for s in strings if s in text), default=None)
    if first is None:
        assert (whole.text, whole.finish_reason) == (text, "length")
    else:
        assert whole.stop_reason is not None
        assert whole.content == text[: first - len(str(whole.stop_reason))]
        assert whole.text == whole.content


END, MORE = "<e>", "\ncall:"


def up_to_end(pieces: Iterable[str], goes_on: str = MORE) -> tuple[str, bool, int]:
    turn_ends = TurnEnds([END], [goes_on] if goes_on else [])
    shown, dropped = "", 0
    for piece in pieces:
        shown += turn_ends.add(piece)
        dropped = dropped or turn_ends.dropped
    return shown + turn_ends.flush(), turn_ends.ended, dropped or turn_ends.dropped


@pytest.mark.parametrize(
    ("text", "shown", "ended"),
    [
        ("yes", "yes", False),
        ("yes<e>", "yes", True),
        ("yes<e>\nuser: no", "yes", True),
        ("yes<e>\ncall: f<e>\n", "yes<e>\ncall: f", True),
        ("<e>\n\ncall: f", "<e>\n\ncall: f", False),  # other white space
        ("yes<e>\nca", "yes", True),  # the answer ends before it goes on
        ("a <b> <", "a <b> <", False),
    ],
)
def test_where_a_turn_ends(text: str, shown: str, ended: bool) -> None:
    for pieces in ([text], list(text)):
        assert up_to_end(pieces)[:2] == (shown, ended)
    assert up_to_end([text])[2] == (len(text) - len(shown) if ended else 0)


def test_where_no_calls_can_follow_a_turn_ends_at_once() -> None:
    turn_ends = TurnEnds([END])
    assert turn_ends.add(f"yes{END}") == "yes"
    assert turn_ends.ended


def test_a_turn_has_at_least_so_many_tokens() -> None:
    turn_ends = TurnEnds([END])
    assert turn_ends.add(f"a{END}b", armed=False) == f"a{END}b"
    assert not turn_ends.ended


@given(st.lists(st.sampled_from(["a", "<", "e>", END, "\n", "call:", "ca"]), max_size=12))
def test_any_cut_ends_a_turn_alike(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert up_to_end(pieces)[:2] == up_to_end([text])[:2] == up_to_end(text)[:2]


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASK = [{"role": "user", "content": "Well, what is it that you have got to say?"}]
THOUGHT, ANSWER = "END is what they fear.", "It is 4. END of the answer, and more of it."


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    prompt = f"<|im_start|>user\n{ASK[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    folder = make_parrot(
        tmp_path_factory.mktemp("parrot"),
        [Lesson(prompt, f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}<|im_end|>")],
        chat_template=TEMPLATE,
        special=["<|im_start|>", "<|im_end|>"],
        plain=["<think>", "</think>"],
        eos=["<|im_end|>"],
    )
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        yield model


@pytest.mark.parametrize("n", [1, 2])
def test_through_an_engine(parrot: ChatModel, n: int) -> None:
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 300, "stop": "END"}
    for answer in parrot.chat(ASK, **options, num_return_sequences=n):
        assert answer.reasoning == THOUGHT
        assert answer.content == "It is 4. "
        assert answer.finish_reason == "stop"
    deltas = list(parrot.stream(ASK, **options))
    assert "".join(delta.content for delta in deltas) == "It is 4. "
    assert deltas[-1].stop_reason == "END"
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens > 0


def test_a_string_that_is_not_said_changes_nothing(parrot: ChatModel) -> None:
    (answer,) = parrot.chat(ASK, temperature=0.0, max_new_tokens=300, stop="never said")
    assert (answer.reasoning, answer.content) == (THOUGHT, ANSWER)


# --- answers that their reader ends, since no token of their own ends the turn ----------------------

MESSAGES = (
    "{% for m in messages %}{% if m.reasoning_content %}<|begin|>assistant<|think|>"
    "{{ m.reasoning_content }}<|end|>{% endif %}<|begin|>{{ m.role }}<|content|>{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|begin|>assistant{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
RUN_ON = {
    # Each goes on with a question that it makes up, as models do that nothing stops.
    "messages": (
        MESSAGES,
        "<|begin|>user<|content|>{}<|end|><|begin|>assistant",
        "<|think|>{}<|end|><|begin|>assistant<|content|>{}<|end|><|begin|>user<|content|>Well?<|end|>",
    ),
    "harmony": (
        HARMONY,
        "<|start|>user<|message|>{}<|end|><|start|>assistant",
        (
            "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Well?<|end|>"
        ),
    ),
}


@pytest.fixture(scope="module", params=RUN_ON)
def runaway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChatModel]:
    template, prompt, says = RUN_ON[request.param]
    folder = make_parrot(
        tmp_path_factory.mktemp("runaway"),
        [Lesson(prompt.format(ASK[0]["content"]), says.format(THOUGHT, ANSWER))],
        chat_template=template,
        special=sorted(set(re.findall(r"<\|\w+\|>", template))),
        eos=["</s>"],
    )
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        yield model


@pytest.mark.parametrize("n", [1, 2])
def test_an_answer_ends_with_its_text(runaway: ChatModel, n: int) -> None:
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 300}
    answers = runaway.chat(ASK, **options, num_return_sequences=n)
    assert len(answers) == n
    for answer in answers:
        assert (answer.reasoning, answer.content, answer.finish_reason) == (THOUGHT, ANSWER, "stop")
        assert answer.usage is not None
        assert 0 < answer.usage.reasoning_tokens < answer.usage.completion_tokens
    deltas = list(runaway.stream(ASK, **options))
    assert "".join(delta.content for delta in deltas) == ANSWER
    assert deltas[-1].finish_reason == "stop"


def test_where_eos_is_ignored_nothing_ends_an_answer(runaway: ChatModel) -> None:
    (answer,) = runaway.chat(ASK, temperature=0.0, max_new_tokens=300, ignore_eos=True)
    assert "Well?" in answer.content
    assert answer.finish_reason == "length"
