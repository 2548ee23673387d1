"""Helpers to read OpenAI's inputs and write its answers: ids, calls, usage, JSON."""

from __future__ import annotations

import secrets
import time
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from quire.messages import ToolCall
from quire.outputs import Usage

__all__ = [
    "DONE", "listed_inputs", "new_id", "now", "quoted", "summed", "tool_call", "usage_fields",
]  # fmt: skip

DONE = b"data: [DONE]\n\n"


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


def now() -> int:
    return int(time.time())


def listed_inputs(given: str | list[str] | list[int] | list[list[int]]) -> list[Any]:
    """One entry for each text of a request: the text, or its token ids."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)


def tool_call(call: ToolCall) -> dict[str, Any]:
    """A call in OpenAI's form; nine letters and digits are an id that every chat template takes."""
    function = {"name": call.name, "arguments": call.arguments}
    call_id = call.id or f"c{secrets.token_hex(4)}"
    return {"id": call_id, "type": "function", "function": function}


def usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def summed(usages: list[Usage]) -> Usage:
    """The usage of several completions of one prompt, whose tokens count once."""
    if not usages:
        return Usage(0, 0)
    return Usage(
        usages[0].prompt_tokens,
        sum(usage.completion_tokens for usage in usages),
        usages[0].cached_tokens,
        sum(usage.reasoning_tokens for usage in usages),
    )
