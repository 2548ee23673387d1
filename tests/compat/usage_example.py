"""The usage example of the contract, as it stands, for any ChatModel class and any engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quire.chat import Response


def example_args(
    model: str, infer_backend: str = "vllm", template: str = "llama2"
) -> dict[str, Any]:
    """The example's arguments, for the model in this folder.

    quire's demo model never learnt the format llama2 and ends its answers at once; to read
    sentences give it `template="qwen3"`.
    """
    return {
        "model_name_or_path": model,
        "template": template,
        "infer_backend": infer_backend,
        "vllm_maxlen": 4096,
        "vllm_gpu_util": 0.9,
    }


def run_usage_example(
    chat_model_class: Callable[..., Any], args: Mapping[str, Any]
) -> tuple[list[Response], str]:
    """Run the example; closes the model.

    Args:
        chat_model_class: `ChatModel`, by whatever path it was imported.
        args: of `example_args`, perhaps with what an engine needs on a small machine.

    Returns:
        The responses of `chat`, exactly three, and the text of `stream_chat`; both are checked.
    """
    messages = [{"role": "user", "content": "Write a haiku about coding."}]
    printed: list[str] = []

    def print(text: str, end: str, flush: bool) -> None:  # the example's own, kept for the test
        assert (end, flush) == ("", True)
        printed.append(text)

    chat_model = chat_model_class(args=args)
    try:
        responses = chat_model.chat(
            [{"role": "user", "content": "Write a haiku about coding."}], num_return_sequences=3
        )  # exactly three
        for token in chat_model.stream_chat(messages):
            print(token, end="", flush=True)
    finally:
        chat_model.close()

    assert len(responses) == 3
    assert messages == [{"role": "user", "content": "Write a haiku about coding."}]
    for response in responses:
        assert isinstance(response, Response)
        assert 0 < response.response_length <= 4096
        assert response.prompt_length == responses[0].prompt_length > 0
        assert response.finish_reason in ("stop", "length")
        assert bool(response.response_text) or response.response_length == 1  # the end alone
    return responses, "".join(printed)
