"""From Anthropic's request to quire's call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from quire.server.apis.anthropic.schema import (
    AssistantBlock,
    CountTokensRequest,
    CustomTool,
    DocumentBlock,
    MessagesRequest,
    ResultBlock,
    ToolResultBlock,
    UserBlock,
)
from quire.server.call import Call
from quire.server.errors import BadRequest
from quire.server.turns import Part, Turns, text_part
from quire.tool_choice import ToolChoice

_MODES: dict[str, Literal["auto", "none", "required"]] = {
    "auto": "auto",
    "any": "required",
    "tool": "required",
    "none": "none",
}


def messages_call(body: MessagesRequest) -> Call:
    """The call of a /v1/messages request.

    Raises:
        BadRequest: the turns form no conversation, or two fields contradict each other.
    """
    options = {**body.options(), "max_new_tokens": body.max_tokens}
    return prompt_call(body, options, streamed=bool(body.stream))


def prompt_call(
    body: CountTokensRequest, options: dict[str, Any] | None = None, *, streamed: bool = False
) -> Call:
    """The call of a prompt alone; raises as `messages_call` does."""
    _check_thread(body)
    turns = Turns()
    for block in _blocks(body.system):
        turns.instruct(block["text"])
    for index, turn in enumerate(body.messages):
        path = f"messages[{index}].content"
        if turn["role"] == "system":
            for block in _blocks(turn["content"]):
                turns.instruct(block["text"])
        elif turn["role"] == "user":
            _user(turns, _blocks(turn["content"]), path)
        else:
            _assistant(turns, _blocks(turn["content"]))
    choice = body.tool_choice or {"type": "auto"}
    return Call(
        messages=turns.messages,
        system=turns.system,
        tools=[_tool(tool) for tool in body.tools] if body.tools else None,
        options={**(options or {}), **_template_options(body, turns.messages), **_format(body)},
        model=body.model,
        streamed=streamed,
        tool_choice=ToolChoice(_MODES[choice["type"]], _chosen(body)),
        parallel_tool_calls=not choice.get("disable_parallel_tool_use", False),
        wire="anthropic",
    )


def _check_thread(body: CountTokensRequest) -> None:
    """Refuse a thread: Anthropic's tool runner then sends whole conversations, by these details."""
    if body.thread is not None:
        raise BadRequest(
            "thread is not supported: this server stores no messages. Send the whole conversation "
            "without thread.",
            param="thread",
            details={"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
        )


def _blocks(content: Any) -> list[Any]:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _user(turns: Turns, blocks: Sequence[UserBlock], path: str) -> None:
    """Add tool results first, as turns of their own, and then the rest as the user's turn."""
    rest: list[Part] = []
    for index, block in enumerate(blocks):
        if block["type"] == "tool_result":
            turns.result(block["tool_use_id"], _result(block), f"{path}[{index}].tool_use_id")
        else:
            rest.append(_part(block))
    if rest or not blocks:
        turns.say(rest)


def _result(block: ToolResultBlock) -> list[Part]:
    parts = [_part(part) for part in _blocks(block.get("content"))]
    if not block.get("is_error"):
        return parts
    if parts and parts[0]["type"] == "text":
        return [text_part(f"Error: {parts[0]['text']}"), *parts[1:]]
    return [text_part("Error: "), *parts]


def _part(block: ResultBlock) -> Part:
    if block["type"] == "text":
        return text_part(block["text"])
    if block["type"] == "document":
        return text_part(_document(block))
    if block["type"] == "tool_reference":
        return text_part(block["tool_name"])
    source = block["source"]
    url = (
        source["url"]
        if source["type"] == "url"
        else f"data:{source['media_type']};base64,{source['data']}"
    )
    return {"type": "image_url", "image_url": {"url": url}}


def _document(block: DocumentBlock) -> str:
    """A document's title, context and text."""
    lines = (block.get("title"), block.get("context"), block["source"]["data"])
    return "\n".join(line for line in lines if line)


def _assistant(turns: Turns, blocks: Sequence[AssistantBlock]) -> None:
    turns.answer("")
    for block in blocks:
        if block["type"] == "text":
            turns.answer(block["text"])
        elif block["type"] == "thinking":
            turns.think(block["thinking"])
        elif block["type"] == "tool_use":
            arguments = json.dumps(block["input"], ensure_ascii=False)
            turns.call(block["id"], block["name"], arguments)


def _tool(tool: CustomTool) -> dict[str, Any]:
    function = {
        "name": tool["name"],
        "description": tool.get("description") or "",
        "parameters": tool["input_schema"],
    }
    return {"type": "function", "function": function}


def _chosen(body: CountTokensRequest) -> str | None:
    choice = body.tool_choice
    if choice is None or choice["type"] != "tool":
        return None
    if not choice.get("name"):
        raise BadRequest('tool_choice of the type "tool" needs a name.', param="tool_choice.name")
    return choice.get("name")


def _template_options(
    body: CountTokensRequest, messages: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """How the prompt is written; the answer continues a last message of the assistant's."""
    is_prefilled = bool(messages) and messages[-1]["role"] == "assistant"
    given = {
        "chat_template_kwargs": body.chat_template_kwargs,
        "reasoning_effort": (body.output_config or {}).get("effort"),
        "continue_final_message": True if is_prefilled else None,
    }
    return {name: value for name, value in given.items() if value is not None} | _thinking(body)


def _thinking(body: CountTokensRequest) -> dict[str, Any]:
    thinking = body.thinking
    if thinking is None:
        return {}
    if thinking["type"] == "enabled" and thinking.get("budget_tokens") is None:
        raise BadRequest(
            'thinking of the type "enabled" needs budget_tokens.', param="thinking.budget_tokens"
        )
    options: dict[str, Any] = {"enable_thinking": thinking["type"] != "disabled"}
    if thinking["type"] == "enabled":
        options["thinking_budget"] = thinking.get("budget_tokens")
    return options


def _format(body: CountTokensRequest) -> dict[str, Any]:
    answer_format = (body.output_config or {}).get("format")
    if answer_format is None:
        return {}
    schema = {"name": "answer", "schema": answer_format["schema"]}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
