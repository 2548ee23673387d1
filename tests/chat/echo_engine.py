"""A tiny deterministic engine: the answer is made from the prompt, so all above is tested fast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from quire.arguments import get_infer_args
from quire.chat.base_engine import BaseEngine
from quire.errors import EngineClosedError
from quire.outputs import Delta, Usage
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.template.registry import get_template
from quire.tokenizer import Tokenizer


class EchoEngine(BaseEngine):
    """Answers with `reply` if it is set, else with the prompt's own text; a token a word.

    `delay` is slept before each token; `fail_at` is the token at which a fault ends the request.
    `open_requests` counts requests under way, `aborted` those whose reader went away.
    """

    name = "EchoEngine"

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str = "qwen3_nothink",
        *,
        reply: str | None = None,
        delay: float = 0.0,
        fail_at: int | None = None,
        context_length: int = 4096,
    ) -> None:
        super().__init__(*get_infer_args({"model_name_or_path": "echo"}))
        self.tokenizer = tokenizer
        self.template = get_template(template, tokenizer)
        self.generation_config: dict[str, object] = {}
        self.context_length = context_length
        self.eos_token_ids = ()
        self.reply, self.delay, self.fail_at = reply, delay, fail_at
        self.open_requests = 0
        self.aborted = 0
        self.closed = False
        self.last_params: SamplingParams | None = None

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        adapter: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        await self.health()
        self.last_params = params
        text = self.tokenizer.decode(list(prompt.token_ids)) if self.reply is None else self.reply
        words = [text[start : start + 4] for start in range(0, len(text), 4)] or [""]
        self.open_requests += 1
        finished = False
        try:
            for step, word in enumerate(words[: params.max_tokens]):
                await asyncio.sleep(self.delay)
                for index in range(params.n):
                    yield self._delta(index, step, word, words, len(prompt), params)
            finished = True
        finally:
            self.open_requests -= 1
            self.aborted += not finished

    def _delta(
        self,
        index: int,
        step: int,
        word: str,
        words: list[str],
        length: int,
        params: SamplingParams,
    ) -> Delta:
        if step == self.fail_at:
            return Delta(index, "", finish_reason="error", error="a made-up fault")
        last = step + 1 == min(len(words), params.max_tokens)
        reason = ("stop" if step + 1 == len(words) else "length") if last else None
        usage = Usage(length, step + 1) if last else None
        return Delta(index, word, (step,), finish_reason=reason, usage=usage)

    async def health(self) -> None:
        if self.closed:
            raise EngineClosedError("The engine was closed.")

    async def close(self) -> None:
        self.closed = True
