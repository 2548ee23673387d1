"""A server's error answers as quire's own errors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from quire.errors import (
    EngineError,
    GenerationError,
    ModelNotFoundError,
    PromptTooLongError,
    QuireError,
    RequestError,
    SamplingError,
    UnknownAdapterError,
    sentence,
)
from quire.options import SAMPLING_OPTIONS

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""The server did not take the request; another may."""

_MAX_MESSAGE = 1000
_TOO_LONG = re.compile(
    r"context length|max_model_len|input_tokens|prompt is too long", re.IGNORECASE
)
_SAMPLING_FIELDS = SAMPLING_OPTIONS | {
    "max_tokens",
    "max_completion_tokens",
    "top_logprobs",
    "stop_token_ids",
    "structured_outputs",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as a server tells it; `param` names the field at fault, where it says so."""

    status: int
    message: str
    param: str = ""


def read_fault(status: int, body: bytes, secret: str | None = None) -> Fault:
    """Read an error answer in OpenAI's form, FastAPI's, or as plain text.

    `secret` never stays in the message, whatever the server repeats.
    """
    try:
        content: Any = json.loads(body)
    except ValueError:
        content = body.decode("utf-8", "replace")
    return _fault(status, content, secret)


def fault_in_event(event: dict[str, Any], secret: str | None = None) -> Fault | None:
    """The error that a stream's event tells, if it tells one."""
    if event.get("error") is None and event.get("object") != "error":
        return None
    error = event.get("error", event)
    code = error.get("code") if isinstance(error, dict) else None
    return _fault(code if isinstance(code, int) else 500, event, secret)


def _fault(status: int, content: Any, secret: str | None) -> Fault:
    param = ""
    if isinstance(content, dict):
        error = content.get("error") or content
        if isinstance(error, dict):
            param = str(error.get("param") or "").removeprefix("body.")
            content = error.get("message") or error.get("detail") or error
        else:
            content = error
    message = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    if secret:
        message = message.replace(secret, "***")
    return Fault(status, " ".join(message.split())[:_MAX_MESSAGE], param)


def error_of(fault: Fault, address: str, adapter: str | None = None) -> QuireError:
    """The exception for a fault of the server at `address`.

    `adapter` is the one that the request asked for, if any.
    """
    status = fault.status
    told = sentence(f"{address} answered {status}: {fault.message or 'no reason given'}")
    if status in (401, 403):
        return EngineError(f"{told} Check remote_api_key (or QUIRE_REMOTE_API_KEY).")
    if status == 404:
        return _not_found(fault, told, adapter)
    if status == 429:
        return EngineError(f"The server is busy: {told}")
    if 300 <= status < 400:
        return EngineError(
            f"{address} answered with a redirect ({status}), which is not followed. Give the final "
            "address as remote_base_url."
        )
    if 400 <= status < 500:
        return _bad_request(fault, told)
    return GenerationError(told)


def _not_found(fault: Fault, told: str, adapter: str | None) -> QuireError:
    if fault.param != "model" and "model" not in fault.message.lower():
        return EngineError(f"{told} Is remote_base_url the address of a vLLM or quire server?")
    if adapter is not None:
        return UnknownAdapterError(f"The adapter {adapter!r} is not served: {told}")
    return ModelNotFoundError(f"{told} Give the name that the server lists as remote_model.")


def _bad_request(fault: Fault, told: str) -> RequestError:
    if _TOO_LONG.search(fault.param) or _TOO_LONG.search(fault.message):
        return PromptTooLongError(told)
    if fault.param.split(".")[0] in _SAMPLING_FIELDS:
        return SamplingError(told)
    return RequestError(told)
