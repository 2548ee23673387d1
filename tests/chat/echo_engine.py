"""A tiny deterministic engine: the answer is made from the prompt, so all above is tested fast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from quire.arguments import get_infer_args
from quire.chat.base_engine import BaseEngine
from quire.chat.preparation import ChatFormat, Preparation
from quire.chat.token_chat import TokenChat
from quire.engines.seam import ChatEngine, EngineInfo, EngineState, RequestIds, TokenEngine
from quire.errors import EngineClosedError
from quire.outputs import Delta, Usage
from quire.prompt import Prompt
from quire.request import ChatRequest
from quire.sampling import SamplingParams
from quire.template.registry import get_template
from quire.tokenizer import Tokenizer


class EchoTokens(TokenEngine):
    """Answers with `reply` if it is set, else with the prompt's own text; a token is four characters.

    `delay` is slept before each token; `fail_at` is the token at which a fault ends the request.
    `open_requests` counts requests in flight, `aborted` those whose reader went away.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        reply: str | None = None,
        delay: float = 0.0,
        fail_at: int | None = None,
        context_length: int = 4096,
    ) -> None:
        self.info = EngineInfo("EchoEngine", context_length)
        self.tokenizer = tokenizer
        self.reply, self.delay, self.fail_at = reply, delay, fail_at
        self.open_requests = 0
        self.aborted = 0
        self.closed = False
        self.last_params: SamplingParams | None = None
        self._ids = RequestIds()

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        await self.health()
        text = self.tokenizer.decode(list(prompt.token_ids)) if self.reply is None else self.reply
        words = [text[start : start + 4] for start in range(0, len(text), 4)] or [""]
        with self._ids.claim(params.request_id):
            self.open_requests += 1
            self.last_params = params  # after the count, so that a test may wait for both
            finished = False
            try:
                for step, word in enumerate(words[: params.max_tokens]):
                    await asyncio.sleep(self.delay)
                    for index in range(params.n):
                        yield self._delta(index, step, word, words, len(prompt), params)
                finished = True
            finally:
                # In this order: tests in other threads wait for the second, and then look at the first.
                self.aborted += not finished
                self.open_requests -= 1

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


class WordChat(ChatEngine):
    """Answers every conversation with one word: an engine of the upper seam, with no tokens."""

    info = EngineInfo("WordChat", 4096)

    @property
    def state(self) -> EngineState:
        return EngineState()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        yield Delta(0, "word", finish_reason="stop", usage=Usage(1, 1))

    async def health(self) -> None: ...

    async def close(self) -> None: ...


class EchoEngine(BaseEngine):
    """BaseEngine over `EchoTokens`, which is its `echo`; the options are those of that."""

    def __init__(
        self, tokenizer: Tokenizer, template: str = "qwen3_nothink", **options: object
    ) -> None:
        self.echo = self.make_tokens(tokenizer, **options)
        arguments = get_infer_args({"model_name_or_path": "echo"})
        chat_format = ChatFormat(tokenizer, get_template(template, tokenizer), {}, ())
        preparation = Preparation(chat_format, arguments, self.echo.info)
        super().__init__(arguments, TokenChat(preparation, self.echo))

    def make_tokens(self, tokenizer: Tokenizer, **options: object) -> EchoTokens:
        return EchoTokens(tokenizer, **options)  # type: ignore[arg-type]

    @property
    def open_requests(self) -> int:
        return self.echo.open_requests

    @property
    def aborted(self) -> int:
        return self.echo.aborted

    @property
    def closed(self) -> bool:
        return self.echo.closed

    @property
    def last_params(self) -> SamplingParams | None:
        return self.echo.last_params
