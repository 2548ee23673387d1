"""vLLM's exceptions as quire's.

An exception is recognised by the names of its class and of that class's bases, not by `isinstance`:
vLLM has moved these classes between modules, and a wrong request raised ValueError before 0.27 and
raises VLLMClientError since.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from quire.engines.vllm.log import hint
from quire.errors import (
    EngineDeadError,
    EngineError,
    GenerationError,
    MediaError,
    PromptTooLongError,
    QuireError,
    RequestError,
    SamplingError,
    UnknownAdapterError,
    sentence,
)

_DEAD = {"EngineDeadError"}
_BUSY = {"QueueOverflowError", "MaxQueuedTokensError", "GracefulHTTPError"}
_NO_ADAPTER = {"LoRAAdapterNotFoundError"}
_WRONG_REQUEST = {
    "VLLMClientError",
    "VLLMValidationError",
    "VLLMNotFoundError",
    "ValueError",
    "TypeError",
}
_TOO_LONG = ("maximum model length", "max_model_len", "longer than the maximum", "context length")
_MEDIA = ("multi-modal", "multimodal", "image", "video", "audio")


@contextmanager
def translated_errors() -> Generator[None]:
    """Convert what vLLM raises inside the block; see `as_quire_error`."""
    try:
        yield
    except QuireError:
        raise
    except Exception as error:
        raise as_quire_error(error) from error


def as_quire_error(error: BaseException) -> QuireError:
    """Return quire's error for one of vLLM's. An error of quire's own is returned unchanged."""
    if isinstance(error, QuireError):
        return error
    names = _names(error)
    if names & _DEAD:
        return EngineDeadError(f"vLLM's engine has died.{hint()}")
    if "EngineGenerateError" in names and error.__cause__ is not None:
        return _of_cause(error.__cause__)
    if names & _BUSY:
        return EngineError(f"vLLM takes no more requests now: {_text(error)}")
    if names & _NO_ADAPTER:
        return UnknownAdapterError(_text(error))
    if names & _WRONG_REQUEST:
        return _wrong_request(error)
    return GenerationError(f"vLLM failed in this request: {type(error).__name__}: {_text(error)}")


def _of_cause(cause: BaseException) -> QuireError:
    """The error for the cause of an EngineGenerateError.

    vLLM wraps every exception that it did not expect; in older versions a wrong request was one.
    """
    error = as_quire_error(cause)
    if isinstance(error, (RequestError, EngineDeadError)):
        return error
    return GenerationError(f"vLLM failed in this request: {type(cause).__name__}: {_text(cause)}")


def _wrong_request(error: BaseException) -> RequestError:
    text = _text(error)
    lower = text.lower()
    if any(words in lower for words in _TOO_LONG):
        return PromptTooLongError(text)
    if getattr(error, "parameter", None):
        return SamplingError(text)
    if any(words in lower for words in _MEDIA):
        return MediaError(text)
    return RequestError(text)


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _text(error: BaseException) -> str:
    """The first line of an error's text: vLLM appends whole tracebacks to some."""
    lines = str(error).strip().splitlines()
    return sentence(lines[0]) if lines else type(error).__name__
