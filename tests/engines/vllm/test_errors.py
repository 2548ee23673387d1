"""vLLM's exceptions as quire's: those of the installed vLLM, and those of older ones by their names."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from quire.engines.vllm.errors import as_quire_error
from quire.engines.vllm.launch import import_vllm
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
)

TOO_LONG = (
    "The decoder prompt (length 900) is longer than the maximum model length of 512. Make sure.",
    "The prompt (length 512) plus the requested tokens is longer than the maximum model length of 512.",
    "This model's maximum context length is 512 tokens. However, you requested 900 output tokens.",
)
"""How 0.20 to 0.32 say that a prompt is too long."""


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The error as it looks after it was raised from another."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def made(name: str, *ancestors: str, root: type[Exception] = Exception) -> type[Exception]:
    """A class of that name, under classes of these names: the first is the nearest."""
    kind: type[Exception] = root
    for ancestor in reversed(ancestors):
        above: Any = type(ancestor, (kind,), {})
        kind = above
    made: Any = type(name, (kind,), {})
    return made


CLIENT = ("VLLMClientError", "VLLMError")
SERVER = ("VLLMServerError", "VLLMError")
V20 = {
    "VLLMValidationError": made("VLLMValidationError", root=ValueError),
    "LoRAAdapterNotFoundError": made("LoRAAdapterNotFoundError", "VLLMNotFoundError"),
    "VLLMNotFoundError": made("VLLMNotFoundError"),
    "EngineGenerateError": made("EngineGenerateError"),
    "EngineDeadError": made("EngineDeadError"),
}
V27 = {
    "VLLMValidationError": made("VLLMValidationError", *CLIENT),
    "LoRAAdapterNotFoundError": made("LoRAAdapterNotFoundError", "VLLMNotFoundError", *CLIENT),
    "VLLMNotFoundError": made("VLLMNotFoundError", *CLIENT),
    "EngineGenerateError": made("EngineGenerateError", *SERVER),
    "EngineDeadError": made("EngineDeadError", *SERVER),
}


@pytest.fixture(params=["0.20", "0.27"])
def classes(request: pytest.FixtureRequest) -> dict[str, type[Exception]]:
    return {"0.20": V20, "0.27": V27}[request.param]


# --- the installed vLLM --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> Any:
    import_vllm()
    import vllm.exceptions

    return vllm.exceptions


def check(error: BaseException, kind: type[QuireError], text: str) -> None:
    found = as_quire_error(error)
    assert type(found) is kind
    assert text in str(found)


def test_a_wrong_request_of_the_installed_vllm(theirs: Any) -> None:
    check(theirs.VLLMValidationError("top_k is wrong"), RequestError, "top_k is wrong.")
    check(theirs.VLLMValidationError("wrong", parameter="top_k", value=-7), SamplingError, "top_k")
    check(theirs.VLLMUnprocessableEntityError("No image there"), MediaError, "No image there.")
    check(theirs.VLLMNotFoundError("nothing there"), RequestError, "nothing there.")
    check(theirs.VLLMClientError("no"), RequestError, "no.")
    check(ValueError("Bad words"), RequestError, "Bad words.")


@pytest.mark.parametrize("text", TOO_LONG)
def test_a_prompt_that_is_too_long_for_the_installed_vllm(theirs: Any, text: str) -> None:
    check(theirs.VLLMValidationError(text), PromptTooLongError, "512")
    check(theirs.VLLMValidationError(text, parameter="input_tokens"), PromptTooLongError, "512")


def test_an_adapter_that_is_not_there(theirs: Any) -> None:
    error = theirs.LoRAAdapterNotFoundError("pirate", "/adapters/pirate")
    check(error, UnknownAdapterError, "Loading lora pirate failed")


def test_a_server_that_takes_no_more(theirs: Any) -> None:
    check(theirs.QueueOverflowError(), EngineError, "no more requests now: The engine is currently")
    check(theirs.MaxQueuedTokensError(), EngineError, "prefill token backlog")
    later = theirs.GracefulHTTPError("Later", HTTPStatus.SERVICE_UNAVAILABLE)
    check(later, EngineError, "Later.")


def test_faults_of_the_installed_vllm(theirs: Any) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError as TheirDead
    from vllm.v1.engine.exceptions import EngineGenerateError

    check(TheirDead(), EngineDeadError, "has died")
    check(theirs.GenerationError(), GenerationError, "Internal server error")
    check(theirs.RetryableRequestError(), GenerationError, "please retry")
    wrapped = raised(EngineGenerateError(), ZeroDivisionError("by zero"))
    check(wrapped, GenerationError, "ZeroDivisionError: by zero.")
    check(EngineGenerateError(), GenerationError, "EngineGenerateError")
    dead = raised(EngineGenerateError(), TheirDead())
    check(dead, EngineDeadError, "has died")


# --- by name -------------------------------------------------------------------------------------


def test_a_wrong_request_of_older_ones(classes: dict[str, type[Exception]]) -> None:
    wrong = classes["VLLMValidationError"]
    check(wrong("no such thing"), RequestError, "no such thing.")
    for text in TOO_LONG:
        check(wrong(text), PromptTooLongError, "512")
    named = wrong("top_p must be in (0, 1]")
    named.parameter = "top_p"  # type: ignore[attr-defined]
    check(named, SamplingError, "top_p must be in (0, 1].")
    check(wrong("At most 1 image(s) may be provided in one prompt"), MediaError, "At most 1 image")


def test_adapters_and_deaths_of_older_ones(classes: dict[str, type[Exception]]) -> None:
    check(classes["LoRAAdapterNotFoundError"]("no pirate"), UnknownAdapterError, "no pirate.")
    check(classes["VLLMNotFoundError"]("no model"), RequestError, "no model.")
    check(classes["EngineDeadError"]("gone"), EngineDeadError, "has died")


def test_a_wrong_request_inside_a_wrapper(classes: dict[str, type[Exception]]) -> None:
    wrapper = classes["EngineGenerateError"]
    wrong = classes["VLLMValidationError"](TOO_LONG[0])
    check(raised(wrapper(), wrong), PromptTooLongError, "512")
    twice = raised(wrapper(), raised(wrapper(), ValueError("bad")))
    check(twice, RequestError, "bad.")
    check(raised(wrapper(), KeyError("x")), GenerationError, "KeyError: 'x'.")


def test_what_nobody_expected() -> None:
    check(
        RuntimeError("CUDA error: no\nmore\nlines"),
        GenerationError,
        "RuntimeError: CUDA error: no.",
    )
    check(RuntimeError(), GenerationError, "RuntimeError: RuntimeError")
    check(TypeError("unexpected argument"), RequestError, "unexpected argument.")


def test_ours_come_back_as_they_are() -> None:
    for error in (EngineDeadError("a"), SamplingError("b"), PromptTooLongError("c")):
        assert as_quire_error(error) is error
