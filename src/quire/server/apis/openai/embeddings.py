"""/v1/embeddings."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Discriminator, Field, Tag

from quire.server.apis.body import json_answer, read_body
from quire.server.apis.openai.schema import Count, Label, TokenId
from quire.server.apis.openai.writing import listed_inputs
from quire.server.apis.openapi import documented
from quire.server.apis.option_fields import OptionFields, option_fields
from quire.server.call import Caller, caller_of
from quire.server.errors import BadRequest
from quire.server.service import Service, service_of
from quire.server.streams import CancelOnDisconnect

Ids: TypeAlias = Annotated[list[TokenId], Field(min_length=1)]


def _input_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "Text"
    if not isinstance(value, list) or not value:
        return None
    return {str: "Texts", int: "Ids", list: "ManyIds"}.get(type(value[0]))


Input: TypeAlias = Annotated[
    Annotated[str, Tag("Text")]
    | Annotated[list[str], Tag("Texts")]
    | Annotated[Ids, Tag("Ids")]
    | Annotated[list[Ids], Tag("ManyIds")],
    Discriminator(
        _input_kind, "input_type", "a text, token ids, or a list of one of these is needed"
    ),
]


if TYPE_CHECKING:
    _Options = OptionFields
else:
    _Options = option_fields("openai", only=("priority", "timeout"))


class TextFields(_Options):
    """The fields that requests to embed and to score texts share."""

    model: str | None = None
    user: Label | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    """Tokens to which texts are cut; -1 cuts to the context. Without it, longer texts are refused."""

    def text_options(self, context: int) -> dict[str, Any]:
        """The options by quire's names; `context` is the model's context length in tokens.

        Raises:
            BadRequest: `truncate_prompt_tokens` is 0.
        """
        length = self.truncate_prompt_tokens
        if length == 0:
            raise BadRequest(
                "truncate_prompt_tokens must be -1 or at least 1.", param="truncate_prompt_tokens"
            )
        limit = {} if length is None else {"max_length": context if length == -1 else length}
        return self.options() | limit


class EmbeddingsRequest(TextFields):
    """The body of /v1/embeddings; the last three fields are quire's."""

    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    """Any but the vectors' own length is refused."""
    pooling: Literal["last", "mean"] | None = None
    normalize: bool | None = None
    add_special_tokens: bool | None = None


class EmbeddingObject(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class TextUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: TextUsage


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["embeddings"])

    @routes.post("/v1/embeddings", **documented(EmbeddingsRequest, EmbeddingList))
    async def create_embeddings(request: Request) -> Response:
        """Texts, or their token ids, as vectors."""
        service = service_of(request)
        body = await read_body(request, EmbeddingsRequest)
        async with CancelOnDisconnect(request.receive):
            return json_answer(await answer_embeddings(service, body, caller_of(request)))

    return routes


async def answer_embeddings(
    service: Service, body: EmbeddingsRequest, caller: Caller
) -> dict[str, Any]:
    """The vectors; raises what `Service.embed` does."""
    options = _options(body, service.engine.info.context_length)
    results = await service.embed(listed_inputs(body.input), options, caller, model=body.model)
    _check_dimensions(body.dimensions, len(results[0].vector))
    encode = _base64 if body.encoding_format == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": encode(one.vector)}
        for index, one in enumerate(results)
    ]
    return {
        "object": "list",
        "data": data,
        "model": body.model or service.models.name,
        "usage": text_usage(sum(one.usage.prompt_tokens for one in results)),
    }


def text_usage(tokens: int) -> dict[str, int]:
    """The usage of a request that generates nothing."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _options(body: EmbeddingsRequest, context: int) -> dict[str, Any]:
    options = {
        "pooling": body.pooling,
        "normalize": body.normalize,
        "add_special_tokens": body.add_special_tokens,
    }
    options = {name: value for name, value in options.items() if value is not None}
    return options | body.text_options(context)


def _check_dimensions(requested: int | None, length: int) -> None:
    if requested is not None and requested != length:
        raise BadRequest(
            f"dimensions must be {length}, the length of this model's vectors, or left out.",
            param="dimensions",
        )


def _base64(vector: Sequence[float]) -> str:
    """Little-endian float32 numbers, as the official client reads them."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")
