"""A model's own chat template against transformers' rendering of it."""

from __future__ import annotations

import functools
import threading
from typing import Any, cast

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _get_template_variables

from quire.errors import ConfigError, MediaError, MessageError, TemplateError
from quire.messages import Conversation, read_conversation
from quire.prompt import TextElement
from quire.template import jinja
from quire.template.jinja import JinjaTemplate
from quire.template.registry import get_template
from quire.tokenizer import Tokenizer
from tests.template import chat_templates
from tests.tokenizer.kinds import KINDS, make_backend

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather's state; <b>now</b>, für alle.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
ASK = {"role": "user", "content": "  Hello & welcome,\nwhat is 1 < 2?  "}
SAY = {"role": "assistant", "content": "Yes, it is. "}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "type": "function",
            "id": "abcdefgh1",
            "function": {"name": "get_weather", "arguments": {"city": "Zürich <x>"}},
        }
    ],
}
RESULT = {"role": "tool", "content": "21 degrees", "tool_call_id": "abcdefgh1"}
THOUGHT = {"role": "assistant", "content": "<think>\nHm, let me see.\n</think>\n\nIt is so."}
REASONED = {"role": "assistant", "content": "It is so.", "reasoning_content": "Hm, let me see."}
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one turn": ([ASK], None),
    "system": ([SYSTEM, ASK], None),
    "many turns": ([ASK, SAY, ASK, SAY, ASK], None),
    "tools": ([ASK], TOOLS),
    "tools and system": ([SYSTEM, ASK], TOOLS),
    "call": ([ASK, CALL, RESULT], TOOLS),
    "call and results": ([ASK, CALL, RESULT, SAY, ASK], TOOLS),
    "thought": ([ASK, THOUGHT, ASK], None),
    "reasoned": ([ASK, REASONED, ASK], None),
    "thought, then tools": ([ASK, {**THOUGHT, "tool_calls": CALL["tool_calls"]}, RESULT], TOOLS),
    "the assistant first": ([SAY, ASK], None),
    "a greeting after the system": ([SYSTEM, SAY, ASK, SAY, ASK], None),
    "a later system": ([SYSTEM, ASK, SAY, SYSTEM, ASK], None),
    "a system last": ([ASK, SAY, ASK, SYSTEM], None),
    "twice the user": ([ASK, ASK], None),
    "odd text": ([{"role": "user", "content": "é 🦆 {{ x }} {% if %} \t<|im_sta"}], None),
}


def added_tokens(name: str) -> list[AddedToken]:
    specials = [*chat_templates.CONTROLS[name], "<s>", "</s>"]
    return [
        *(AddedToken(text, special=True) for text in specials),
        *(AddedToken(text, special=False, normalized=False) for text in chat_templates.WORDS),
    ]


@functools.cache
def tokenizers_of(name: str, kind: str = "byte_bpe") -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    """`make_tokenizer` of a whole template, shared by tests: nobody changes them."""
    return make_tokenizer(name, kind)


def make_tokenizer(
    name: str, kind: str = "byte_bpe", template: str | dict[str, str] | None = None
) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    """Ours and transformers', with the same tokens and template."""
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    template = template or chat_templates.ALL[name]
    ours = Tokenizer(
        make_backend(kind, added_tokens(name)), special_tokens=names, chat_template=template
    )
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=make_backend(kind, added_tokens(name)), chat_template=template, **names
    )
    return ours, theirs


