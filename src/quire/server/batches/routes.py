"""/v1/batches of OpenAI's API."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from quire.batch.inputs.plain import API_URLS
from quire.server.apis.body import Body, json_answer, read_body, strict
from quire.server.apis.openapi import documented
from quire.server.batches.files import Files, checked_lifetime, files_router, page_of
from quire.server.batches.manager import BatchManager
from quire.server.batches.store import BatchStore, Document, StoredBatch, new_batch_id
from quire.server.call import ANONYMOUS, Caller, caller_of
from quire.server.errors import BadRequest, Conflict, NotFound, TooManyStored
from quire.server.middleware.keys import KeyRing
from quire.server.service import Service

_LISTED = 20
_WINDOW = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_LONGEST_WINDOW = 30 * 24 * 3600

_Key = Annotated[str, Field(max_length=64)]
_Value = Annotated[str, Field(max_length=512)]


@strict
class OutputLifetime(TypedDict):
    anchor: str
    seconds: int


class BatchRequest(Body):
    """The body of a POST to /v1/batches."""

    input_file_id: Annotated[str, Field(max_length=100)]
    endpoint: str
    completion_window: str
    """A number with `s`, `m`, `h` or `d`, such as OpenAI's `24h`; up to 30 days."""
    metadata: Annotated[dict[_Key, _Value], Field(max_length=16)] | None = None
    output_expires_after: OutputLifetime | None = None


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchFault(BaseModel):
    code: str
    line: int | None
    message: str
    param: str | None


class BatchFaults(BaseModel):
    object: Literal["list"]
    data: list[BatchFault]


class BatchObject(BaseModel):
    id: str
    object: Literal["batch"]
    endpoint: str
    input_file_id: str
    completion_window: str
    status: str
    errors: BatchFaults | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def batches_router(manager: BatchManager, files: Files) -> APIRouter:
    """The routes of /v1/batches."""
    routes = APIRouter(tags=["batches"])
    store, arguments = manager.store, manager.arguments

    async def found(request: Request, batch_id: str) -> StoredBatch:
        batch = await asyncio.to_thread(store.batch, batch_id[:100], caller_of(request).owner)
        if batch is None:
            raise NotFound(f"You have no batch {batch_id[:100]!r}.")
        return batch

    async def shown(batch: StoredBatch) -> Document:
        counts = await asyncio.to_thread(manager.counts, batch)
        return {name: batch.document.get(name) for name in BatchObject.model_fields} | {
            "request_counts": counts
        }

    @routes.post("/v1/batches", **documented(BatchRequest, BatchObject))
    async def create_batch(request: Request) -> Response:
        """Begin a batch of a file's requests."""
        body, caller = await read_body(request, BatchRequest), caller_of(request)
        batch = _new_batch(body, caller)
        file = await files.get(body.input_file_id, caller)
        if file.purpose != "batch":
            raise BadRequest(
                "input_file_id must be a file of purpose batch.", param="input_file_id"
            )
        open_ones = await asyncio.to_thread(store.open_batches)
        if sum(one.owner == caller.owner for one in open_ones) >= arguments.max_batches:
            raise TooManyStored(
                f"A key may have {arguments.max_batches:,} batches that have not ended (max_batches)."
            )
        await manager.add(batch)
        return json_answer(await shown(batch))

    @routes.get("/v1/batches", **documented(None, BatchList))
    async def list_batches(request: Request) -> Response:
        """The caller's batches, the newest first: `limit`, `after`."""
        batches = await asyncio.to_thread(store.batches, caller_of(request).owner)
        by_id = {batch.id: batch for batch in batches}
        page = page_of([{"id": name} for name in by_id], request, _LISTED)
        data = [await shown(by_id[one["id"]]) for one in page["data"]]
        return json_answer({**page, "data": data})

    @routes.get("/v1/batches/{batch_id}", **documented(None, BatchObject))
    async def get_batch(request: Request, batch_id: str) -> Response:
        """One batch."""
        return json_answer(await shown(await found(request, batch_id)))

    @routes.post("/v1/batches/{batch_id}/cancel", **documented(None, BatchObject))
    async def cancel_batch(request: Request, batch_id: str) -> Response:
        """Cancel a batch; the answers that it has are kept."""
        batch = await found(request, batch_id)
        cancelled = await manager.cancel(batch.id)
        if cancelled is None:
            batch = await found(request, batch_id)
            if batch.status not in ("cancelling", "cancelled"):
                raise Conflict(f"A batch that is {batch.status} cannot be cancelled.")
        return json_answer(await shown(cancelled or batch))

    return routes


def _new_batch(body: BatchRequest, caller: Caller) -> StoredBatch:
    """A batch that has not begun.

    Raises:
        BadRequest: a field is wrong.
    """
    if body.endpoint not in API_URLS:
        raise BadRequest(f"endpoint must be one of {', '.join(API_URLS)}.", param="endpoint")
    window = _WINDOW.fullmatch(body.completion_window)
    seconds = int(window[1]) * _SECONDS[window[2]] if window else 0
    if not 0 < seconds <= _LONGEST_WINDOW:
        raise BadRequest(
            "completion_window must be a time such as 24h, of at most 30 days.",
            param="completion_window",
        )
    lifetime = None
    if body.output_expires_after is not None:
        given = body.output_expires_after
        lifetime = checked_lifetime(given["anchor"], given["seconds"], "output_expires_after")
    now = int(time.time())
    document: dict[str, Any] = {
        "id": new_batch_id(),
        "object": "batch",
        "endpoint": body.endpoint,
        "input_file_id": body.input_file_id,
        "completion_window": body.completion_window,
        "status": "validating",
        "created_at": now,
        "expires_at": now + seconds,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": body.metadata,
    }
    return StoredBatch(document["id"], caller.owner, document, lifetime)


# --- for the server --------------------------------------------------------------------------------


def open_batches(service: Service, ring: KeyRing | None) -> BatchManager | None:
    """The batches of a server's clients; None where no folder is named for them.

    Raises:
        ConfigError: the folder cannot be used, or another server uses it.
    """
    folder = service.arguments.batches_dir
    if folder is None:
        return None
    store = BatchStore(Path(folder).expanduser())
    return BatchManager(service, store, _only_caller if ring is None else ring.owner)


def _only_caller(owner: str) -> Caller | None:
    """The caller of a server without keys."""
    return ANONYMOUS if owner == ANONYMOUS.owner else None


def batch_routers(manager: BatchManager | None) -> tuple[APIRouter, ...]:
    """The routes of files and batches, where they are served."""
    if manager is None:
        return ()
    files = Files(manager.store, manager.arguments)
    return files_router(files), batches_router(manager, files)
