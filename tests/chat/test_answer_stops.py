"""Stop strings of a client hold for the answer, wherever its text is cut, and not for the thought."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.chat import ChatModel
from quire.chat.answer_stops import AnswerStops
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
