"""Error responses become quire's errors, with the server's message and without the API key."""

import json

import pytest

from quire import errors
from quire.engines.remote.errors import as_quire_error, fault_in_event, read_fault

LENGTH = "This model's maximum context length is 1024 tokens. However, your prompt contains 1025."


def body(message: str, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "param": param, "code": 400}}).encode()


@pytest.mark.parametrize(
    ("status", "content", "adapter", "kind"),
    [
        (400, body(LENGTH, "input_tokens"), None, errors.PromptTooLongError),
        (400, body("max_tokens=4000 cannot be greater than max_model_len=1024."), None, errors.PromptTooLongError),
        (400, body("temperature must be in [0, 2], got 3.0.", "temperature"), None, errors.SamplingError),
        (400, body("less_than_equal", "body.seed"), None, errors.SamplingError),
        (400, body("Token id 99999 is out of vocabulary"), None, errors.RequestError),
        (422, json.dumps({"detail": [{"loc": ["body"]}]}).encode(), None, errors.RequestError),
        (401, json.dumps({"error": "Unauthorized"}).encode(), None, errors.EngineError),
        (403, b"forbidden", None, errors.EngineError),
        (404, body("The model `x` does not exist.", "model"), "x", errors.UnknownAdapterError),
        (404, body("The model `x` does not exist.", "model"), None, errors.ModelNotFoundError),
        (404, json.dumps({"detail": "Not Found"}).encode(), None, errors.EngineError),
        (429, b"slow down", None, errors.EngineError),
        (500, body("EngineCore died"), None, errors.GenerationError),
        (302, b"", None, errors.EngineError),
    ],
)  # fmt: skip
def test_each_status_maps_to_an_error(
    status: int, content: bytes, adapter: str | None, kind: type[Exception]
) -> None:
    error = as_quire_error(read_fault(status, content), "http://h:1", adapter)
    assert type(error) is kind
    assert "http://h:1" in str(error)


def test_server_message_is_quoted_and_cut() -> None:
    text = str(as_quire_error(read_fault(500, body("boom\n" + "x" * 5000)), "http://h"))
    assert "boom" in text
    assert "\n" not in text
    assert len(text) < 1200


def test_refused_key_names_the_argument_but_not_the_key() -> None:
    fault = read_fault(401, b"Bearer s3cret is wrong", "s3cret")
    assert "remote_api_key" in str(as_quire_error(fault, "http://h"))
    assert "s3cret" not in fault.message


def test_fault_in_event() -> None:
    assert fault_in_event({"choices": []}) is None
    fault = fault_in_event({"error": {"message": "no", "code": 400, "param": "stop"}})
    assert fault is not None
    assert type(as_quire_error(fault, "http://h")) is errors.SamplingError
    old = fault_in_event({"object": "error", "message": "no", "code": 500})
    assert old is not None
    assert type(as_quire_error(old, "http://h")) is errors.GenerationError
