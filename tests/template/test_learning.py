"""What is learned of a chat template: the marks around thoughts and texts, and what ends a turn."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import ToolError
from quire.messages import read_conversation
from quire.template.jinja import JinjaTemplate
from quire.template.registry import get_template
from quire.tokenizer import Tokenizer
from tests.template.real.conversations import ASK, PARIS, calling, result
from tests.template.real.reading import Reader
from tests.template.real.records import Written

LOOP = "{% for m in messages %}BODY{% endfor %}{% if add_generation_prompt %}BEGIN{% endif %}"
TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
QWEN = (
    "<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n"
)
CHANNELS = (
    "{% if m.role == 'assistant' %}<|turn|>bot"
    "{% if m.thinking %}<|START_THINKING|>{{ m.thinking }}<|END_THINKING|>{% endif %}"
    "{% if m.content %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endif %}"
    "{% if m.tool_calls %}<|START_ACTION|>[{% for c in m.tool_calls %}"
    '{"tool_name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'
    "{{ ', ' if not loop.last }}{% endfor %}]<|END_ACTION|>{% endif %}<|end_of_turn|>"
    "{% else %}<|turn|>{{ m.role }}<|text|>{{ m.content }}<|end_of_turn|>{% endif %}"
)
MESSAGES = (
    "{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content %}<|begin|>assistant<|think|>{{ m.reasoning_content }}<|end|>{% endif %}"
    "{% if m.tool_calls %}<|begin|>assistant<|tool_calls|>{% for c in m.tool_calls %}"
    "<|call|>{{ c.function.name }}<|args|>{{ c.function.arguments | tojson }}<|end_call|>{% endfor %}"
    "<|calls|>{% else %}<|begin|>assistant<|content|>{{ m.content }}<|end|>{% endif %}"
    "{% else %}<|begin|>{{ m.role }}<|content|>{{ m.content }}<|end|>{% endif %}"
)
SEPARATED = (
    "{% if m.role == 'tool' %}function result<|role|>\n{{ m.content }}<|sep|>\n"
    "{% else %}{{ m.role }}<|role|>\n{{ m.content or '' }}<|sep|>\n{% endif %}"
    "{% for c in m.tool_calls or [] %}function call<|role|>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}<|sep|>\n'
    "{% endfor %}"
)
UNENDED = (
    "{% if m.role == 'tool' %}<|observation|>{{ m.content }}"
    "{% else %}{{ '<|' ~ m.role ~ '|>' }}{{ m.content or '' }}{% endif %}"
    "{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}"
)
RESULT_INSIDE = (
    "{% if m.role == 'user' %}"
    "{{ '<|bot_end|>' if not loop.first }}<|user|>{{ m.content }}<|user_end|>"
    "{% elif m.role == 'tool' %}[{{ m.content }}]"
    "{% else %}{{ '<|bot|>' if loop.previtem.role == 'user' }}{{ m.content or '' }}"
    "{% if m.tool_calls %}<|calls|>[{% for c in m.tool_calls %}"
    '{"{{ c.function.name }}": {{ c.function.arguments | tojson }}}'
    "{{ ', ' if not loop.last }}{% endfor %}]<|calls_end|>{% endif %}{% endif %}"
)
REOPENED = (
    "{% if m.role == 'tool' %}<|result|>{{ m.content }}<|result_end|>"
    "{% else %}{{ '<|turn|>' ~ m.role ~ '\n' }}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<|call|>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "<|call_end|>{% endfor %}{{ '<|turn_end|>\n' if not m.tool_calls }}{% endif %}"
)


def template(body: str, begin: str, tools: str = TOOLS) -> str:
    return tools + LOOP.replace("BODY", body).replace("BEGIN", begin)


TEMPLATES = {
    "qwen": template(QWEN, "<|im_start|>assistant\n"),
    "always thinking": template(QWEN, "<|im_start|>assistant\n<think>\n"),
    "channels": template(CHANNELS, "<|turn|>bot"),
    "messages": template(MESSAGES, "<|begin|>assistant"),
    "separated": template(SEPARATED, "assistant<|role|>\n"),
    "unended": template(UNENDED, "<|assistant|>"),
    "result inside": template(RESULT_INSIDE, "<|bot|>"),
    "reopened": template(REOPENED, "{{ '<|turn|>assistant\n' if messages[-1].role != 'tool' }}"),
}


def learned(name: str) -> JinjaTemplate:
    found = Reader(TEMPLATES[name]).template
    assert isinstance(found, JinjaTemplate)
    return found


@pytest.mark.parametrize(
    ("name", "thought", "stops", "before", "after"),
    [
        ("qwen", ("<think>\n", "\n</think>\n\n"), ("<|im_end|>",), (), ()),
        ("always thinking", ("<think>\n", "\n</think>\n\n"), ("<|im_end|>",), (), ()),
        (
            "channels",
            ("<|START_THINKING|>", "<|END_THINKING|>"),
            ("<|end_of_turn|>",),
            ("<|START_RESPONSE|>",),
            ("<|END_RESPONSE|>",),
        ),
        (
            "messages",
            ("<|think|>", "<|end|>"),
            ("<|calls|>",),  # `<|end|>` ends a message, after which the turn goes on
            ("<|content|>", "<|begin|>assistant<|content|>"),
            ("<|begin|>assistant",),
        ),
    ],
)
def test_marks(name: str, thought: Any, stops: Any, before: Any, after: Any) -> None:
    found = learned(name)
    assert found.thought_words == thought
    assert found.reasoning
    assert found.stop_words == stops
    assert found.before_text == before
    assert found.after_text == after
    assert found.shows_tools
    assert found.warning() is None


@pytest.mark.parametrize(
    ("name", "stops", "ends", "goes_on"),
    [
        ("qwen", ("<|im_end|>",), (), ()),
        ("channels", ("<|end_of_turn|>",), (), ()),
        # The text's end is that of a thought too, and the calls have their own.
        ("messages", ("<|calls|>",), ("<|end|>",), ("<|begin|>assistant<|tool_calls|><|call|>",)),
        # One token ends all messages, and calls are messages of their own.
        ("separated", (), ("<|sep|>",), ("\nfunction call<|role|>",)),
        # Nothing ends a turn but what begins the next message.
        ("unended", ("<|user|>", "<|observation|>"), (), ()),
        # A result stands inside of the turn, right after the calls.
        ("result inside", ("<|bot_end|>", "<|calls_end|>"), (), ()),
    ],
)
def test_what_ends_a_turn(name: str, stops: Any, ends: Any, goes_on: Any) -> None:
    found = learned(name)
    assert found.stop_words == stops
    assert found.message_ends == ends
    assert found.goes_on == goes_on


def test_a_turn_that_the_model_begins_itself_after_a_result() -> None:
    reader = Reader(TEMPLATES["reopened"])
    assert reader.template.head == "<|turn|>assistant\n"
    asked = [ASK, calling(PARIS), result()]
    written = Written("", "<|turn|>assistant\nIt rains.<|turn_end|>\n")
    for read in reader.read((asked, True), written).values():
        assert read.text == "It rains."


def test_what_ends_a_message_alone_is_no_stop_token_where_the_files_say_so() -> None:
    reader = Reader(TEMPLATES["separated"])
    tokenizer, found = reader.tokenizer, reader.template
    named = Tokenizer(
        tokenizer.backend,
        special_tokens={"eos_token": "<|sep|>"},
        chat_template=TEMPLATES["separated"],
    )
    for one in (tokenizer, named):
        assert tokenizer.token_to_id("<|sep|>") not in found.stop_token_ids(one)


def test_a_template_without_thoughts_or_calls() -> None:
    found = Reader(template("<|{{ m.role }}|>{{ m.content }}<|end|>", "<|assistant|>", "")).template
    assert not found.reasoning
    assert not found.shows_tools
    assert found.tool_format is None
    assert found.stop_words == ("<|end|>",)


def test_tools_without_calls_are_told_at_load() -> None:
    found = Reader(template("<|{{ m.role }}|>{{ m.content }}<|end|>", "<|assistant|>")).template
    assert found.shows_tools
    assert "tool_format" in (found.warning() or "")


SHOWN_NOWHERE = template("<|{{ m.role }}|>{{ m.content }}<|end|>\n", "<|assistant|>", "")
CONVERSATION = read_conversation(
    [
        {"role": "user", "content": "What is 2 + 2?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "4", "tool_call_id": "a"},
        {"role": "user", "content": "Sure?"},
    ],
    "Be brief.",
    [{"name": "add", "parameters": {"type": "object", "properties": {}}}],
)  # fmt: skip


def tokenizer_of(source: str) -> Tokenizer:
    return Reader(source).tokenizer


def test_tools_that_are_not_shown_are_refused() -> None:
    found = JinjaTemplate(tokenizer_of(SHOWN_NOWHERE))
    with pytest.raises(ToolError, match=r"shows no tools.*tool_format"):
        found.with_tools_shown(CONVERSATION)


def test_tools_in_the_system_message_in_a_format_that_was_chosen() -> None:
    tokenizer = tokenizer_of(SHOWN_NOWHERE)
    found = JinjaTemplate(tokenizer, tool_format="qwen")
    shown = found.with_tools_shown(CONVERSATION)
    text = tokenizer.decode(found.encode(shown, tokenizer), skip_special_tokens=False)
    system, asked, called, result = text.split("<|end|>\n")[:4]
    assert system.startswith("<|system|>Be brief.\n\n# Tools")
    assert '{"type": "function", "function": {"name": "add"' in system
    assert asked == "<|user|>What is 2 + 2?"
    assert '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>' in called
    assert result == "<|user|>4"


def test_a_named_template_reads_the_models_own_calls_too() -> None:
    found = get_template("qwen", tokenizer_of(TEMPLATES["channels"]))
    assert found.tool_format is not None
    for text in (
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        '<|START_ACTION|>[{"tool_name": "f", "parameters": {"a": 1}}]<|END_ACTION|>',
    ):
        rest, calls = found.tool_format.parse(text, [{"name": "f"}])
        assert [(call.name, call.arguments) for call in calls] == [("f", '{"a": 1}')]
        assert not rest


def test_a_header_that_the_history_writes_with_other_white_space_is_no_part_of_an_answer() -> None:
    body = QWEN.replace("<|im_end|>\n", "<|im_end|>").replace(
        "<|im_start|>", "{{ '\\n' }}<|im_start|>"
    )
    found = Reader(template(body, "<|im_start|>assistant\n\n")).template
    assert isinstance(found, JinjaTemplate)
    form = found.learned.form
    assert form is not None
    assert "<|im_start|>" not in form.begin
    assert found.before_text == ()
