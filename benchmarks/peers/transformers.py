"""transformers: `generate` on one static batch, float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.process import Configuration, Peer
from benchmarks.peers.worker import Prompt, Side, cores, serve

PEER = Peer(
    name="transformers",
    module="benchmarks.peers.transformers",
    configurations=(Configuration("f32", "full"),),
)


class Transformers:
    def __init__(self, model: Path) -> None:
        import torch
        import transformers

        torch.set_num_threads(cores())
        self.version: str = transformers.__version__
        self.torch: Any = torch
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32
        ).eval()

    def generate(
        self, prompts: Sequence[Prompt], new_tokens: int, on_token: Callable[[], None] | None
    ) -> int:
        """See worker.Side. The prompts are of one length."""
        ids = self.torch.tensor([prompt.ids for prompt in prompts])
        with self.torch.inference_mode():
            found = self.model.generate(
                input_ids=ids,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=0,
                streamer=None if on_token is None else _Streamer(on_token),
            )
        return int(found[:, ids.shape[1] :].numel())


class _Streamer:
    """Tells of each token; the first call gives the prompt."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self.on_token, self.has_prompt = on_token, False

    def put(self, value: object) -> None:
        if self.has_prompt:
            self.on_token()
        self.has_prompt = True

    def end(self) -> None: ...


def make(model: Path, target: Path, configuration: str) -> Side:
    return Transformers(model)


if __name__ == "__main__":
    serve(make)
