"""The error responses of servers as quire's errors."""

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
"""With these the server did not accept the request, and another server may."""

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
    """An error as a server reports it."""

    status: int
    message: str
    param: str = ""
    """The field of the request that is wrong, if the server names one."""


def read_fault(status: int, body: bytes, secret: str | None = None) -> Fault:
    """Read an error's body in OpenAI's form, FastAPI's, or as plain text.

    `secret`, the API key, is removed from the message, in case the server repeats it.
    """
    try:
        content: Any = json.loads(body)
    except ValueError:
        content = body.decode("utf-8", "replace")
    return _fault(status, content, secret)


def fault_in_event(event: dict[str, Any], secret: str | None = None) -> Fault | None:
    """The error that an event of a stream reports; None if the event reports none."""
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


def as_quire_error(fault: Fault, address: str, adapter: str | None = None) -> QuireError:
    """The exception for a fault of the server at `address`.

    `adapter` is the LoRA adapter that the request asked for, if any.
    """
    status = fault.status
    text = sentence(f"{address} answered {status}: {fault.message or 'no reason given'}")
    if status in (401, 403):
        return EngineError(f"{text} Check remote_api_key (or QUIRE_REMOTE_API_KEY).")
    if status == 404:
        return _not_found(fault, text, adapter)
    if status == 429:
        return EngineError(f"The server is busy: {text}")
    if 300 <= status < 400:
        return EngineError(
            f"{address} answered with a redirect ({status}), which is not followed. Give the final "
            "address as remote_base_url."
        )
    if 400 <= status < 500:
        return _bad_request(fault, text)
    return GenerationError(text)


def _not_found(fault: Fault, text: str, adapter: str | None) -> QuireError:
    if fault.param != "model" and "model" not in fault.message.lower():
        return EngineError(f"{text} Is remote_base_url the address of a vLLM or quire server?")
    if adapter is not None:
        return UnknownAdapterError(f"The adapter {adapter!r} is not served: {text}")
    return ModelNotFoundError(f"{text} Give the name that the server lists as remote_model.")


def _bad_request(fault: Fault, text: str) -> RequestError:
    if _TOO_LONG.search(fault.param) or _TOO_LONG.search(fault.message):
        return PromptTooLongError(text)
    if fault.param.split(".")[0] in _SAMPLING_FIELDS:
        return SamplingError(text)
    return RequestError(text)
