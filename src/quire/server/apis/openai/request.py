"""From OpenAI's requests to quire's call and options."""

from __future__ import annotations

from typing import Any

from quire.server.apis.openai.messages import quire_messages
from quire.server.apis.openai.schema import ChatCompletionRequest, SamplingFields
from quire.server.call import Call, ToolChoice
from quire.server.errors import BadRequest


def sampling_options(body: SamplingFields) -> dict[str, Any]:
    """The options that chat and completions share, by quire's names.

    Raises:
        BadRequest: a constraint is given in two ways.
    """
    options = body.options()
    if body.max_tokens is not None:
        options["max_new_tokens"] = body.max_tokens
    if body.response_format is not None:
        options["response_format"] = body.response_format
    if body.structured_outputs is not None:
        if body.response_format is not None:
            raise BadRequest(
                "response_format and structured_outputs say the same: give one.",
                param="structured_outputs",
            )
        options["response_format"] = _constraint(dict(body.structured_outputs))
    return options


def _constraint(form: dict[str, Any]) -> dict[str, Any]:
    """vLLM's form of a constraint as a `response_format`."""
    if len(form) != 1:
        raise BadRequest("structured_outputs takes exactly one form.", param="structured_outputs")
    ((kind, value),) = form.items()
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
    options.update(_thinking(body))
    choice, name = _tool_choice(body)
    return Call(
        messages=quire_messages(body.messages),
        tools=[dict(tool) for tool in body.tools] if body.tools else None,
        options=options,
        model=body.model,
        streamed=bool(body.stream),
        tool_choice=choice,
        tool_name=name,
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )


def _thinking(body: ChatCompletionRequest) -> dict[str, bool]:
    """Thinking options, from quire's own fields, a template's, or OpenAI's effort."""
    template = body.chat_template_kwargs or {}
    effort = None if body.reasoning_effort is None else body.reasoning_effort != "none"
    enabled = (template.get("enable_thinking"), template.get("thinking"), effort)
    preserved = (template.get("preserve_thinking"),)
    options = {
        "enable_thinking": _agreed("enable_thinking", body.enable_thinking, *enabled),
        "preserve_thinking": _agreed("preserve_thinking", body.preserve_thinking, *preserved),
    }
    return {name: value for name, value in options.items() if value is not None}


def _agreed(name: str, *values: bool | None) -> bool | None:
    given = {value for value in values if value is not None}
    if len(given) > 1:
        raise BadRequest(f"{name} is given in two ways that contradict each other.", param=name)
    return given.pop() if given else None


def _tool_choice(body: ChatCompletionRequest) -> tuple[ToolChoice, str | None]:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return choice or "auto", None
    return "named", choice["function"]["name"]
