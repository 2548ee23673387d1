"""What the real templates are given: tools, conversations to render, and answers to render and read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


def tool(name: str, description: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """A tool in OpenAI's form."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


TOOLS = [
    tool(
        "get_weather",
        "The weather of a city.",
        {
            "city": {"type": "string", "description": "The city's name."},
            "days": {"type": "integer", "description": "How many days ahead."},
        },
        "city",
    ),
    tool(
        "search",
        "Finds documents.",
        {
            "query": {"type": "string", "description": "What is looked for."},
            "filters": {
                "type": "object",
                "description": "What a document must be.",
                "properties": {
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "size": {"type": "object", "properties": {"min": {"type": "number"}}},
                },
            },
            "limit": {"type": "integer", "description": "How many at most."},
            "ratio": {"type": "number", "description": "How near."},
            "exact": {"type": "boolean", "description": "Whether words are taken as they are."},
            "after": {"type": ["integer", "null"], "description": "A year."},
        },
    ),
    tool("ping", "Says whether all is well.", {}),
]


@dataclass(frozen=True)
class Call:
    """One call of an answer."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a model answers: its thought, its text, its calls, in this order."""

    text: str = ""
    thought: str = ""
    calls: tuple[Call, ...] = ()
    after_result: bool = False
    """Whether it follows a tool's result, not the user's question."""


PARIS, ROME = (
    Call("get_weather", {"city": "Paris"}),
    Call("get_weather", {"city": "Rome", "days": 2}),
)
TEXT, THOUGHT = "Let me look that up.", "They ask for the weather.\nI have a tool for it."
NESTED = {"filters": {"tags": ["red", "blue"], "size": {"min": 1.5}}, "query": "cars"}
STRINGS = {"query": 'say "hi", it\'s\n{a: [b]} \\ <b>c</b> & 100%, {"d": 1}'}
UNICODE = {"city": "Zürich, 東京 🦆"}
VALUES = {"limit": 10, "ratio": -0.5, "exact": True, "after": None, "query": "12"}

ANSWERS: dict[str, Answer] = {
    "call": Answer(calls=(PARIS,)),
    "two calls": Answer(calls=(PARIS, ROME)),
    "text, call": Answer(TEXT, calls=(PARIS,)),
    "thought, call": Answer(thought=THOUGHT, calls=(PARIS,)),
    "thought, text, two calls": Answer(TEXT, THOUGHT, (PARIS, ROME)),
    "call after a result": Answer(calls=(ROME,), after_result=True),
    "no arguments": Answer(calls=(Call("ping", {}),)),
    "nested": Answer(calls=(Call("search", NESTED),)),
    "strings": Answer(calls=(Call("search", STRINGS),)),
    "unicode": Answer(calls=(Call("get_weather", UNICODE),)),
    "values": Answer(calls=(Call("search", VALUES),)),
    "text": Answer("It rains in Paris."),
    "thought, text": Answer("It rains in Paris.", THOUGHT),
    "text after a result": Answer("It rains in Paris.", after_result=True),
}
"""The answers that templates render, and quire reads back."""

FORCED = (
    "call",
    "two calls",
    "thought, call",
    "call after a result",
    "no arguments",
    "strings",
    "unicode",
)
"""Those that a forced call can be: no text, and the arguments in the order of the schema, as grammars
have them."""


# --- conversations to render --------------------------------------------------------------------

ASK: Message = {"role": "user", "content": "What is the weather in Paris?"}
MORE: Message = {"role": "user", "content": "And in Rome?"}
SAY: Message = {"role": "assistant", "content": "It rains in Paris."}
SYSTEM: Message = {"role": "system", "content": "You are brief & kind."}
RESULT_TEXT = '{"sky": "rain", "degrees": 11}'


