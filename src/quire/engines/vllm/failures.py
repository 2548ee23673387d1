"""vLLM's exceptions as ours.

They are told apart by the names of their classes and of their ancestors': the modules that define
them have moved, and a wrong request was a ValueError before vLLM 0.27 and is a VLLMClientError since.
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
_WRONG = {"VLLMClientError", "VLLMValidationError", "VLLMNotFoundError", "ValueError", "TypeError"}
_TOO_LONG = ("maximum model length", "max_model_len", "longer than the maximum", "context length")
_MEDIA = ("multi-modal", "multimodal", "image", "video", "audio")


@contextmanager
def our_errors() -> Generator[None]:
    """What vLLM raises in here comes out as ours."""
    try:
        yield
    except QuireError:
        raise
    except Exception as error:
        raise translate(error) from error


def translate(error: BaseException) -> QuireError:
    """The error of ours that says what this one of vLLM's says. Ours come back as they are."""
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
    if names & _WRONG:
        return _wrong_request(error)
    return GenerationError(f"vLLM failed in this request: {type(error).__name__}: {_text(error)}")


def _of_cause(cause: BaseException) -> QuireError:
    """vLLM wraps what it did not expect; a wrong request may be in there, in older versions."""
    found = translate(cause)
    if isinstance(found, (RequestError, EngineDeadError)):
        return found
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
    lines = str(error).strip().splitlines()
    return sentence(lines[0]) if lines else type(error).__name__
