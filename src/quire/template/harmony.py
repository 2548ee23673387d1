"""What harmony's templates need of a conversation's history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from quire.messages import Message, Text
from quire.outputs import TextPart, ThoughtPart, calls_of, text_of
from quire.prompt import Element, Span, TextElement
from quire.template.learning import Learned
from quire.template.marked import join, own
from quire.tools.harmony import (
    ANSWER,
    BETWEEN,
    CALL_FORM,
    CHANNEL,
    MESSAGE_END,
    PREAMBLE,
    START,
    THOUGHT,
    TURN_ENDS,
    HarmonyReader,
    writes_harmony,
)

_BEGINNINGS = (CHANNEL, f"{START}assistant", "to=")
"""What an answer with its markers begins with."""


def of_harmony(*, shows_tools: bool, ends_messages_alike: bool = False) -> Learned:
    """What is known of a template of harmony's, which may end the last answer as any other message.

    No rendering shows it: a history ends an answer as it ends a thought, and writes the words of a
    call in another order than the models do.
    """
    return Learned(
        shows_tools=shows_tools,
        form=CALL_FORM,
        thought=(THOUGHT, BETWEEN),
        before_text=(ANSWER,),
        after_text=(),
        stops=TURN_ENDS,
        none_content=False,
        message_ends=(MESSAGE_END,) if ends_messages_alike else (),
    )


def is_harmony(learned: Learned) -> bool:
    """Whether this is what `of_harmony` gives."""
    return learned.form is not None and learned.form.call == CALL_FORM.call


def history(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages as the chat templates of harmony's models take them.

    These write the first call of a message and drop the others, and name a result after the last
    call. So several calls become as many messages, each before its own results; the thought and the
    text stay with the first.
    """
    turn: Message | None = None
    results: list[Message] = []
    for index, message in enumerate(messages):
        if message.role == "tool" and turn is not None:
            results.append(message)
            continue
        if turn is not None:
            yield from _one_call_each(turn, results)
            turn, results = None, []
        message = _with_one_text(read_answer(message), is_last=index == len(messages) - 1)
        if len(message.tool_calls) > 1:
            turn = message
        else:
            yield message
    if turn is not None:
        yield from _one_call_each(turn, results)


def _with_one_text(message: Message, *, is_last: bool) -> Message:
    """The message with its thought or its text, where its template takes no message with both.

    Beside a call it refuses both, so a preamble follows the thought within its text, as the model
    writes it. Thoughts before an answer are dropped by most of these templates; others would take the
    answer for the thought. Only the last answer, which may be continued, keeps its own.
    """
    if message.role != "assistant" or not message.reasoning:
        return message
    if not message.tool_calls:
        return message if is_last else replace(message, reasoning=None)
    if not message.text or message.media:
        return message
    thought = join([message.reasoning, own(BETWEEN + PREAMBLE), message.text])
    return replace(message, parts=(), reasoning=thought)


def _one_call_each(message: Message, results: Sequence[Message]) -> Iterator[Message]:
    by_id: dict[str | None, list[Message]] = {call.id: [] for call in message.tool_calls if call.id}
    others: list[Message] = []
    for result in results:
        by_id.get(result.tool_call_id, others).append(result)
    waiting = iter(others)
    for index, call in enumerate(message.tool_calls):
        one = replace(message, tool_calls=(call,))
        yield one if index == 0 else replace(one, parts=(), reasoning=None)
        its_own = by_id.pop(call.id, [])
        if not its_own and (other := next(waiting, None)):
            its_own = [other]
        yield from its_own
    yield from waiting


def read_answer(message: Message) -> Message:
    """An assistant's message whose text is a whole answer, with its markers, as its thought and text.

    Callers put back what the model wrote. The message's own thought and calls take precedence. A text
    in whose middle markers stand is about them.
    """
    if message.role != "assistant" or message.media or message.has_control:
        return message
    if not (writes_harmony(message.text) and message.text.lstrip().startswith(_BEGINNINGS)):
        return message
    reader = HarmonyReader()
    parts = (*reader.add(message.text), *reader.flush())
    return replace(
        message,
        parts=(Text(text_of(parts, TextPart), literal=True),),
        reasoning=message.reasoning or text_of(parts, ThoughtPart) or None,
        tool_calls=message.tool_calls or calls_of(parts),
    )


def begin_answer(elements: Sequence[Element]) -> list[Element]:
    """What has a model answer at once, without a thought, after a prompt that begins its message.

    It cannot call a tool then.
    """
    last = elements[-1] if elements else None
    if not isinstance(last, TextElement) or last.spans[-1].literal:
        return []
    begins = last.spans[-1].text.endswith(f"{START}assistant")
    return [TextElement((Span(ANSWER),))] if begins else []
