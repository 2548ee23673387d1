"""From a request of the Responses API to quire's call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quire.server.apis.openai.request import check_allowed, check_thinking, constraint
from quire.server.apis.openai.responses.items import (
    CALLS_OF_TOOLS,
    RESULTS_OF_TOOLS,
    BuiltInItem,
    InputPart,
    MessageItem,
    ReasoningItem,
)
from quire.server.apis.openai.responses.schema import FunctionTool, ResponsesRequest
from quire.server.call import Call
from quire.server.errors import BadRequest
from quire.server.turns import Part, Turns, text_part
from quire.tool_choice import ToolChoice

LOGPROBS = "message.output_text.logprobs"


def responses_call(body: ResponsesRequest) -> Call:
    """The request as a call.

    Raises:
        BadRequest: the items form no conversation, or two fields contradict each other.
    """
    turns = _turns(body)
    choice, tools = _choice(body)
    return Call(
        messages=turns.messages,
        system=turns.system,
        tools=tools or None,
        options=_options(body),
        model=body.model,
        # A whole answer's log-probabilities do not separate thoughts from text; a stream's do.
        streamed=bool(body.stream) or wants_logprobs(body),
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        wire="responses",
    )


def wants_logprobs(body: ResponsesRequest) -> bool:
    """Whether the response includes log-probabilities."""
    return LOGPROBS in (body.include or ()) or bool(body.top_logprobs)


def _turns(body: ResponsesRequest) -> Turns:
    turns = Turns()
    if body.instructions:
        turns.instruct(body.instructions)
    if isinstance(body.input, str):
        turns.say([text_part(body.input)])
        return turns
    for index, item in enumerate(body.input):
        _item(turns, item, f"input[{index}]")
    return turns


def _item(turns: Turns, item: Any, path: str) -> None:
    """Add one item to the turns; the schema has checked its fields."""
    kind = item.get("type", "message")
    if kind == "message":
        _message(turns, item, path)
    elif kind == "reasoning":
        turns.think(_thought(item))
    elif kind == "function_call":
        name = _in_namespace(item.get("namespace"), item["name"])
        turns.call(item["call_id"], name, item["arguments"])
    elif kind == "function_call_output":
        turns.result(item["call_id"], _parts(item["output"]), f"{path}.call_id")
    else:
        _built_in(turns, item, path)


def _built_in(turns: Turns, item: BuiltInItem, path: str) -> None:
    """Add what one of OpenAI's own tools has left, where there is text to read; drop the rest."""
    kind, call_id = item["type"], item.get("call_id") or item.get("id") or ""
    if kind in CALLS_OF_TOOLS:
        field = CALLS_OF_TOOLS[kind]
        name = item.get("name") or kind.removesuffix("_call")
        turns.call(call_id, name, json.dumps({field: item.get(field)}, ensure_ascii=False))
    elif kind in RESULTS_OF_TOOLS:
        output = item.get("output")
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        turns.result(call_id, [text_part(text)], f"{path}.call_id")


def _message(turns: Turns, item: MessageItem, path: str) -> None:
    parts = _parts(item["content"])
    if item["role"] == "user":
        turns.say(parts)
        return
    for index, part in enumerate(parts):
        if part["type"] != "text":
            raise BadRequest(
                f"A message of the role {item['role']} may have only text.",
                param=f"{path}.content[{index}]",
            )
    text = "".join(part["text"] for part in parts)
    if item["role"] == "assistant":
        turns.answer(text)
    else:
        turns.instruct(text)


def _parts(content: str | list[InputPart]) -> list[Part]:
    if isinstance(content, str):
        return [text_part(content)]
    return [_part(part) for part in content]


def _part(part: InputPart) -> Part:
    if part["type"] == "input_image":
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    if part["type"] == "input_audio":
        return {"type": "input_audio", "input_audio": dict(part["input_audio"])}
    return text_part(part["refusal"] if part["type"] == "refusal" else part["text"])


