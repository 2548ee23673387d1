"""Users' code on quire's `llamafactory`, unchanged, on the native engine and the demo model."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable

import pytest

from quire.demo import demo_model_path
from tests.compat.usage_example import example_args, run_usage_example

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

ARGS = example_args(str(demo_model_path()), "native")
FLUENT = {**ARGS, "template": "qwen3"}


_EXAMPLE = """
from llamafactory.chat import ChatModel
from tests.compat.usage_example import run_usage_example

responses, text = run_usage_example(ChatModel, ARGS)
print(len(responses))
"""


def test_usage_example_as_a_program(run_python: RunPython) -> None:
    result = run_python("-c", _EXAMPLE.replace("ARGS", repr(ARGS)))
    assert (result.returncode, result.stdout) == (0, "3\n"), result.stderr


@pytest.mark.usefixtures("compat")
@pytest.mark.parametrize("module", ["llamafactory.chat.chat_model", "quire.chat", "quire"])
def test_usage_example(module: str) -> None:
    responses, _ = run_usage_example(importlib.import_module(module).ChatModel, ARGS)
    assert len(responses) == 3


_HAIKU = """
from llamafactory.chat import ChatModel
from tests.compat.usage_example import run_usage_example

responses, text = run_usage_example(ChatModel, ARGS)
for answer in [*(response.response_text for response in responses), text]:
    print(len(answer.split()) > 3)
"""


def test_usage_example_in_a_format_that_the_model_knows(run_python: RunPython) -> None:
    result = run_python("-c", _HAIKU.replace("ARGS", repr(FLUENT)))
    assert (result.returncode, result.stdout) == (0, "True\n" * 4), result.stderr


def test_the_example_fails_where_one_answer_is_missing() -> None:
    class TwoAnswers:
        def __init__(self, args: object) -> None: ...

        def chat(self, messages: object, num_return_sequences: int) -> list[object]:
            return [object()] * (num_return_sequences - 1)

        def stream_chat(self, messages: object) -> list[str]:
            return ["a", "b"]

        def close(self) -> None: ...

    with pytest.raises(AssertionError):
        run_usage_example(TwoAnswers, ARGS)


_ONE_TOKEN = """
from llamafactory.chat import ChatModel

chat_model = ChatModel(ARGS)  # never closed, as such code does: the process must end all the same
messages = [{"role": "user", "content": "Hi"}]
whole = chat_model.chat(messages)[0]
print(whole.response_length, "".join(chat_model.stream_chat(messages)) == whole.response_text)
"""


def test_settings_of_a_finetuned_model(run_python: RunPython) -> None:
    args = {
        "model_name_or_path": str(demo_model_path()),
        "finetuning_type": "lora",
        "template": "llama3",
        "infer_dtype": "float16",
        "do_sample": False,
        "max_new_tokens": 1,
    }
    result = run_python("-c", _ONE_TOKEN.replace("ARGS", repr(args)))
    assert (result.returncode, result.stdout) == (0, "1 True\n"), result.stderr


_ASYNC = """
import asyncio
from llamafactory.chat import ChatModel

async def main():
    async with ChatModel(ARGS) as chat_model:
        messages = [{"role": "user", "content": "Hello! Who are you?"}]
        whole, streamed = await asyncio.gather(
            chat_model.achat(messages, do_sample=False, max_new_tokens=24), stream(chat_model, messages)
        )
        assert streamed == whole[0].response_text != ""
        try:
            await chat_model.aget_scores(["a text"])
        except NotImplementedError as error:
            print("refused:", error)

async def stream(chat_model, messages):
    pieces = []
    async for token in chat_model.astream_chat(messages, do_sample=False, max_new_tokens=24):
        pieces.append(token)
    return "".join(pieces)

asyncio.run(main())
"""


def test_asyncio_and_scores_of_a_model_that_generates(run_python: RunPython) -> None:
    result = run_python("-c", _ASYNC.replace("ARGS", repr(FLUENT)))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("refused: ")


_ENGINE = """
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.hparams import get_infer_args
import asyncio

engine = HuggingfaceEngine(*get_infer_args(ARGS))
messages = [{"role": "user", "content": "Hello!"}]

async def main():
    pieces = [piece async for piece in engine.stream_chat(messages, do_sample=False, max_new_tokens=8)]
    responses = await engine.chat(messages, do_sample=False, max_new_tokens=8)
    assert "".join(pieces) == responses[0].response_text != ""
    await engine.close()

asyncio.run(main())
print(engine.can_generate)
"""


def test_an_engine_by_itself(run_python: RunPython) -> None:
    args = {**FLUENT, "infer_backend": "huggingface"}
    result = run_python("-c", _ENGINE.replace("ARGS", repr(args)))
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


def test_get_scores_of_a_model_that_generates(run_python: RunPython) -> None:
    result = run_python(
        "-c",
        "from llamafactory.chat import ChatModel\n"
        f"with ChatModel({ARGS!r}) as chat_model:\n"
        "    chat_model.get_scores(['a text'])\n",
    )
    assert result.returncode == 1
    assert result.stderr.rstrip().splitlines()[-1].startswith("NotImplementedError: ")
