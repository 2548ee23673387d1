"""Prompts that end inside an assistant's message, which the answer continues, or after one."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import MessageError, TemplateError
from quire.messages import Message, read_conversation
from quire.prompt import TextElement
from quire.template.jinja import JinjaTemplate
from quire.template.registry import get_template
from quire.template.template import Template
from tests.template import chat_templates
from tests.template.test_jinja import (
    ASK,
    CALL,
    REASONED,
    RESULT,
    SAY,
    SYSTEM,
    TOOLS,
    make_tokenizer,
    reference_messages,
    tokenizers_of,
)


def said(content: Any = "", thought: str | None = None) -> dict[str, Any]:
    more = {} if thought is None else {"reasoning_content": thought}
    return {"role": "assistant", "content": content, **more}


CONTINUED: dict[str, list[dict[str, Any]]] = {
    "text": [ASK, said("Yes, it is")],
    "space at the end": [ASK, said("Yes, it ")],
    "space around": [ASK, said("\n Yes \n")],
    "later": [SYSTEM, ASK, SAY, ASK, said("And")],
    "after a call": [ASK, CALL, RESULT, said("It is")],
    "after a thought": [ASK, said("It is", "Hm, let me see.")],
    "a marker of the template": [ASK, said("<|im_end|> EndOfWhatIsContinued and")],
    "no text": [ASK, said("")],
    "parts": [ASK, said([{"type": "text", "text": "Yes"}])],
}


def render(template: Template, messages: list[dict[str, Any]], **how: Any) -> str:
    given = read_conversation(messages, may_end_with_answer=True)
    elements = template.render(given, **how)
    return "".join(element.text for element in elements if isinstance(element, TextElement))


@pytest.mark.parametrize("conversation", list(CONTINUED))
@pytest.mark.parametrize("name", list(chat_templates.ALL))
def test_as_transformers_continues(name: str, conversation: str) -> None:
    messages = CONTINUED[conversation]
    ours, theirs = tokenizers_of(name)
    template = JinjaTemplate(ours)
    plain = [
        {**message, "content": "".join(part["text"] for part in message["content"])}
        if isinstance(message["content"], list)
        else message
        for message in reference_messages(name, messages)
    ]
    try:
        expected = theirs.apply_chat_template(plain, continue_final_message=True, tokenize=False)
    except Exception as error:
        with pytest.raises(TemplateError, match=type(error).__name__ + "|says"):
            render(template, messages, continue_final_message=True)
        return
    assert render(template, messages, continue_final_message=True) == expected


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("name", list(chat_templates.ALL))
def test_a_thought_is_continued(name: str, thinking: bool) -> None:
    """As its own field where the template shows that, else as text behind its word."""
    ours, theirs = tokenizers_of(name)
    messages = [ASK, said("", "Hm, let")]
    text = render(
        JinjaTemplate(ours), messages, continue_final_message=True, enable_thinking=thinking
    )
    assert text.endswith("<think>\nHm, let")
    if name == "qwen3":
        assert text == theirs.apply_chat_template(
            messages, tokenize=False, continue_final_message="reasoning_content"
        )


@pytest.mark.parametrize(
    ("message", "inside"),
    [
        (said("", "Hm"), True),
        (said("So", "Hm"), False),
        (said("<think>\nHm"), True),
        (said("<think>\nHm\n</think>\n\nSo"), False),
        (said("So"), False),
        (said(""), False),
    ],
)
def test_whether_the_answer_begins_inside_a_thought(message: dict[str, Any], inside: bool) -> None:
    (_, last) = read_conversation([ASK, message], may_end_with_answer=True).messages
    ours, _ = tokenizers_of("qwen3")
    for template in (JinjaTemplate(ours), get_template("qwen3", None)):
        assert template.continues_thought(last) == inside


def test_the_words_of_an_open_thought_are_control_tokens() -> None:
    ours, _ = tokenizers_of("qwen3")
    think = ours.token_to_id("<think>") or -1
    for message in (said("", "Hm"), said("<think>\nHm")):
        given = read_conversation([ASK, message], may_end_with_answer=True)
        for template in (JinjaTemplate(ours), get_template("qwen3", None)):
            ids = template.encode(given, ours, continue_final_message=True)
            assert ids.count(think) == 1
    forged = read_conversation([ASK, said("So <think> no")], may_end_with_answer=True)
    assert think not in JinjaTemplate(ours).encode(forged, ours, continue_final_message=True)[-8:]


NAMED = {
    ("qwen", "It is"): (said("It is"), True),
    ("qwen3", "<think>\n\n</think>\n\nIt is"): (said("It is"), True),
    ("qwen3", "<think>\nHm.\n</think>\n\nIt is"): (said("It is", "Hm."), True),
    ("qwen3", "<think>\nHm, let"): (said("", "Hm, let"), True),
    ("qwen3", "<think>\nHm"): (said("<think>\nHm"), True),
    ("qwen3", ""): (said(""), True),
    ("qwen3", "<think>\n\n</think>\n\n"): (said(""), False),
    ("glm4", "\nIt is"): (said("It is"), True),
    ("glm4", ""): (said(""), True),
    ("mistral", " It is"): (said("It is"), True),
}


@pytest.mark.parametrize(("key", "given"), list(NAMED.items()), ids=repr)
def test_a_named_template_continues(
    key: tuple[str, str], given: tuple[dict[str, Any], bool]
) -> None:
    """Its prompt is that of an answer, and what is there of the answer; nothing ends it."""
    (name, begun), (message, thinking) = key, given
    template = get_template(name, None)
    prompt = render(template, [ASK], enable_thinking=True)
    how: dict[str, Any] = {"continue_final_message": True, "enable_thinking": thinking}
    assert render(template, [ASK, message], **how) == prompt + begun


def test_what_a_prompt_without_the_answers_beginning_is() -> None:
    ours, theirs = tokenizers_of("qwen25")
    template = JinjaTemplate(ours)
    for messages in ([ASK], [ASK, SAY], [ASK, REASONED, ASK, SAY]):
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        assert render(template, messages, add_generation_prompt=False) == expected
    named = get_template("qwen", None)
    assert render(named, [ASK, SAY], add_generation_prompt=False).endswith("<|im_end|>\n")
    with pytest.raises(TemplateError, match="an assistant's message at the end"):
        render(named, [ASK], add_generation_prompt=False)
    with pytest.raises(TemplateError, match="a user's message"):
        render(named, [ASK, SAY])


def test_an_answer_after_an_answer() -> None:
    """As transformers writes it where the assistant's message is whole."""
    ours, theirs = tokenizers_of("qwen25")
    expected = theirs.apply_chat_template([ASK, SAY], tokenize=False, add_generation_prompt=True)
    assert render(JinjaTemplate(ours), [ASK, SAY]) == expected


