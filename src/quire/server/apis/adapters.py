"""/v1/adapters: LoRA adapters listed, loaded and dropped at run time, with an admin's key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from quire.adapters.folder import Adapter
from quire.server.apis.body import Body, json_answer, read_body
from quire.server.apis.openapi import documented
from quire.server.call import caller_of
from quire.server.errors import Forbidden
from quire.server.service import service_of


class LoadAdapterRequest(Body):
    """The body of a POST to /v1/adapters."""

    path: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
    """A folder on the server, or the name of one in its folder of adapters."""
    name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]*$")] | None = (
        None
    )
    """The name that clients give as `model`; by default the folder's own name."""


class AdapterObject(BaseModel):
    id: str
    object: Literal["adapter"]
    path: str
    rank: int
    modules: int
    """How many modules of the model the adapter changes."""


class AdapterList(BaseModel):
    object: Literal["list"]
    data: list[AdapterObject]


class DroppedAdapter(BaseModel):
    id: str
    object: Literal["adapter"]
    deleted: Literal[True]


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["adapters"])

    @routes.get("/v1/adapters", **documented(None, AdapterList))
    async def list_adapters(request: Request) -> Response:
        """The loaded adapters."""
        _check_admin(request)
        data = [_adapter_object(adapter) for adapter in service_of(request).engine.adapters]
        return json_answer({"object": "list", "data": data})

    @routes.post("/v1/adapters", **documented(LoadAdapterRequest, AdapterObject))
    async def load_adapter(request: Request) -> Response:
        """Check an adapter, load it, and serve it."""
        _check_admin(request)
        body = await read_body(request, LoadAdapterRequest)
        return json_answer(
            _adapter_object(await service_of(request).load_adapter(body.path, body.name))
        )

    @routes.delete("/v1/adapters/{name:path}", **documented(None, DroppedAdapter))
    async def drop_adapter(request: Request, name: str) -> Response:
        """Stop serving an adapter; requests in flight still finish with it."""
        _check_admin(request)
        dropped = await service_of(request).drop_adapter(name)
        return json_answer({"id": dropped.name, "object": "adapter", "deleted": True})

    return routes


def _check_admin(request: Request) -> None:
    if not caller_of(request).admin:
        raise Forbidden("Managing adapters needs an admin's key.", code="admin_only")


def _adapter_object(adapter: Adapter) -> dict[str, Any]:
    return {
        "id": adapter.name,
        "object": "adapter",
        "path": str(adapter.path),
        "rank": adapter.rank,
        "modules": len(adapter.modules),
    }