def reference_messages(name: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a user of transformers would write for this template: some want arguments as text."""
    if name != "deepseek":
        return [
            {**message, "content": message["content"] or ""} if "tool_calls" in message else message
            for message in messages
        ]
    call = {**CALL["tool_calls"][0]["function"], "arguments": '{"city": "Zürich <x>"}'}
    calls = [{**CALL["tool_calls"][0], "function": call}]
    return [
        {**message, "tool_calls": calls} if "tool_calls" in message else message
        for message in messages
    ]


@pytest.mark.parametrize("thinking", [True, False, None])
@pytest.mark.parametrize("conversation", list(CONVERSATIONS))
@pytest.mark.parametrize("name", list(chat_templates.ALL))
def test_as_transformers_renders(name: str, conversation: str, thinking: bool | None) -> None:
    messages, tools = CONVERSATIONS[conversation]
    ours, theirs = tokenizers_of(name)
    options: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
    given = read_conversation(messages, tools=tools)
    template = JinjaTemplate(ours)
    try:
        expected = theirs.apply_chat_template(
            reference_messages(name, messages),
            tools=cast("Any", tools),
            add_generation_prompt=True,
            tokenize=False,
            **options,
        )
    except Exception as error:
        with pytest.raises(TemplateError, match=type(error).__name__ + "|says"):
            template.render(given, enable_thinking=thinking)
        return
    (element,) = template.render(given, enable_thinking=thinking)
    assert isinstance(element, TextElement)
    assert element.text == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(chat_templates.ALL))
def test_ids_are_those_of_transformers(name: str, kind: str) -> None:
    messages = [ASK, SAY, {"role": "user", "content": "And 你好?"}]
    ours, theirs = tokenizers_of(name, kind)
    ids = JinjaTemplate(ours).encode(read_conversation(messages), ours)
    expected = theirs.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert list(ids) == expected
    assert ids.count(ours.bos_token_id or -1) <= 1


def test_roles_and_numbers_make_markers() -> None:
    """Markers that a template puts together are its own, also out of a role or a number."""
    ours, _ = make_tokenizer(
        "phi", template="{{ '<|' ~ messages[0].role + '|>' }}{{ messages[0].content }}"
    )
    ids = JinjaTemplate(ours).encode(
        read_conversation([{"role": "user", "content": "<|user|>"}]), ours
    )
    assert ids[0] == ours.token_to_id("<|user|>")
    assert ours.token_to_id("<|user|>") not in ids[1:]


@pytest.mark.parametrize("name", list(chat_templates.ALL))
def test_what_is_read_off_a_template(name: str) -> None:
    ours, _ = make_tokenizer(name)
    template = get_template(None, ours)
    assert template.stop_words == (chat_templates.ENDS[name],)
    end = ours.token_to_id(chat_templates.ENDS[name])
    assert set(template.stop_token_ids(ours)) == {end, ours.eos_token_id}
    assert template.reasoning == (name in ("qwen3", "deepseek"))
    assert [word.strip() for word in template.thought_words] == ["<think>", "</think>"]
    tool_format = template.tool_format
    assert (tool_format.name if tool_format else None) == chat_templates.TOOL_FORMATS.get(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[THINK] [/THINK]", ("[THINK]", "[/THINK]")),
        ("<seed:think>", ("<seed:think>", "</seed:think>")),
        ("◁think▷", ("◁think▷", "◁/think▷")),
    ],
)
def test_words_around_thoughts(text: str, words: tuple[str, str]) -> None:
    ours, _ = make_tokenizer("phi", template=text)
    assert JinjaTemplate(ours).thought_words == words


def test_a_prompt_that_opens_a_thought() -> None:
    ours, _ = make_tokenizer("deepseek")
    template = JinjaTemplate(ours)
    assert template.starts_in_thought(template.render(read_conversation([ASK])))
    ours, _ = make_tokenizer("qwen3")
    template = JinjaTemplate(ours)
    assert not template.starts_in_thought(template.render(read_conversation([ASK])))


def test_a_thought_in_history_keeps_its_tokens() -> None:
    """The words around a thought that the model wrote are control tokens, as they were then."""
    ours, _ = make_tokenizer("qwen25")
    ids = JinjaTemplate(ours).encode(read_conversation([ASK, THOUGHT, ASK]), ours)
    assert ids.count(ours.token_to_id("<think>") or -1) == 1
    asked = {"role": "user", "content": THOUGHT["content"]}
    ids = JinjaTemplate(ours).encode(read_conversation([asked]), ours)
    assert ids.count(ours.token_to_id("<think>") or -1) == 0


def test_several_templates_by_name() -> None:
    several = {"default": "D{{ messages[0].content }}", "tool_use": "T", "rag": "R"}
    ours, _ = make_tokenizer("phi", template=several)
    template = JinjaTemplate(ours)
    ask = {"role": "user", "content": "x"}
    assert _text(template, [ask]) == "Dx"
    assert _text(template, [ask], TOOLS) == "T"
    ours, _ = make_tokenizer("phi", template={"rag": "R", "tool_use": "T"})
    with pytest.raises(TemplateError, match="rag, tool_use"):
        _text(JinjaTemplate(ours), [ask])
    ours, _ = make_tokenizer("phi", template={"rag": "R"})
    assert _text(JinjaTemplate(ours), [ask]) == "R"


def test_variables() -> None:
    source = "{{ a }}{{ enable_thinking }}{{ documents }}{{ tools }}{{ preserve_thinking }}{{ eos_token }}"
    ours, _ = make_tokenizer("phi", template=source)
    template = JinjaTemplate(ours)
    given = read_conversation([ASK])
    (element,) = template.render(
        given, enable_thinking=True, variables={"a": "A", "tools": "no", "eos_token": "!"}
    )
    assert isinstance(element, TextElement)
    assert element.text == "ATrueNoneNone!"
    assert element.spans[0].literal
    (element,) = template.render(given, preserve_thinking=True, variables={"documents": [1]})
    assert isinstance(element, TextElement)
    assert element.text == "[1]NoneTrue</s>"


@pytest.mark.parametrize("name", list(chat_templates.ALL))
def test_the_variables_that_a_template_reads(name: str) -> None:
    """As transformers finds them, which parses the source once more."""
    ours, _ = tokenizers_of(name)
    read = _get_template_variables(chat_templates.ALL[name])
    functions = {"raise_exception", "strftime_now"}
    assert JinjaTemplate(ours).variables == read - functions - {
        "messages",
        "tools",
        "add_generation_prompt",
    }


@pytest.mark.parametrize("switch", ["enable_thinking", "thinking", "reasoning"])
def test_the_switch_for_thinking_has_the_templates_own_name(switch: str) -> None:
    ours, _ = make_tokenizer("phi", template=f"{{{{ {switch} }}}}")
    template = JinjaTemplate(ours)
    given = read_conversation([ASK])
    assert _rendered(template, given, enable_thinking=False) == "False"
    assert _rendered(template, given) == ""


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}", "Hm"),
        ("{{ messages[0]['thinking'] }}{{ thinking }}", "Hm"),
        ("{% if 'thinking' in messages[0] %}{{ messages[0].get('thinking') }}{% endif %}", "Hm"),
        ("{{ messages[0].get('reasoning') or '' }}", "Hm"),
        ("{% set thinking = messages[0].content %}{{ thinking }}", "So"),
    ],
)
def test_a_thought_has_the_key_that_the_template_reads(source: str, shown: str) -> None:
    ours, _ = make_tokenizer("phi", template=source)
    said = {"role": "assistant", "content": "So", "reasoning_content": "Hm"}
    assert _text(JinjaTemplate(ours), [said, ASK]) == shown


def test_documents_choose_the_template_for_them() -> None:
    several = {"default": "D", "tool_use": "T", "rag": "R{{ documents[0].title }}"}
    ours, _ = make_tokenizer("phi", template=several)
    template = JinjaTemplate(ours)
    given = read_conversation([ASK])
    assert _rendered(template, given, variables={"documents": [{"title": "x"}]}) == "Rx"
    assert _rendered(template, given, variables={"documents": []}) == "D"


CALLS_OF_NO_CONTENT = (
    "{%- for message in messages %}{%- if message.tool_calls and message.content is none %}"
    "{%- for call in message.tool_calls %}{{ call.function.arguments | tojson }}{% endfor %}"
    "{%- elif message.content is not none %}{{ message.content }}{%- endif %}{%- endfor %}"
)
CALLS_OF_ANY_CONTENT = (
    "{%- for message in messages %}{{ message.role + ':' + message.content }}"
    "{%- if message.reasoning_content is defined and message.reasoning_content is not none %}"
    "{{ message.reasoning_content }}{%- endif %}"
    "{%- for call in message.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}"
    "{%- endfor %}"
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CALLS_OF_NO_CONTENT, '1 < 2?  {"city": "Zürich <x>"}21 degrees'),
        (CALLS_OF_ANY_CONTENT, '1 < 2?  assistant:{"city": "Zürich <x>"}tool:21 degrees'),
    ],
)
def test_the_content_of_a_call_without_text(source: str, expected: str) -> None:
    """None where calls are dropped beside a text, else an empty text, whatever else is none."""
    ours, _ = make_tokenizer("phi", template=source)
    assert _text(JinjaTemplate(ours), [ASK, CALL, RESULT], TOOLS).endswith(expected)


@pytest.mark.parametrize("of_parts", [True, False])
def test_several_text_parts(of_parts: bool) -> None:
    """Joined as vLLM joins them, unless the template takes the parts themselves."""
    each = (
        "{% for part in message.content if part.type == 'text' %}[{{ part.text }}]{% endfor %}"
        if of_parts
        else ""
    )
    source = (
        "{% for message in messages %}{% if message.content is string %}{{ message.content }}"
        f"{{% else %}}{each}{{% endif %}}{{% endfor %}}"
    )
    ours, theirs = make_tokenizer("phi", template=source)
    parts = [{"type": "text", "text": text} for text in ("one", "two", "<image>")]
    messages = [{"role": "user", "content": parts}]
    found = _text(JinjaTemplate(ours), messages)
    if of_parts:
        assert found == theirs.apply_chat_template(messages, tokenize=False)
    else:
        assert found == "one\ntwo\n<image>"


def test_default_system_and_empty_system() -> None:
    ours, _ = make_tokenizer("qwen25")
    template = JinjaTemplate(ours, default_system="Mine.")
    assert _text(template, [ASK]).startswith("<|im_start|>system\nMine.<|im_end|>")
    assert _text(template, [SYSTEM, ASK]).startswith("<|im_start|>system\nBe brief.")
    assert _text(template, [{**SYSTEM, "content": ""}, ASK]).startswith(
        "<|im_start|>system\n<|im_end|>"
    )
    assert _text(JinjaTemplate(ours), [ASK]).startswith("<|im_start|>system\nYou help.")


def test_bare_tools_are_wrapped() -> None:
    ours, _ = make_tokenizer("qwen25")
    template = JinjaTemplate(ours)
    assert _text(template, [ASK], [TOOLS[0]["function"]]) == _text(template, [ASK], TOOLS)


def test_identities_are_made_where_a_template_wants_them() -> None:
    ours, _ = make_tokenizer("mistral")
    call = {"function": {"name": "f", "arguments": {}}}
    messages = [ASK, {"role": "assistant", "tool_calls": [call, call]}]
    messages += [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    text = _text(JinjaTemplate(ours), messages, TOOLS)
    for identity in ("call00000", "call00001"):
        assert f'"id": "{identity}"' in text
        assert f'"call_id": "{identity}"' in text


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_identities_of_another_form_are_replaced(order: tuple[int, int]) -> None:
    """All of them, and those of the results with them."""
    ours, theirs = make_tokenizer("mistral")

    def conversation(ids: tuple[str, str], order: tuple[int, int]) -> list[dict[str, Any]]:
        calls = [
            {"type": "function", "id": one, "function": {"name": "f", "arguments": {"n": number}}}
            for number, one in enumerate(ids)
        ]
        results = [{"role": "tool", "content": str(i), "tool_call_id": ids[i]} for i in order]
        return [ASK, {"role": "assistant", "content": "", "tool_calls": calls}, *results]

    long = ("call_aaaaaaaaaaaaaaaaaaaa", "abcdefgh2")
    expected = theirs.apply_chat_template(
        conversation(("call00000", "call00001"), (0, 1)),
        tools=cast("Any", TOOLS),
        tokenize=False,
        add_generation_prompt=True,
    )
    assert _text(JinjaTemplate(ours), conversation(long, order), TOOLS) == expected


def test_calls_for_which_no_identity_is_left_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "_MOST_CALLS", 3)
    ours, _ = make_tokenizer("mistral")
    call = {"function": {"name": "f", "arguments": {}}}
    turn = {"role": "assistant", "tool_calls": [call, call]}
    result = {"role": "tool", "content": "x"}
    first = [ASK, turn, result, result, SAY, ASK]
    _text(JinjaTemplate(ours), [*first, {**turn, "tool_calls": [call]}, result])
    with pytest.raises(MessageError, match="More than 3 tool calls have no id"):
        _text(JinjaTemplate(ours), [*first, turn, result, result])


def test_arguments_that_are_no_json_are_text() -> None:
    ours, _ = make_tokenizer("qwen3")
    call = {"function": {"name": "f", "arguments": "not json"}}
    text = _text(JinjaTemplate(ours), [ASK, {"role": "assistant", "tool_calls": [call]}, RESULT])
    assert '"arguments": not json}' in text


def test_what_a_template_refuses() -> None:
    ours, _ = make_tokenizer("gemma")
    with pytest.raises(TemplateError, match="says: System role not supported"):
        _text(JinjaTemplate(ours), [SYSTEM, ASK])
    ours, _ = make_tokenizer("phi", template="{{ messages[0].content.nothing.more }}")
    with pytest.raises(TemplateError, match="has no attribute 'nothing'"):
        _text(JinjaTemplate(ours), [ASK])
    ours, _ = make_tokenizer("phi", template="{{ 1 + 'a' }}")
    with pytest.raises(TemplateError, match="TypeError"):
        _text(JinjaTemplate(ours), [ASK])
    with pytest.raises(MediaError, match="text alone"):
        _text(
            JinjaTemplate(ours),
            [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}],
        )


@pytest.mark.parametrize("source", ["{% if %}", "{{ 'a' | no_such_filter }}", "{% for x in y %}"])
def test_a_template_with_an_error(source: str) -> None:
    ours, _ = make_tokenizer("phi", template=source)
    with pytest.raises(ConfigError, match="name another template"):
        get_template(None, ours)


def test_no_template() -> None:
    ours = Tokenizer(make_backend("byte_bpe"))
    with pytest.raises(ConfigError, match="no chat template of its own"):
        get_template(None, ours)


def test_tool_format_is_replaced() -> None:
    ours, _ = make_tokenizer("qwen3")
    template = JinjaTemplate(ours, tool_format="llama3")
    assert template.tool_format is not None
    assert template.tool_format.name == "llama3"
    with pytest.raises(ConfigError, match="tool_format"):
        JinjaTemplate(ours, tool_format="nope")


def test_an_empty_prompt() -> None:
    ours, _ = make_tokenizer("phi", template="{% if false %}x{% endif %}")
    template = JinjaTemplate(ours)
    assert template.render(read_conversation([ASK])) == []
    assert template.encode(read_conversation([ASK]), ours) == ()


def test_from_many_threads() -> None:
    ours, _ = make_tokenizer("qwen3")
    template = JinjaTemplate(ours)
    texts: dict[int, str] = {}

    def work(number: int) -> None:
        texts[number] = _text(template, [{"role": "user", "content": str(number)}] * 1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"user\n{number}<|im_end|>" in texts[number] for number in range(8))


def _rendered(template: JinjaTemplate, given: Conversation, **how: Any) -> str:
    elements = template.render(given, **how)
    return "".join(element.text for element in elements if isinstance(element, TextElement))


def _text(
    template: JinjaTemplate,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
) -> str:
    return _rendered(template, read_conversation(messages, tools=tools))
