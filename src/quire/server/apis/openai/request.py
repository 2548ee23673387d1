"""From OpenAI's requests to quire's call and options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quire.server.apis.openai.messages import Message, prefixes, quire_messages
from quire.server.apis.openai.schema import (
    CHAT_OPTIONS,
    ChatCompletionRequest,
    SamplingFields,
    StructuredOutputs,
    Tool,
)
from quire.server.call import Call
from quire.server.errors import BadRequest
from quire.tool_choice import ToolChoice


def sampling_options(body: SamplingFields) -> dict[str, Any]:
    """The options that chat and completions share, by quire's names.

    Raises:
        BadRequest: a constraint is given in two ways.
    """
    options = body.options()
    if body.max_tokens is not None:
        options["max_new_tokens"] = body.max_tokens
    if body.response_format is not None:
        given = body.response_format.items()
        options["response_format"] = {name: value for name, value in given if value is not None}
    if body.structured_outputs is not None:
        if body.response_format is not None:
            raise BadRequest(
                "response_format and structured_outputs say the same: give one.",
                param="structured_outputs",
            )
        options["response_format"] = constraint(body.structured_outputs)
    return options


def constraint(form: StructuredOutputs) -> dict[str, Any]:
    """vLLM's form of a constraint as a `response_format`.

    Raises:
        BadRequest: there is none, or more than one.
    """
    given = [
        (kind, value) for kind, value in form.items() if value is not None and value is not False
    ]
    if len(given) != 1:
        raise BadRequest("structured_outputs takes exactly one form.", param="structured_outputs")
    ((kind, value),) = given
    if kind == "json":
        return {"type": "json_schema", "json_schema": {"schema": value}}
    return {"type": kind} if kind == "json_object" else {"type": kind, kind: value}


def chat_call(body: ChatCompletionRequest) -> Call:
    """A chat request as a call.

    Raises:
        BadRequest: two fields contradict each other.
    """
    options = sampling_options(body)
    if body.max_completion_tokens is not None:
        options["max_new_tokens"] = body.max_completion_tokens
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise BadRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options needs stream: true.", param="stream_options")
    if body.prompt_logprobs is not None:
        if body.stream:
            raise BadRequest("prompt_logprobs needs stream: false.", param="prompt_logprobs")
        options["prompt_logprobs"] = body.prompt_logprobs
    given = {name: getattr(body, name) for name in CHAT_OPTIONS}
    options |= {name: value for name, value in given.items() if value is not None}
    check_thinking(options)
    if is_prefix(body.messages):
        options["continue_final_message"] = True
    budget = body.thinking_token_budget
    if budget is not None and options.setdefault("thinking_budget", budget) != budget:
        raise BadRequest(
            "thinking_budget and thinking_token_budget say the same: give one.",
            param="thinking_token_budget",
        )
    choice, tools = _tool_choice(body)
    return Call(
        messages=quire_messages(body.messages),
        tools=quire_tools(tools),
        options=options,
        model=body.model,
        # The tokens of a whole answer are not told apart by its parts; those of a step are.
        streamed=bool(body.stream or body.logprobs),
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )


def quire_tools(tools: Iterable[Tool] | None) -> list[dict[str, Any]] | None:
    """The tools without the hints that are for other servers; None for none."""
    return [{"type": tool["type"], "function": tool["function"]} for tool in tools or ()] or None


def check_thinking(options: Mapping[str, Any]) -> None:
    """Raise BadRequest if thinking is turned on in one way and off in another."""
    variables: Mapping[str, Any] = options.get("chat_template_kwargs") or {}
    effort = options.get("reasoning_effort")
    switches = [options.get("enable_thinking"), None if effort is None else effort != "none"]
    switches += [variables.get(name) for name in ("enable_thinking", "thinking")]
    if any(one is True for one in switches) and any(one is False for one in switches):
        raise BadRequest(
            "enable_thinking is given in two ways that contradict each other.",
            param="enable_thinking",
        )


def is_prefix(messages: list[Message]) -> bool:
    """Whether the last message says of itself that the answer continues it.

    Raises:
        BadRequest: another one says so.
    """
    found = prefixes(messages)
    for index, name in found:
        if index != len(messages) - 1:
            raise BadRequest(
                f"Only the last message can be continued, and only it may have {name}.",
                param=f"messages[{index}].{name}",
            )
    return bool(found)


def echoed(body: ChatCompletionRequest) -> str:
    """The text of a last message of the assistant's, where the request wants it repeated."""
    last = body.messages[-1]
    if not body.echo or last["role"] != "assistant":
        return ""
    content = quire_messages([last])[0].get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _tool_choice(body: ChatCompletionRequest) -> tuple[ToolChoice, list[Tool]]:
    """The choice, and the tools to offer."""
    choice, tools = body.tool_choice or "auto", body.tools or []
    if isinstance(choice, str):
        return ToolChoice(choice), tools
    if choice["type"] == "function":
        return ToolChoice("required", choice["function"]["name"]), tools
    allowed = choice["allowed_tools"]
    names = {tool["function"]["name"] for tool in allowed["tools"]}
    known = {tool["function"]["name"] for tool in tools}
    check_allowed(names, known, "tool_choice.allowed_tools.tools")
    offered = [tool for tool in tools if tool["function"]["name"] in names]
    return ToolChoice(allowed["mode"]), offered


def check_allowed(allowed: set[str], known: set[str], param: str) -> None:
    """Raise BadRequest if a tool that `allowed_tools` names is none of those of the request."""
    if unknown := allowed - known:
        raise BadRequest(
            f"tool_choice allows {min(unknown)!r}, which is none of the tools.", param=param
        )
