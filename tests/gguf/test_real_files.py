"""Trained models from files that nobody here made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from quire import ChatModel
from quire.errors import ConfigError
from quire.gguf.folder import make_folder
from tests.gguf.block_models import Oracle
from tests.gguf.real_files import gemma3, smollm2

NEW_TOKENS = 64
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
THINGS = (
    "the sea",
    "a spider",
    "water",
    "Paris",
    "a clock",
    "bread",
    "the moon",
    "a song",
    "salt",
    "rain",
)
ASKED = (
    "What is {}?",
    "Write one sentence about {}.",
    "Why do people like {}?",
    "Describe {}.",
    "Name two things that go with {}.",
)
QUESTIONS = [text.format(thing) for thing in THINGS for text in ASKED]


class Real:
    """A file's model, and transformers' of its dequantised weights."""

    def __init__(self, path: Path, **arguments: Any) -> None:
        self.oracle = Oracle(make_folder(path))
        given = {"model_name_or_path": str(path), "native_kv_cache_memory": "512MiB"}
        self.model = ChatModel({**given, "vllm_maxlen": 512, **arguments})
        self.tokenizer = self.model.engine.tokenizer

    async def ids(self, question: str) -> list[int]:
        found: list[int] = []
        async for delta in self.model.astream([{"role": "user", "content": question}], **GREEDY):
            found += delta.token_ids
        return found

    def together(self, questions: list[str]) -> list[list[int]]:
        async def all_of_them() -> list[list[int]]:
            return await asyncio.gather(*map(self.ids, questions))

        return asyncio.run(all_of_them())

    def is_greedy(self, prompt: list[int], ids: list[int]) -> bool:
        """Whether each token is the reference's, until two are closer than what float32 tells apart."""
        logits = self.oracle.logits([*prompt, *ids])
        for count, token in enumerate(ids):
            row = logits[len(prompt) + count - 1]
            if int(row.argmax()) != token:
                first, second = torch.topk(row, 2).values.tolist()
                return first - second < 1e-3 and float(row[token]) > first - 1e-3
        return True


@pytest.fixture(scope="module")
def smol() -> Iterator[Real]:
    real = Real(smollm2())
    yield real
    real.model.close()


def chat_prompt(real: Real, question: str) -> list[int]:
    text = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        f"<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    return real.tokenizer.encode(text)


def test_fifty_answers_are_those_of_the_dequantised_weights(smol: Real) -> None:
    """50 prompts of 64 tokens, 50 at once, and some of them alone: the same tokens."""
    answers = smol.together(QUESTIONS)
    for question, ids in zip(QUESTIONS, answers, strict=True):
        assert len(ids) == NEW_TOKENS
        assert smol.is_greedy(chat_prompt(smol, question), ids), question
    for index in range(0, len(QUESTIONS), 10):
        assert asyncio.run(smol.ids(QUESTIONS[index])) == answers[index]


def test_what_it_knows(smol: Real) -> None:
    """With activations of 8 bits, the first answer is another, here as in llama.cpp."""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    options = {"temperature": 0.0, "max_new_tokens": 20}
    answer = smol.model.chat(question, **options)[0]
    assert answer.response_text == "The capital of France is Paris."
    assert answer.finish_reason == "stop"


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    real = Real(gemma3(tmp_path_factory.mktemp("gemma")), template="empty")
    yield real
    real.model.close()


def test_a_base_model_completes(gemma: Real) -> None:
    """Windows, two rotary bases, norms of heads, five types of blocks, a tied head.

    The template `empty` puts no BOS before a text.
    """
    texts = ["The capital of France is", "Once upon a time", "def add(a, b):", "1, 2, 3, 4,"]
    for text, ids in zip(texts, gemma.together(texts), strict=True):
        assert gemma.is_greedy(gemma.tokenizer.encode(text), ids), text


def test_a_file_without_a_template_is_not_chatted_with(tmp_path: Path) -> None:
    arguments = {"model_name_or_path": str(gemma3(tmp_path)), "native_kv_cache_memory": "64MiB"}
    with pytest.raises(ConfigError, match=r"no chat template of its own.*template: empty"):
        ChatModel(arguments)
