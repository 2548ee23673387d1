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
from quire.server.apis.openapi import documented
from quire.server.apis.option_fields import OptionFields, option_fields
from quire.server.call import caller_of
from quire.server.errors import BadRequest
from quire.server.service import service_of
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
    """What requests to embed and to score texts have in common."""

    model: str | None = None
    user: Label | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    """Tokens to which a text is cut; -1 cuts to the context. Else one that is too long is refused."""

    def text_options(self, context: int) -> dict[str, Any]:
        """The options by quire's names, for a context of so many tokens.

        Raises:
            BadRequest: the cut leaves nothing of a text.
        """
        wanted = self.truncate_prompt_tokens
        if wanted == 0:
            raise BadRequest(
                "truncate_prompt_tokens must be -1 or at least 1.", param="truncate_prompt_tokens"
            )
        cut = {} if wanted is None else {"max_length": context if wanted == -1 else wanted}
        return self.options() | cut


class EmbeddingsRequest(TextFields):
    """The body of /v1/embeddings; the last three are quire's."""

    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    """The vectors' own length is the only one that is not refused."""
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
        options = _options(body, service.engine.info.context_length)
        texts = inputs(body.input)
        async with CancelOnDisconnect(request.receive):
            found = await service.embed(texts, options, caller_of(request), model=body.model)
        _check_dimensions(body.dimensions, len(found[0].vector))
        shown = _base64 if body.encoding_format == "base64" else list
        data = [
            {"object": "embedding", "index": index, "embedding": shown(one.vector)}
            for index, one in enumerate(found)
        ]
        answer = {
            "object": "list",
            "data": data,
            "model": body.model or service.models.name,
            "usage": text_usage(sum(one.usage.prompt_tokens for one in found)),
        }
        return json_answer(answer)

    return routes


def inputs(given: str | list[str] | list[int] | list[list[int]]) -> list[Any]:
    """One entry for each text: the text, or its token ids."""
    if isinstance(given, str) or isinstance(given[0], int):
        return [given]
    return list(given)


def text_usage(tokens: int) -> dict[str, int]:
    """The usage of a request that generates nothing."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _options(body: EmbeddingsRequest, context: int) -> dict[str, Any]:
    own = {
        "pooling": body.pooling,
        "normalize": body.normalize,
        "add_special_tokens": body.add_special_tokens,
    }
    given = {name: value for name, value in own.items() if value is not None}
    return given | body.text_options(context)


def _check_dimensions(wanted: int | None, there: int) -> None:
    if wanted is not None and wanted != there:
        raise BadRequest(
            f"dimensions must be {there}, the length of this model's vectors, or left out.",
            param="dimensions",
        )


def _base64(vector: Sequence[float]) -> str:
    """Little-endian float32 numbers, as the official client reads them."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")
