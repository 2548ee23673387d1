"""/tokenize, /detokenize, /tokenizer_info and /version, in vLLM's form."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from quire import __version__
from quire.server.apis.body import Body, in_thread_if_large, json_answer, read_body
from quire.server.apis.openai.messages import Message, quire_messages
from quire.server.apis.openai.request import is_prefix, quire_tools
from quire.server.apis.openai.schema import Tool
from quire.server.apis.openapi import documented
from quire.server.call import Call
from quire.server.errors import BadRequest
from quire.server.service import Service, service_of
from quire.server.streams import CancelOnDisconnect
from quire.tokenizer import Tokenizer

_CHAT_OPTIONS = ("chat_template_kwargs", "add_generation_prompt", "continue_final_message")
_SPECIAL = "The template of a chat writes the special tokens: leave this out, or give false."


class TokenizeRequest(Body):
    """The body of /tokenize: a text in `prompt`, or a conversation in `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    """True by default for a text; for a conversation only false is allowed."""
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class Tokens(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Body):
    """The body of /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, le=2**31 - 1)]]


class Detokenized(BaseModel):
    prompt: str


class TokenizerInfo(BaseModel):
    """The tokenizer as transformers' tokenizer_config.json has it; special tokens by their texts."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    model_max_length: int
    chat_template: str | None
    """The model's own, whatever template the server renders with."""


class Version(BaseModel):
    version: str


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["tokens"])

    @routes.post("/tokenize", **documented(TokenizeRequest, Tokens))
    async def tokenize(request: Request) -> Response:
        """The token ids of a text, or of a conversation's prompt."""
        service = service_of(request)
        body = await read_body(request, TokenizeRequest)
        service.models.resolve(body.model)
        tokenizer = service.tokenizer
        async with CancelOnDisconnect(request.receive):
            ids = await _ids(request, service, body)
        strings = (
            await asyncio.to_thread(_strings, tokenizer, ids) if body.return_token_strs else None
        )
        answer = {
            "count": len(ids),
            "max_model_len": service.engine.info.context_length,
            "tokens": ids,
            "token_strs": strings,
        }
        return json_answer(answer)

    @routes.post("/detokenize", **documented(DetokenizeRequest, Detokenized))
    async def detokenize(request: Request) -> Response:
        """The text of token ids, special tokens included."""
        service = service_of(request)
        body = await read_body(request, DetokenizeRequest)
        service.models.resolve(body.model)
        text = await asyncio.to_thread(_text, body.tokens, service.tokenizer)
        return json_answer({"prompt": text})

    @routes.get("/tokenizer_info", **documented(None, TokenizerInfo))
    async def tokenizer_info(request: Request) -> Response:
        """What a client needs to know of the tokenizer to render and count by itself."""
        return json_answer(_info(service_of(request)))

    @routes.get("/version", **documented(None, Version))
    async def version(request: Request) -> Response:
        """The version of quire."""
        return json_answer({"version": __version__})

    return routes


def _info(service: Service) -> dict[str, Any]:
    tokenizer = service.tokenizer
    template = tokenizer.chat_template
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: tokenizer.special_tokens.get(name) for name in names},
        "model_max_length": service.engine.info.context_length,
        "chat_template": template.get("default") if isinstance(template, Mapping) else template,
    }


async def _ids(request: Request, service: Service, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise BadRequest("Give a text in prompt, or a conversation in messages.", param="prompt")
    if body.messages is not None:
        call = await in_thread_if_large(request, partial(_call, body))
        return list((await service.prompt(call)).token_ids)
    for name in ("tools", *_CHAT_OPTIONS):
        if getattr(body, name) is not None:
            raise BadRequest(f"{name} goes with messages, not with prompt.", param=name)
    return await service.tokenize(body.prompt or "", special=body.add_special_tokens is not False)


def _call(body: TokenizeRequest) -> Call:
    if body.add_special_tokens:
        raise BadRequest(_SPECIAL, param="add_special_tokens")
    given = {name: getattr(body, name) for name in _CHAT_OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    if is_prefix(body.messages or []):
        options["continue_final_message"] = True
    return Call(
        messages=quire_messages(body.messages or []),
        tools=quire_tools(body.tools),
        options=options,
        model=body.model,
    )


def _strings(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The tokens as the vocabulary writes them."""
    return [tokenizer.id_to_token(token) or "" for token in ids]


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of token ids; raises BadRequest for one that is none of the model's."""
    for index, token in enumerate(ids):
        if tokenizer.id_to_token(token) is None:
            raise BadRequest(
                f"tokens[{index}] is {token}, which is no token of this model.",
                param=f"tokens[{index}]",
            )
    return tokenizer.decode(ids, False)
