"""vLLM for CPUs, without its prefix cache: what a cache of prefixes is measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.process import Configuration, Peer
from benchmarks.peers.worker import Prompt, Refused, Side, serve

PEER = Peer(
    name="vLLM",
    module="benchmarks.peers.vllm",
    configurations=(Configuration("f32, no prefix cache", "full"),),
    variables=(("VLLM_CPU_OMP_THREADS_BIND", "nobind"), ("VLLM_LOGGING_LEVEL", "WARNING")),
    optional=True,
)


class Vllm:
    def __init__(self, model: Path) -> None:
        import vllm

        self.version: str = vllm.__version__
        self.api: Any = vllm
        self.llm: Any = vllm.LLM(
            str(model),
            dtype="float32",
            max_model_len=4608,
            kv_cache_memory_bytes=2**30,
            enable_prefix_caching=False,
        )

    def generate(
        self, prompts: Sequence[Prompt], new_tokens: int, on_token: Callable[[], None] | None
    ) -> int:
        """See worker.Side."""
        if on_token is not None:
            raise Refused("its offline interface tells of no single tokens")
        settings = self.api.SamplingParams(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=True
        )
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt.ids} for prompt in prompts], settings, use_tqdm=False
        )
        return sum(len(output.outputs[0].token_ids) for output in outputs)


def make(model: Path, target: Path, configuration: str) -> Side:
    return Vllm(model)


if __name__ == "__main__":
    serve(make)
