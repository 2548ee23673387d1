"""/v1/models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from quire.server.apis.body import json_answer
from quire.server.apis.openai.schema import ModelCard, ModelList
from quire.server.apis.openapi import documented
from quire.server.served_models import ServedName
from quire.server.service import Service, service_of


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["models"])

    @routes.get("/v1/models", **documented(None, ModelList))
    async def list_models(request: Request) -> Response:
        """The model, and its adapters."""
        service = service_of(request)
        cards = [_card(model, service) for model in service.models.served()]
        return json_answer({"object": "list", "data": cards})

    @routes.get("/v1/models/{name:path}", **documented(None, ModelCard))
    async def get_model(request: Request, name: str) -> Response:
        """One of them."""
        service = service_of(request)
        for model in service.models.served():
            if model.name == name:
                return json_answer(_card(model, service))
        raise service.models.refusal(name)

    return routes


def _card(model: ServedName, service: Service) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "quire",
        "root": service.models.name,
        "parent": model.parent,
        "max_model_len": service.engine.info.context_length,
    }
