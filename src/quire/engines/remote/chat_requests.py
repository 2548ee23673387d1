"""The chat API's requests: a conversation and its options as OpenAI and vLLM write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quire.engines.remote.fields import shared_fields, structured_outputs
from quire.errors import UnsupportedOptionError
from quire.messages import Conversation, Message, ToolCall
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from quire.tools.base import wrap

PATH = "/v1/chat/completions"

_MODEL_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_MAX_TOP_LOGPROBS = 20


def chat_body(
    conversation: Conversation,
    params: SamplingParams,
    chosen: Mapping[str, Any],
    model: str,
    *,
    template_variables: Mapping[str, Any],
) -> dict[str, Any]:
    """The request's body: every field of `params` is in it, or left to the server.

    Args:
        chosen: the sampling options that the request or the configuration sets. What the model's
            generation_config may say otherwise is not sent: that file is at the server.
        template_variables: what the model's chat template is told, such as `enable_thinking`.

    Raises:
        SamplingError: a value that vLLM does not take.
        UnsupportedOptionError: an option that the chat API has no words for.
    """
    if "max_length" in chosen and "max_new_tokens" not in chosen:
        raise UnsupportedOptionError(
            "max_length counts the prompt's tokens, which only the server knows with remote_api "
            "chat; give max_new_tokens."
        )
    body = shared_fields(params)
    for name in _MODEL_DEFAULTS:
        if name not in chosen and not (name == "temperature" and params.greedy):
            del body[name]
    body |= {"model": model, "messages": openai_messages(conversation)}
    if conversation.tools:
        body |= {"tools": [wrap(tool) for tool in conversation.tools], "tool_choice": "auto"}
    if template_variables:
        body["chat_template_kwargs"] = dict(template_variables)
    if params.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": _top_logprobs(params.logprobs)}
    if params.response_format is not None:
        body |= _constraint(params.response_format)
    return body


def _top_logprobs(count: int) -> int:
    """One more than asked for: the sampled token takes a place among them."""
    return count + 1 if 0 < count < _MAX_TOP_LOGPROBS else count


def _constraint(constraint: Constraint) -> dict[str, Any]:
    if constraint.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if constraint.kind == "json":
        schema = {"name": "answer", "schema": constraint.value}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"structured_outputs": structured_outputs(constraint)}


def openai_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The turns in OpenAI's form, the system message first; calls and results get identities."""
    system = conversation.system
    front = [] if system is None else [{"role": "system", "content": system}]
    waiting: list[str] = []
    turns: list[dict[str, Any]] = []
    for place, message in enumerate(conversation.messages):
        if message.tool_calls:
            calls = tuple(
                call if call.id else replace(call, id=f"call_{place}_{number}")
                for number, call in enumerate(message.tool_calls)
            )
            waiting = [str(call.id) for call in calls]
            message = replace(message, tool_calls=calls)
        elif message.role == "tool" and waiting:
            first = waiting.pop(0)
            message = replace(message, tool_call_id=message.tool_call_id or first)
        turns.append(_message(message))
    return front + turns


def _message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        written["tool_calls"] = [_call(call) for call in message.tool_calls]
        written["content"] = message.text or None
    if message.reasoning:
        written["reasoning_content"] = message.reasoning
    for name in ("tool_call_id", "name"):
        if (value := getattr(message, name)) is not None:
            written[name] = value
    return written


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
