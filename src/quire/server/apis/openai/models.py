"""/v1/models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from quire.options import on_wire
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
        """The served model and its adapters."""
        service = service_of(request)
        cards = [_card(model, service) for model in service.models.served()]
        limit = service.arguments.max_body_bytes
        return json_answer({"object": "list", "data": cards, "max_body_bytes": limit})

    @routes.get("/v1/models/{name:path}", **documented(None, ModelCard))
    async def get_model(request: Request, name: str) -> Response:
        """One model or adapter."""
        service = service_of(request)
        for model in service.models.served():
            if model.name == name:
                return json_answer(_card(model, service))
        raise service.models.refusal(name)

    return routes


def _card(model: ServedName, service: Service) -> dict[str, Any]:
    engine = service.engine
    preparation = engine.tokens.preparation if engine.has_tokens else None
    choices = engine.thinking_choices
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "quire",
        "root": service.models.name,
        "parent": model.parent,
        "max_model_len": engine.info.context_length,
        "max_media": preparation.media.limits if preparation else {},
        "defaults": _defaults(preparation.defaults) if preparation else {},
        "thinking": asdict(choices) if choices else None,
    }


def _defaults(values: Mapping[str, Any]) -> dict[str, float | bool | str]:
    named = {wire: values[option.name] for wire, option in on_wire("openai").items()}
    return {name: value for name, value in named.items() if isinstance(value, (int, float, str))}
