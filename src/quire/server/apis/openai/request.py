"""From OpenAI's names to quire's request options."""

from __future__ import annotations

from typing import Any

from quire.server.apis.openai.messages import quire_messages
from quire.server.apis.openai.schema import ChatCompletionRequest, SamplingFields
from quire.server.call import Call, ToolChoice
from quire.server.errors import BadRequest


def sampling_options(body: SamplingFields) -> dict[str, Any]:
    """The options of chat and completions alike, by quire's names.

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
        BadRequest: two of its fields contradict each other.
    """
    options = sampling_options(body)
    if body.max_completion_tokens is not None:
        options["max_new_tokens"] = body.max_completion_tokens
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise BadRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options goes with stream: true.", param="stream_options")
    if not body.model_fields_set.isdisjoint(_THINKING_FIELDS):
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


_THINKING_FIELDS = frozenset(
    {"enable_thinking", "preserve_thinking", "chat_template_kwargs", "reasoning_effort"}
)


def _thinking(body: ChatCompletionRequest) -> dict[str, bool]:
    """Whether the model thinks first: quire's own field, a template's, or OpenAI's effort."""
    template = body.chat_template_kwargs or {}
    effort = None if body.reasoning_effort is None else body.reasoning_effort != "none"
    asked = (
        body.enable_thinking,
        template.get("enable_thinking"),
        template.get("thinking"),
        effort,
    )
    kept = (body.preserve_thinking, template.get("preserve_thinking"))
    found = {
        "enable_thinking": _agreed("enable_thinking", asked),
        "preserve_thinking": _agreed("preserve_thinking", kept),
    }
    return {name: value for name, value in found.items() if value is not None}


def _agreed(name: str, values: tuple[bool | None, ...]) -> bool | None:
    given = {value for value in values if value is not None}
    if len(given) > 1:
        raise BadRequest(f"{name} is asked for in two ways that contradict each other.", param=name)
    return given.pop() if given else None


def _tool_choice(body: ChatCompletionRequest) -> tuple[ToolChoice, str | None]:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return choice or "auto", None
    return "named", choice["function"]["name"]
