"""What both kinds of remote engine share: the servers, the model that is asked, and requests to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from quire.arguments import ModelArguments
from quire.engines.remote.arguments import api_key
from quire.engines.remote.client import RemoteClient, check_key
from quire.engines.remote.discovery import greet, read_addresses
from quire.engines.remote.reading import AnswerReader
from quire.errors import SamplingError
from quire.outputs import Delta
from quire.sampling import SamplingParams, vllm_fields

_MAX_SEED = 2**63 - 1


class RemoteConnection:
    """One model on one or several servers, the least loaded of which gets the next request.

    Raises, when made:
        ConfigError: an address or the key cannot be used, or httpx is not installed.
        EngineStartError: no server can be reached.
        ModelNotFoundError: the servers do not serve the model.
    """

    def __init__(self, model_args: ModelArguments) -> None:
        addresses, key = read_addresses(model_args.remote_base_url), check_key(api_key(model_args))
        self.model, lost = greet(addresses, key, model_args.remote_model)
        self.client = RemoteClient(addresses, key)
        for server in self.client.pool.servers:
            self.client.pool.note(server, healthy=server.address not in lost)

    async def answer(
        self, path: str, body: Mapping[str, Any], reader: AnswerReader, params: SamplingParams
    ) -> AsyncGenerator[Delta, None]:
        """Ask the servers, and read the answer with `reader`, streamed or whole."""
        asked = self.client.ask(path, body, request_id=params.request_id, adapter=params.adapter)
        async with asked as answer:
            if body["stream"]:
                async with aclosing(answer.events()) as events:
                    async for event in events:
                        for delta in reader.add(event):
                            yield delta
            else:
                whole = await answer.whole()
                for delta in await asyncio.to_thread(reader.add, whole):
                    yield delta
        for delta in reader.flush():
            yield delta

    async def health(self) -> None:
        """Raise EngineDeadError where no server is healthy, EngineClosedError after `close`."""
        await self.client.check()

    async def close(self) -> None:
        """Close all connections, which ends the requests in flight. May be called twice."""
        await self.client.close()


def shared_fields(params: SamplingParams) -> dict[str, Any]:
    """The fields of a request that the completions API and the chat API of vLLM have in common.

    All that the server's own defaults could fill in is given.

    Raises:
        SamplingError: a value that vLLM does not take.
    """
    fields = vllm_fields(params)
    if params.seed is not None and params.seed > _MAX_SEED:
        raise SamplingError(
            f"seed must be at most {_MAX_SEED} on the remote engine, not {params.seed}: vLLM takes "
            "signed numbers of 64 bits."
        )
    # The prompt's log-probabilities come with whole answers only.
    streamed = params.streamed and params.prompt_logprobs is None
    fields |= {
        "logit_bias": {str(token): bias for token, bias in params.logit_bias.items()} or None,
        "bad_words": list(params.bad_words) or None,
        "priority": params.priority or None,
        "cache_salt": params.cache_salt,
        "stream": streamed,
        "stream_options": {"include_usage": True} if streamed else None,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    del fields["logprobs"]  # each API has a form of its own
    return {name: value for name, value in fields.items() if value is not None}
