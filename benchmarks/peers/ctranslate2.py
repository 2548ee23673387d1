"""CTranslate2: one static batch, all of whose prompts begin and end together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environment import Environment
from benchmarks.peers.process import Configuration, Peer
from benchmarks.peers.worker import Prompt, Side, cores, serve

PEER = Peer(
    name="CTranslate2",
    module="benchmarks.peers.ctranslate2",
    configurations=(Configuration("f32", "full"), Configuration("int8", "8-bit")),
    environment=Environment(
        name="ctranslate2",
        requirements=("ctranslate2", "torch==2.13.0", "transformers<5.20"),
    ),
)


def convert(model: Path, target: Path, configuration: str) -> None:
    """Convert it with CTranslate2's own converter."""
    from ctranslate2.converters import TransformersConverter

    quantization = {"f32": None, "int8": "int8_float32"}[configuration]
    TransformersConverter(str(model)).convert(str(target), quantization=quantization, force=True)


class CTranslate2:
    def __init__(self, model: Path, target: Path, configuration: str) -> None:
        import ctranslate2

        self.version: str = ctranslate2.__version__
        kind = {"f32": "float32", "int8": "int8_float32"}[configuration]
        self.generator: Any = ctranslate2.Generator(
            str(target), device="cpu", compute_type=kind, intra_threads=cores()
        )
        content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
        self.words = {number: word for word, number in content["model"]["vocab"].items()}

    def generate(
        self, prompts: Sequence[Prompt], new_tokens: int, on_token: Callable[[], None] | None
    ) -> int:
        """See worker.Side."""

        def tell(_: object) -> bool:
            assert on_token is not None
            on_token()
            return False

        results = self.generator.generate_batch(
            [[self.words[number] for number in prompt.ids] for prompt in prompts],
            max_length=new_tokens,
            min_length=new_tokens,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=None if on_token is None else tell,
        )
        return sum(len(result.sequences_ids[0]) for result in results)


def make(model: Path, target: Path, configuration: str) -> Side:
    return CTranslate2(model, target, configuration)


if __name__ == "__main__":
    serve(make, convert)
