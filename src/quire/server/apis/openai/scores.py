"""/v1/score, in vLLM's form, and LLaMA-Factory's /v1/score/evaluation: a reward model's scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, Tag

from quire.server.apis.body import Body, by_type, json_answer, read_body
from quire.server.apis.ids import NEW_IDS
from quire.server.apis.openai.embeddings import TextFields, TextUsage, text_usage
from quire.server.apis.openai.schema import Count
from quire.server.apis.openapi import documented
from quire.server.call import caller_of
from quire.server.errors import BadRequest
from quire.server.service import service_of
from quire.server.streams import CancelOnDisconnect

Texts: TypeAlias = Annotated[
    Annotated[str, Tag("Text")] | Annotated[list[str], Field(min_length=1), Tag("Texts")],
    by_type({str: "Text", list: "Texts"}, "input_type", "a text or a list of texts is needed"),
]


class ScoreRequest(TextFields):
    """The body of /v1/score: texts in `input`, or pairs of `text_1` and `text_2`.

    A pair, such as a prompt and an answer, is concatenated and scored as one text. A single text_1
    is paired with each text_2.
    """

    input: Texts | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None


class ScoreObject(BaseModel):
    index: int
    object: Literal["score"]
    score: float


class ScoreList(BaseModel):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreObject]
    usage: TextUsage


class ScoreEvaluationRequest(Body):
    """The body of /v1/score/evaluation: texts, as LLaMA-Factory's clients send them."""

    model: str | None = None
    messages: Annotated[list[str], Field(min_length=1)]
    max_length: Count | None = None
    """Tokens to which texts are cut."""


class ScoreEvaluation(BaseModel):
    id: str
    object: Literal["score.evaluation"]
    model: str
    scores: list[float]


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["scores"])

    @routes.post("/v1/score", **documented(ScoreRequest, ScoreList))
    async def create_scores(request: Request) -> Response:
        """The scores of a reward model, in vLLM's form: the raw outputs of its head."""
        service = service_of(request)
        body = await read_body(request, ScoreRequest)
        texts, options = _texts(body), body.text_options(service.engine.info.context_length)
        async with CancelOnDisconnect(request.receive):
            scored = await service.score(texts, options, caller_of(request), model=body.model)
        data = [
            {"index": index, "object": "score", "score": one.vector[0]}
            for index, one in enumerate(scored)
        ]
        answer = {
            "id": NEW_IDS.new("score-"),
            "object": "list",
            "created": NEW_IDS.now(),
            "model": body.model or service.models.name,
            "data": data,
            "usage": text_usage(sum(one.usage.prompt_tokens for one in scored)),
        }
        return json_answer(answer)

    @routes.post("/v1/score/evaluation", **documented(ScoreEvaluationRequest, ScoreEvaluation))
    async def evaluate_scores(request: Request) -> Response:
        """The scores of a reward model, in LLaMA-Factory's form."""
        service = service_of(request)
        body = await read_body(request, ScoreEvaluationRequest)
        options = {} if body.max_length is None else {"max_length": body.max_length}
        # `model` is not resolved: LLaMA-Factory's own client, PPO training, sends a made-up name.
        async with CancelOnDisconnect(request.receive):
            scored = await service.score(body.messages, options, caller_of(request))
        answer = {
            "id": NEW_IDS.new("scoreval-"),
            "object": "score.evaluation",
            "model": body.model or service.models.name,
            "scores": [one.vector[0] for one in scored],
        }
        return json_answer(answer)

    return routes


def _texts(body: ScoreRequest) -> list[str]:
    """The texts to score."""
    if body.input is not None:
        if body.text_1 is not None or body.text_2 is not None:
            raise BadRequest("Give input, or text_1 and text_2, not both.", param="input")
        return _listed(body.input)
    if body.text_1 is None or body.text_2 is None:
        raise BadRequest("Give texts in input, or pairs in text_1 and text_2.", param="input")
    return [first + second for first, second in _pairs(body.text_1, body.text_2)]


def _pairs(first: str | list[str], second: str | list[str]) -> Sequence[tuple[str, str]]:
    left, right = _listed(first), _listed(second)
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise BadRequest(
            f"text_1 has {len(left)} texts and text_2 has {len(right)}: give one text_1, or as "
            "many as there are of text_2.",
            param="text_1",
        )
    return list(zip(left, right, strict=True))


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts
