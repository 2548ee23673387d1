"""What OpenAI's answers are written with: ids, token texts, events, JSON."""

from __future__ import annotations

import secrets
import time
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from quire.messages import ToolCall
from quire.outputs import Usage

__all__ = [
    "DONE", "call_id", "new_id", "now", "quoted", "summed", "tool_call", "usage_fields",
]  # fmt: skip

DONE = b"data: [DONE]\n\n"


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


def call_id() -> str:
    """Nine letters and digits: the one form that every model's template takes."""
    return "c" + secrets.token_hex(4)


def now() -> int:
    return int(time.time())


def tool_call(call: ToolCall) -> dict[str, Any]:
    """A call as OpenAI writes it."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id or call_id(), "type": "function", "function": function}


def usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def summed(usages: list[Usage]) -> Usage:
    """The usage of several completions of one prompt, which counts once."""
    if not usages:
        return Usage(0, 0)
    return Usage(
        usages[0].prompt_tokens,
        sum(usage.completion_tokens for usage in usages),
        usages[0].cached_tokens,
        sum(usage.reasoning_tokens for usage in usages),
    )