def _thought(item: ReasoningItem) -> str:
    """The thought's text, or its summary."""
    texts = item.get("content") or item.get("summary") or []
    return "".join(text["text"] for text in texts)


def _in_namespace(namespace: str | None, name: str) -> str:
    """A function's name as the model sees it."""
    return f"{namespace}.{name}" if namespace else name


def functions(body: ResponsesRequest) -> dict[str, tuple[str | None, FunctionTool]]:
    """The functions that are offered, by the model's names for them, each with its namespace."""
    found: dict[str, tuple[str | None, FunctionTool]] = {}
    for tool in body.tools or ():
        if tool["type"] == "function":
            found[tool["name"]] = None, tool
        elif tool["type"] == "namespace":
            for one in tool["tools"]:
                found[_in_namespace(tool["name"], one["name"])] = tool["name"], one
    return found


def _tool(name: str, tool: FunctionTool) -> dict[str, Any]:
    function = {
        "name": name,
        "description": tool.get("description") or "",
        "parameters": tool.get("parameters") or {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": function}


def _choice(body: ResponsesRequest) -> tuple[ToolChoice, list[dict[str, Any]]]:
    """The choice, and the tools to offer."""
    choice, known = body.tool_choice or "auto", functions(body)
    tools = {name: _tool(name, tool) for name, (_, tool) in known.items()}
    if isinstance(choice, str):
        return ToolChoice(choice), list(tools.values())
    if choice["type"] == "function":
        return ToolChoice("required", choice["name"]), list(tools.values())
    allowed = {tool["name"] for tool in choice["tools"]}
    check_allowed(allowed, set(tools), "tool_choice.tools")
    offered = [tool for name, tool in tools.items() if name in allowed]
    return ToolChoice(choice["mode"]), offered


def _options(body: ResponsesRequest) -> dict[str, Any]:
    options = body.options()
    if (form := _format(body)) is not None:
        options["response_format"] = form
    if body.structured_outputs is not None:
        if form is not None:
            raise BadRequest(
                "text.format and structured_outputs say the same: give one.",
                param="structured_outputs",
            )
        options["response_format"] = constraint(body.structured_outputs)
    if wants_logprobs(body):
        options["logprobs"] = body.top_logprobs or 0
    if (effort := (body.reasoning or {}).get("effort")) is not None:
        options["reasoning_effort"] = effort
    check_thinking(options)
    if _ends_unfinished(body):
        options.setdefault("continue_final_message", True)
    return options


def _ends_unfinished(body: ResponsesRequest) -> bool:
    """Whether the last item is a part of an answer that was cut, which the response continues."""
    last: Mapping[str, Any] = {} if isinstance(body.input, str) else body.input[-1]
    is_answer = last.get("role") == "assistant" or last.get("type") == "reasoning"
    return is_answer and last.get("status") in ("incomplete", "in_progress")


def _format(body: ResponsesRequest) -> dict[str, Any] | None:
    form: Mapping[str, Any] | None = (body.text or {}).get("format")
    if form is None or form["type"] == "text":
        return None
    if form["type"] == "json_object":
        return {"type": "json_object"}
    schema = {"name": form["name"], "schema": form["schema"]}
    return {"type": "json_schema", "json_schema": schema}


def echo(body: ResponsesRequest, model: str) -> dict[str, Any]:
    """The fields of the request that a response repeats."""
    given = body.model_dump(include={"max_output_tokens", "temperature", "top_p"})
    return {
        "model": model,
        "instructions": body.instructions,
        "max_output_tokens": given.get("max_output_tokens"),
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "background": False,
        "reasoning": {"effort": (body.reasoning or {}).get("effort"), "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": given.get("temperature"),
        "text": {"format": (body.text or {}).get("format") or {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": [
            {**_TOOL_DEFAULTS, **tool} if tool["type"] == "function" else tool
            for tool in body.tools or ()
        ],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": given.get("top_p"),
        "truncation": "disabled",
        "user": body.user,
    }


_TOOL_DEFAULTS = {"description": None, "parameters": None, "strict": None}