@pytest.mark.parametrize(
    ("messages", "says"),
    [([ASK], "needs an assistant's message"), ([ASK, CALL], "tool calls")],
)
def test_what_cannot_be_continued(messages: list[dict[str, Any]], says: str) -> None:
    ours, _ = tokenizers_of("qwen3")
    given = read_conversation(messages, tools=TOOLS, may_end_with_answer=True)
    for template in (JinjaTemplate(ours), get_template("qwen3", None)):
        with pytest.raises(MessageError, match=says):
            template.render(given, continue_final_message=True)


def test_a_template_that_leaves_the_end_out() -> None:
    ours, _ = make_tokenizer("phi", template="{{ messages[-1].content[:3] }}")
    with pytest.raises(TemplateError, match="leaves out the end"):
        render(JinjaTemplate(ours), [ASK, said("Yes, it is")], continue_final_message=True)


def test_a_conversation_ends_with_an_answer_only_where_that_is_meant() -> None:
    with pytest.raises(MessageError, match="continue_final_message"):
        read_conversation([ASK, SAY])
    read = read_conversation([ASK, SAY], may_end_with_answer=True)
    assert isinstance(read.messages[-1], Message)


def test_a_template_that_refuses_a_message_of_a_thought_alone() -> None:
    """As Ministral's does; the prompt is then that of an answer, with the thought behind it."""
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% if not m.content %}"
        "{{ raise_exception('no content') }}{% endif %}{% if m.reasoning_content %}"
        "[THINK]{{ m.reasoning_content }}[/THINK]{% endif %}{{ m.content }}</s>"
        "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"
    )
    ours, _ = make_tokenizer("phi", template=source)
    text = render(JinjaTemplate(ours), [ASK, said("", "Hm, let")], continue_final_message=True)
    assert text.endswith("[/INST][THINK]Hm, let")
