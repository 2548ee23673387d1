"""quire itself: a whole ChatModel on the native engine, asked in conversations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.process import Configuration, Peer
from benchmarks.peers.worker import Prompt, Refused, Side, serve

PEER = Peer(
    name="quire",
    module="benchmarks.peers.quire",
    configurations=(
        Configuration("full precision", "full"),
        Configuration("int8", "8-bit"),
        Configuration("int4", "4-bit"),
    ),
)
FILE_TOKENS = {"": 2048, " long": 4608}
"""Tokens that a file's KV cache holds, and a sequence at most, so that memory can be compared: given more, quire
keeps old prompts in it."""
MODES: dict[str, dict[str, Any]] = {
    "full precision": {},
    "int8": {"native_quantization": "int8"},
    "int4": {"native_quantization": "int4"},
    **{
        precision + points: {"native_precision": precision, "vllm_maxlen": length}
        for precision in ("fast", "exact")
        for points, length in FILE_TOKENS.items()
    },
}
"""The arguments of each configuration; the last four are of GGUF files."""


class Quire:
    def __init__(self, model: Path, configuration: str) -> None:
        from quire import ChatModel, __version__
        from quire.errors import QuireError

        self.version = __version__
        arguments = {
            "model_name_or_path": str(model),
            "infer_backend": "native",
            "template": "empty",
            "vllm_maxlen": 4608,
            "native_kv_cache_memory": "1GiB",
            **MODES[configuration],
        }
        if model.suffix == ".gguf":
            precision, long, _ = configuration.partition(" long")
            memory = _cache_bytes(model, FILE_TOKENS[long], exact=precision == "exact")
            arguments["native_kv_cache_memory"] = memory
        try:
            self.model = ChatModel(arguments)
        except QuireError as error:
            raise Refused(str(error)) from None

    def generate(
        self, prompts: Sequence[Prompt], new_tokens: int, on_token: Callable[[], None] | None
    ) -> int:
        """See worker.Side."""
        options = {"temperature": 0.0, "max_new_tokens": new_tokens, "ignore_eos": True}
        if on_token is not None:
            return self._stream(prompts[0], options, on_token)
        return asyncio.run(self._answer_all(prompts, options))

    def _stream(self, prompt: Prompt, options: dict[str, Any], on_token: Callable[[], None]) -> int:
        count = 0
        for delta in self.model.stream(_conversation(prompt), **options):
            count += len(delta.token_ids)
            on_token()
        return count

    async def _answer_all(self, prompts: Sequence[Prompt], options: dict[str, Any]) -> int:
        answers = await asyncio.gather(
            *(self.model.achat(_conversation(prompt), **options) for prompt in prompts)
        )
        for prompt, (answer,) in zip(prompts, answers, strict=True):
            assert answer.prompt_length == len(prompt.ids), "the peers get other prompts"
        return sum(answer.response_length for (answer,) in answers)


def _cache_bytes(file: Path, tokens: int, *, exact: bool) -> int:
    """The memory of a KV cache of so many tokens, and of the states of 64 sequences and prefixes."""
    from quire.engines.native.cpu.memory.kv_cache import block_bytes
    from quire.engines.native.cpu.memory.states import slot_bytes
    from quire.engines.native.models.registry import read_spec
    from quire.gguf.folder import make_folder

    spec = read_spec(make_folder(file))
    blocks = tokens // 16 * block_bytes(spec, 16, "float32" if exact else "float16")
    return blocks + 64 * slot_bytes(spec)


def _conversation(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt.text}]


def make(model: Path, target: Path, configuration: str) -> Side:
    return Quire(model, configuration)


if __name__ == "__main__":
    serve(make)
