"""What both remote engines share: the arguments they honour, the servers, and requests to them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from quire.arguments import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    ModelArguments,
)
from quire.engines.remote.client import RemoteClient, check_key
from quire.engines.remote.discovery import probe_servers, read_addresses
from quire.engines.remote.reading import ResponseReader
from quire.errors import ConfigError, SamplingError
from quire.model_folder import is_local
from quire.outputs import Delta
from quire.sampling import SamplingParams, vllm_fields

logger = logging.getLogger("quire")

KEY_VARIABLE = "QUIRE_REMOTE_API_KEY"

_WITHOUT_EFFECT = ("use_fast_tokenizer", "trust_remote_code", "use_kv_cache")
_WITHOUT_EFFECT_PREFIXES = ("native_", "vllm_")  # except vllm_maxlen
_SERVER_SIDE = ("rope_scaling", "quantization_bit", "infer_dtype")

_MAX_SEED = 2**63 - 1


class RemoteConnection:
    """One model on one or several servers. Each request goes to the least loaded of them.

    Raises:
        ConfigError: an address or the key cannot be used, or httpx is not installed.
        EngineStartError: no server can be reached.
        ModelNotFoundError: the servers do not serve the model.
    """

    def __init__(self, model_args: ModelArguments) -> None:
        addresses, key = read_addresses(model_args.remote_base_url), check_key(api_key(model_args))
        self.model, unreachable = probe_servers(addresses, key, model_args.remote_model)
        self.client = RemoteClient(addresses, key)
        for server in self.client.pool.servers:
            self.client.pool.note(server, healthy=server.address not in unreachable)

    async def answer(
        self, path: str, body: Mapping[str, Any], reader: ResponseReader, params: SamplingParams
    ) -> AsyncGenerator[Delta, None]:
        """Send a request, and read its answer with `reader`, streamed or whole.

        Raises:
            RequestError: the server refuses the request.
            ModelNotFoundError: the server does not serve the model.
            EngineError: no server took the request, or its answer broke off or cannot be read.
        """
        post = self.client.post(path, body, request_id=params.request_id, adapter=params.adapter)
        async with post as answer:
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
        """Raise EngineDeadError if no server is healthy, EngineClosedError after `close`."""
        await self.client.check()

    async def close(self) -> None:
        """Close all connections, which ends the requests in flight. May be called twice."""
        await self.client.close()


def shared_fields(params: SamplingParams) -> dict[str, Any]:
    """The fields that a request has on vLLM's completions API and on its chat API alike.

    Each option is sent, also where it has its default: the server may have other defaults.

    Raises:
        SamplingError: vLLM does not take a value.
    """
    fields = vllm_fields(params)
    if params.seed is not None and params.seed > _MAX_SEED:
        raise SamplingError(
            f"seed must be at most {_MAX_SEED} on the remote engine, not {params.seed}: vLLM takes "
            "signed numbers of 64 bits."
        )
    # vLLM returns the prompt's log-probabilities with whole answers only.
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
    del fields["logprobs"]  # the two APIs have different fields for it
    return {name: value for name, value in fields.items() if value is not None}


# --- arguments -----------------------------------------------------------------------------------


def sends_tokens(model_args: ModelArguments) -> bool:
    """Whether token ids are sent, not messages: as `remote_api` says, else if the model is local.

    Raises:
        ConfigError: `remote_api` is "tokens" and the model is not local.
    """
    is_here = is_local(model_args.model_name_or_path)
    if model_args.remote_api == "tokens" and not is_here:
        raise ConfigError(
            "remote_api tokens needs the model's tokenizer and template: model_name_or_path must be "
            f"its folder or its GGUF file here, and {model_args.model_name_or_path} is none. Without "
            "one, use remote_api: chat."
        )
    return is_here and model_args.remote_api != "chat"


def api_key(model_args: ModelArguments) -> str | None:
    """The API key in plain text: `remote_api_key`, else that of the environment variable."""
    if model_args.remote_api_key is not None:
        return model_args.remote_api_key.get_secret_value()
    return os.environ.get(KEY_VARIABLE)


def check_arguments(model_args: ModelArguments, finetuning_args: FinetuningArguments) -> None:
    """Refuse arguments that would change answers, and log those that have no effect here.

    Raises:
        ConfigError: the remote engine cannot honour an argument; all such arguments are named.
    """
    problems = list(_problems(model_args, finetuning_args))
    if problems:
        raise ConfigError(" ".join(problems))
    ignored = [
        name
        for name in model_args.explicit()
        if name in _WITHOUT_EFFECT
        or (name.startswith(_WITHOUT_EFFECT_PREFIXES) and name != "vllm_maxlen")
    ]
    if ignored:
        logger.info("Without effect on the remote engine: %s.", ", ".join(ignored))


def check_chat_arguments(
    model_args: ModelArguments,
    data_args: DataArguments,
    generating_args: GeneratingArguments,
    context_length: int | None,
) -> None:
    """Refuse arguments that need a local tokenizer or template.

    Raises:
        ConfigError: `remote_api: chat` cannot honour an argument; all such arguments are named.
    """
    problems = list(_chat_problems(model_args, data_args, generating_args, context_length))
    if problems:
        raise ConfigError(" ".join(problems))


def _problems(model_args: ModelArguments, finetuning_args: FinetuningArguments) -> Iterator[str]:
    if model_args.adapter_name_or_path or model_args.adapter_folder:
        yield (
            "adapter_name_or_path and adapter_folder: a remote server has its own adapters "
            "(vLLM's --lora-modules); name one as remote_model, or with a request's adapter."
        )
    given = model_args.explicit()
    for name in _SERVER_SIDE:
        if given.get(name) not in (None, "auto"):
            yield f"{name}: the server decides it; start the server with it, and leave it out here."
    if model_args.split_special_tokens:
        yield (
            "split_special_tokens: users' text never becomes control tokens here, and the "
            "template's always do; leave it out."
        )
    if finetuning_args.stage == "rm":
        yield "stage rm: the remote engine scores no texts yet."


def _chat_problems(
    model_args: ModelArguments,
    data_args: DataArguments,
    generating_args: GeneratingArguments,
    context_length: int | None,
) -> Iterator[str]:
    for group, names in (
        (data_args, ("template", "tool_format")),
        (model_args, ("add_tokens", "add_special_tokens")),
    ):
        for name in names:
            if getattr(group, name):
                yield f"{name}: with remote_api chat the server has the template and the tokenizer; leave it out."
    own = generating_args.explicit()
    if "max_length" in own and "max_new_tokens" not in own:
        yield "max_length counts the prompt's tokens, which only the server knows; give max_new_tokens."
    length = model_args.explicit().get("vllm_maxlen")
    if length is not None and (context_length is None or length < context_length):
        yield "vllm_maxlen: with remote_api chat the server's own limit holds; leave it out."
