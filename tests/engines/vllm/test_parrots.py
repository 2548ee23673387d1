"""What a model writes in each shape of calls, through vLLM: one engine, which has learned them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quire.chat import ChatModel
from tests.template.call_shapes import SPEAKING, ask, lesson_of, make_polyglot, wear
from tests.template.real.reading import problem


@pytest.fixture(scope="module")
def parrot(forked_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    arguments = {
        "model_name_or_path": str(make_polyglot(tmp_path_factory.mktemp("parrot"))),
        "infer_backend": "vllm",
        "infer_dtype": "float32",
        "vllm_enforce_eager": True,
        "vllm_maxlen": 8192,
    }
    with ChatModel(arguments) as model:
        yield model


@pytest.mark.vllm
@pytest.mark.parametrize("shape", SPEAKING)
def test_on_vllm(parrot: ChatModel, shape: str) -> None:
    wear(parrot, shape)
    answer, written = lesson_of(shape)
    assert not problem(answer, written, ask(parrot)), f"from {written.text!r}"
