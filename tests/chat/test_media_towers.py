"""Pictures and clips in a call, from pixels to tokens, on models whose media stand in several runs or see
each other: the tokens of transformers, for the prompt that quire writes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer

from quire import ChatModel
from quire.request import ChatRequest, MediaLists
from tests.chat.model_folders import add_tokenizer
from tests.engines.native.media.oracle_inputs import oracle_inputs
from tests.engines.native.media.random_media_models import IMAGE, VIDEO, make_media_model

OPTIONS: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "ignore_eos": True}
PIXELS = np.random.default_rng(3).integers(0, 256, (48, 40, 3), np.uint8)
PICTURES = [PIXELS, np.roll(PIXELS, 9, axis=0)]
CLIP = [np.roll(PIXELS[:40, :32], 7 * number, axis=1) for number in range(5)]
TOKENS: dict[str, dict[int, str]] = {
    "gemma3": {
        286: "<start_of_turn>", 287: "<end_of_turn>", 288: "<start_of_image>",
        289: "<end_of_image>", IMAGE: "<image_soft_token>",
    },
    "internvl": {288: "<img>", 289: "</img>", IMAGE: "<IMG_CONTEXT>"},
    "qwen3_vl": {
        288: "<|vision_start|>", 289: "<|vision_end|>", IMAGE: "<|image_pad|>",
        VIDEO: "<|video_pad|>",
    },
}  # fmt: skip
TOKENS["qwen3_5"] = TOKENS["qwen3_vl"]
TEMPLATES = {
    "gemma3": "gemma3",
    "internvl": "intern_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_5": "qwen3_5",
}


class Seeing:
    """A model of quire and the same one of transformers."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.oracle: Any = make_media_model(folder, kind)
        if not kind.startswith("qwen3"):
            (folder / "processor_config.json").write_text('{"image_seq_length": 16}')
        self._add_tokens()
        self.model = ChatModel(
            {
                "model_name_or_path": str(folder),
                "template": TEMPLATES[kind],
                "vllm_maxlen": 512,
                "native_num_threads": 1,
                "native_max_batch_tokens": 24,
                "native_max_sequences": 8,
            }
        )

    def _add_tokens(self) -> None:
        add_tokenizer(self.folder)
        path = self.folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        first, names = tokenizer.get_vocab_size(), TOKENS[self.kind]
        tokens = [
            names.get(number, f"<|unused {number}|>") for number in range(first, max(names) + 1)
        ]
        tokenizer.add_special_tokens([AddedToken(text, special=True) for text in tokens])
        tokenizer.save(str(path))
        assert json.loads(path.read_text())["added_tokens"][-1]["id"] == max(names)

    def wanted(self, messages: list[dict[str, str]], media: dict[str, Any]) -> list[int]:
        """What transformers writes after the same prompt."""
        asked = ChatRequest(messages, media=MediaLists(**media), options=OPTIONS)
        prompt = asyncio.run(self.model.engine.tokens.preparation.prepare(asked)).prompt
        inputs = oracle_inputs(
            self.folder, self.kind, prompt.token_ids, [item.data for item in prompt.media]
        )
        with torch.inference_mode():
            found = self.oracle.generate(
                **inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False, eos_token_id=None,
                pad_token_id=0,
            )  # fmt: skip
        return found[0, len(prompt) :].tolist()

    async def answer(self, messages: list[dict[str, str]], media: dict[str, Any]) -> list[int]:
        return [
            token
            async for delta in self.model.astream(messages, **media, **OPTIONS)
            for token in delta.token_ids
        ]


@pytest.fixture(scope="module", params=TEMPLATES)
def seeing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seeing]:
    made = Seeing(tmp_path_factory.mktemp(request.param), request.param)
    yield made
    made.model.close()


def asked(text: str, *before: str) -> list[dict[str, str]]:
    """A conversation that ends with this text of the user."""
    roles = ("user", "assistant") * len(before)
    turns = [{"role": role, "content": one} for role, one in zip(roles, before, strict=False)]
    return [*turns, {"role": "user", "content": text}]


def test_the_tokens_of_transformers(seeing: Seeing) -> None:
    """One picture, several, turns, and clips, all at once and in chunks of 24 tokens."""
    calls: list[tuple[list[dict[str, str]], dict[str, Any]]] = [
        (asked("Hello!"), {}),
        (asked("<image>What is this?"), {"images": PICTURES[:1]}),
        (asked("<image>One, <image>two."), {"images": PICTURES}),
        (asked("And now <image>?", "See: <image>", "Yes."), {"images": PICTURES}),
    ]
    if seeing.kind != "gemma3":
        calls += [
            (asked("<video>What moves?"), {"videos": [CLIP]}),
            (asked("<image> beside <video>."), {"images": PICTURES[1:], "videos": [CLIP]}),
        ]

    async def together() -> list[list[int]]:
        return await asyncio.gather(*[seeing.answer(*call) for call in calls * 2])

    found = asyncio.run(together())
    wanted = [seeing.wanted(*call) for call in calls]
    assert found == wanted * 2
    assert len({tuple(one) for one in wanted}) > 2
