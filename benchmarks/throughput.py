"""Tokens a second at 1, 8, 32 and 64 streams: a whole ChatModel beside transformers' `generate`.

Float32, greedy, 128 new tokens for each prompt. quire does all of its work (templates, scheduler,
sampling, detokenising, one task a stream); transformers gets one padded batch of the same ids.
Each has a process of its own, so that neither's threads and memory are in the other's way.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.measure import in_turns, report, table
from benchmarks.models import qwen2_26m

STREAMS = (1, 8, 32, 64)
NEW_TOKENS = 128
REPEATS = 5
WORDS = (
    *("a", "paged", "cache", "holds", "the", "keys", "and", "values"),
    *("of", "many", "voices", "at", "once", "in", "small", "blocks"),
)


def conversations(count: int) -> list[list[dict[str, str]]]:
    """Conversations of different words and lengths."""
    return [
        [{"role": "user", "content": " ".join(WORDS[(i * 7 + j) % 16] for j in range(24 + i % 16))}]
        for i in range(count)
    ]


class Quire:
    def __init__(self) -> None:
        from quire import ChatModel

        self.model = ChatModel({"model_name_or_path": str(qwen2_26m()), "template": "qwen"})

    def rate(self, streams: int) -> float:
        """Tokens a second."""

        async def answer_all() -> int:
            options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS}
            answers = await asyncio.gather(
                *(
                    self.model.achat(conversation, ignore_eos=True, **options)
                    for conversation in conversations(streams)
                )
            )
            return sum(answer[0].response_length for answer in answers)

        began = time.perf_counter()
        tokens = asyncio.run(answer_all())
        took = time.perf_counter() - began
        assert tokens == streams * NEW_TOKENS
        return tokens / took

    def prompts(self, count: int) -> list[list[int]]:
        from quire.request import ChatRequest

        engine = self.model.engine
        return [
            list(engine.tokens.preparation.prepare_text(ChatRequest(conversation)).prompt.token_ids)
            for conversation in conversations(count)
        ]


def generate_padded(model: Any, prompts: list[list[int]], *, least: int, most: int) -> Any:
    """What transformers writes after prompts in one batch, padded on the left: (prompts, tokens)."""
    import torch

    longest = max(map(len, prompts))
    with torch.inference_mode():
        found = model.generate(
            input_ids=torch.tensor([[0] * (longest - len(p)) + p for p in prompts]),
            attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
            do_sample=False,
            min_new_tokens=least,
            max_new_tokens=most,
            pad_token_id=0,
        )
    return found[:, longest:]


class Transformers:
    def __init__(self, prompts: list[list[int]]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.prompts = prompts
        self.model = AutoModelForCausalLM.from_pretrained(qwen2_26m(), dtype=torch.float32).eval()

    def rate(self, streams: int) -> float:
        """Tokens a second."""
        prompts = self.prompts[:streams]
        began = time.perf_counter()
        found = generate_padded(self.model, prompts, least=NEW_TOKENS, most=NEW_TOKENS)
        took = time.perf_counter() - began
        assert found.shape[1] == NEW_TOKENS
        return streams * NEW_TOKENS / took


side: Quire | Transformers
"""The one that this process measures."""


def start(peer: type[Quire] | type[Transformers], *args: Any) -> None:
    global side
    side = peer(*args)


def rate(streams: int) -> float:
    return side.rate(streams)


def prompts(count: int) -> list[list[int]]:
    assert isinstance(side, Quire)
    return side.prompts(count)


def process(peer: type[Quire] | type[Transformers], *args: Any) -> ProcessPoolExecutor:
    """A process that measures one side."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=start, initargs=(peer, *args))


def main() -> None:
    rows: list[list[object]] = []
    figures: dict[str, Any] = {}
    with process(Quire) as quire:
        ids = quire.submit(prompts, max(STREAMS)).result()
        with process(Transformers, ids) as peer:
            for streams in STREAMS:
                found = in_turns(
                    {
                        "quire": lambda streams=streams: quire.submit(rate, streams).result(),
                        "transformers": lambda streams=streams: peer.submit(rate, streams).result(),
                    },
                    REPEATS,
                    warm_up=1,
                )
                ratio = found["quire"] / found["transformers"]
                values = (found["quire"], found["transformers"])
                rows.append([streams, *(f"{value:.0f}" for value in values), f"{ratio:.2f}"])
                figures[str(streams)] = {**found, "ratio": ratio}
    text = table(["streams", "quire, tokens/s", "transformers generate, tokens/s", "ratio"], rows)
    report("throughput", "Tokens a second, float32, Qwen2 of 26 M parameters", text, figures)


if __name__ == "__main__":
    main()