def calling(*calls: Call, content: str | None = None, first: int = 0, **more: Any) -> Message:
    """An assistant's turn with calls, numbered from `first`."""
    made = [
        {
            "type": "function",
            "id": f"call{first + number:05d}",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": content, "tool_calls": made, **more}


def result(number: int = 0, text: str = RESULT_TEXT) -> Message:
    """A tool's result for the call of this number."""
    return {
        "role": "tool",
        "content": text,
        "tool_call_id": f"call{number:05d}",
        "name": "get_weather",
    }


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


_REASONED: Message = {**SAY, "reasoning_content": THOUGHT}
_INLINE: Message = {**SAY, "content": f"<think>\n{THOUGHT}\n</think>\n\n{SAY['content']}"}
_ROUND = [ASK, calling(PARIS), result()]

CONVERSATIONS: dict[str, list[Message]] = {
    "one turn": [ASK],
    "system": [SYSTEM, ASK],
    "three turns": [ASK, SAY, MORE],
    "system, five turns": [SYSTEM, ASK, SAY, MORE, SAY, ASK],
    "an empty question": [_user("")],
    "an empty system": [{"role": "system", "content": ""}, ASK],
    "an empty answer": [ASK, {"role": "assistant", "content": ""}, MORE],
    "parts": [{"role": "user", "content": _parts("What is this?")}],
    "two parts": [{"role": "user", "content": _parts("First.", "Second.")}],
    "spaces around": [_user("  \n Hello \n "), {"role": "assistant", "content": " Yes. \n"}, MORE],
    "unicode": [_user("Grüße aus 東京 🦆 \u200b e\u0301"), SAY, MORE],
    "template marks": [_user("{{ x }} {% if y %} {# z #} <b>&amp;</b> \\n 'q' \"r\"")],
    "role marks": [_user("user: hi\nassistant: no\n### Response:\n[x] <y>")],
    "a long question": [_user("word " * 400)],
    "the assistant first": [SAY, MORE],
    "twice the user": [ASK, MORE],
    "a later system": [ASK, SAY, SYSTEM, MORE],
    "reasoned": [ASK, _REASONED, MORE],
    "reasoned twice": [ASK, _REASONED, MORE, _REASONED, ASK],
    "thought in the text": [ASK, _INLINE, MORE],
    "an empty thought": [ASK, {**SAY, "reasoning_content": ""}, MORE],
    "tools": [ASK],
    "tools, system": [SYSTEM, ASK],
    "tools, three turns": [ASK, SAY, MORE],
    "tools, parts": [{"role": "user", "content": _parts("What is this?")}],
    "call": _ROUND,
    "system, call": [SYSTEM, *_ROUND],
    "text, call": [ASK, calling(PARIS, content=TEXT), result()],
    "two calls": [ASK, calling(PARIS, ROME), result(), result(1)],
    "call, answer": [*_ROUND, SAY, MORE],
    "two rounds": [*_ROUND, calling(ROME, first=1), result(1)],
    "thought, call": [ASK, calling(PARIS, reasoning_content=THOUGHT), result()],
    "thoughts, two rounds": [
        ASK,
        calling(PARIS, reasoning_content=THOUGHT),
        result(),
        calling(ROME, first=1, reasoning_content=THOUGHT),
        result(1),
    ],
    "no arguments": [ASK, calling(Call("ping", {})), result()],
    "nested arguments": [ASK, calling(Call("search", NESTED)), result()],
    "strings in arguments": [ASK, calling(Call("search", STRINGS)), result()],
    "values in arguments": [ASK, calling(Call("search", VALUES)), result()],
    "an empty result": [ASK, calling(PARIS), result(text="")],
}
"""From "tools" on, the tools are given with them."""

WITH_TOOLS = frozenset(list(CONVERSATIONS)[list(CONVERSATIONS).index("tools") :])


def as_json(arguments: dict[str, Any]) -> str:
    """Arguments as text, as OpenAI's API has them."""
    return json.dumps(arguments, ensure_ascii=False)
