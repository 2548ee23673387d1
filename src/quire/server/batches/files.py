"""/v1/files of OpenAI's API: uploads of batch files, and the files of their answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from quire.server.apis.body import json_answer
from quire.server.apis.openapi import documented
from quire.server.arguments import ServerArguments
from quire.server.batches.multipart import FormReader, boundary_of
from quire.server.batches.store import BatchStore, StoredFile, new_file_id, sync
from quire.server.call import Caller, caller_of
from quire.server.errors import (
    BadRequest,
    Conflict,
    NotFound,
    ServerError,
    StorageFailed,
    TooLarge,
    TooManyStored,
)
from quire.server.streams import ClientDisconnected

PURPOSES = ("batch", "batch_output")
_MAX_NAME = 255  # characters of a file's name
_MOST_LISTED = 10_000
_LIFETIMES = (3600, 30 * 24 * 3600)  # seconds, of OpenAI's `expires_after`
_WRITTEN_AT_ONCE = 1 << 20  # bytes


class FileObject(BaseModel):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]


class FileList(BaseModel):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class Files:
    """The files of all clients."""

    def __init__(self, store: BatchStore, arguments: ServerArguments) -> None:
        self.store, self._arguments = store, arguments
        # Uploads that have begun, by their owners: each counts as a whole file.
        self._coming: Counter[str] = Counter()

    # --- uploads ---------------------------------------------------------------------------------

    async def upload(self, request: Request) -> StoredFile:
        """Take a file from a form.

        Raises:
            ServerError: the form is wrong, or the file is too large, or one too many.
        """
        owner, boundary = (
            caller_of(request).owner,
            boundary_of(request.headers.get("content-type", "")),
        )
        length = request.headers.get("content-length", "")
        if (
            length.isdigit()
            and int(length[:20]) > self._arguments.max_file_bytes + _WRITTEN_AT_ONCE
        ):
            raise self._too_large()
        file_id = new_file_id()
        part = self.store.files_folder / f"{file_id}.part"
        with self._room(owner), _FileInMaking(part) as written:
            reader = FormReader(boundary, written.take)
            await reader.read(self._chunks(request))
            file = self._checked(reader, file_id, owner, await written.finish())
            await asyncio.to_thread(part.rename, self.store.content(file_id))
            await asyncio.to_thread(sync, self.store.content(file_id))
            await asyncio.to_thread(self.store.add_file, file)
        return file

    @contextmanager
    def _room(self, owner: str) -> Generator[None]:
        """Room for one more file of a client, in its number and in their size."""
        arguments, coming = self._arguments, self._coming[owner]
        count, size = self.store.usage(owner)
        if count + coming >= arguments.max_files:
            raise TooManyStored(
                f"A key may have {arguments.max_files:,} files (max_files): delete some first."
            )
        if size + (coming + 1) * arguments.max_file_bytes > arguments.max_stored_bytes and (
            coming or size >= arguments.max_stored_bytes
        ):
            raise TooManyStored(
                f"The files of a key may have {arguments.max_stored_bytes:,} bytes in all "
                "(max_stored_bytes): delete some first."
            )
        self._coming[owner] += 1
        try:
            yield
        finally:
            self._coming[owner] -= 1
            if not self._coming[owner]:
                del self._coming[owner]

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        """The body as it comes, bounded in size and in the time between two pieces."""
        limit, size = self._arguments.max_file_bytes + _WRITTEN_AT_ONCE, 0
        stream = aiter(request.stream())
        while True:
            try:
                async with asyncio.timeout(self._arguments.read_timeout):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except ClientDisconnect:
                raise ClientDisconnected from None
            except TimeoutError:
                raise BadRequest("The file did not arrive in time.", code="body_timeout") from None
            size += len(chunk)
            if size > limit:
                raise self._too_large()
            yield chunk

    def _too_large(self) -> TooLarge:
        limit = self._arguments.max_file_bytes
        return TooLarge(f"A file may have at most {limit:,} bytes (max_file_bytes).", param="file")

    def _checked(self, form: FormReader, file_id: str, owner: str, size: int) -> StoredFile:
        fields = dict(form.fields)
        if fields.pop("purpose", None) != "batch":
            raise BadRequest(
                "purpose must be 'batch': no other files are of use here.", param="purpose"
            )
        if form.file_name is None:
            raise BadRequest("file is required.", param="file", code="missing_parameter")
        if size > self._arguments.max_file_bytes:
            raise self._too_large()
        if not size:
            raise BadRequest("The file is empty.", param="file", code="empty_file")
        now = int(time.time())
        seconds = _lifetime(
            fields.pop("expires_after[anchor]", None), fields.pop("expires_after[seconds]", None)
        )
        if fields:
            name = min(fields)
            raise BadRequest(f"Unknown parameter {name!r}.", param=name, code="unknown_parameter")
        name = form.file_name.rpartition("/")[2].rpartition("\\")[2][:_MAX_NAME] or "file.jsonl"
        return StoredFile(
            file_id, owner, name, "batch", size, now, None if seconds is None else now + seconds
        )

    # --- what is there ---------------------------------------------------------------------------

    async def get(self, file_id: str, caller: Caller) -> StoredFile:
        """A caller's file.

        Raises:
            NotFound: there is none.
        """
        file = await asyncio.to_thread(self.store.file, file_id[:100], caller.owner)
        if file is None:
            raise NotFound(f"You have no file {file_id[:100]!r}.")
        return file

    async def delete(self, file_id: str, caller: Caller) -> None:
        """Delete a caller's file.

        Raises:
            NotFound: there is none.
            Conflict: a batch that has not ended reads it.
        """
        file = await self.get(file_id, caller)
        for batch in await asyncio.to_thread(self.store.open_batches):
            if batch.document["input_file_id"] == file.id:
                raise Conflict(f"The batch {batch.id} still reads this file: cancel it first.")
        await asyncio.to_thread(self.store.remove_file, file.id)


class _FileInMaking:
    """A file that is being written: removed unless it is given its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting = bytearray()
        self._size = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> _FileInMaking:
        try:
            self._file = self._path.open("xb")
        except OSError as error:
            raise _failed(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)

    async def take(self, piece: bytes) -> None:
        """Write a piece, soon."""
        self._waiting += piece
        if len(self._waiting) >= _WRITTEN_AT_ONCE:
            await self._write()

    async def finish(self) -> int:
        """Write all that is left; returns the file's bytes."""
        await self._write()
        return self._size

    async def _write(self) -> None:
        assert self._file is not None
        content, self._waiting = bytes(self._waiting), bytearray()
        self._size += len(content)
        try:
            await asyncio.to_thread(self._written, self._file, content)
        except OSError as error:
            raise _failed(error) from error

    @staticmethod
    def _written(file: BinaryIO, content: bytes) -> None:
        file.write(content)
        file.flush()


def _failed(error: OSError) -> StorageFailed:
    return StorageFailed(f"The server cannot keep the file: {error.strerror}.")


def _lifetime(anchor: str | None, seconds: str | None) -> int | None:
    """The seconds of `expires_after`."""
    if anchor is None and seconds is None:
        return None
    try:
        value: Any = json.loads(seconds or "")
    except ValueError:
        value = None
    return checked_lifetime(anchor, value, "expires_after")


def checked_lifetime(anchor: object, seconds: object, param: str) -> int:
    """The seconds of a lifetime.

    Raises:
        BadRequest: they are none that OpenAI's API knows.
    """
    least, most = _LIFETIMES
    number = seconds if isinstance(seconds, int) and not isinstance(seconds, bool) else -1
    if anchor != "created_at" or not least <= number <= most:
        raise BadRequest(
            f"{param} must have the anchor 'created_at' and from {least:,} to {most:,} seconds.",
            param=param,
        )
    return number


# --- the API ---------------------------------------------------------------------------------------


def file_object(file: StoredFile) -> dict[str, Any]:
    """A file as OpenAI's API shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def files_router(files: Files) -> APIRouter:
    """The routes of /v1/files."""
    routes = APIRouter(tags=["files"])

    @routes.post("/v1/files", **documented(None, FileObject))
    async def create_file(request: Request) -> Response:
        """Take a batch file: a form with `purpose=batch` and `file`."""
        return json_answer(file_object(await files.upload(request)))

    @routes.get("/v1/files", **documented(None, FileList))
    async def list_files(request: Request) -> Response:
        """The caller's files, the newest first: `purpose`, `order`, `limit`, `after`."""
        query = request.query_params
        purpose = query.get("purpose")
        found = await asyncio.to_thread(files.store.files, caller_of(request).owner, purpose)
        if query.get("order", "desc") not in ("asc", "desc"):
            raise BadRequest("order must be 'asc' or 'desc'.", param="order")
        if query.get("order") == "asc":
            found.reverse()
        return json_answer(page_of([file_object(one) for one in found], request, _MOST_LISTED))

    @routes.get("/v1/files/{file_id}", **documented(None, FileObject))
    async def get_file(request: Request, file_id: str) -> Response:
        """One file."""
        return json_answer(file_object(await files.get(file_id, caller_of(request))))

    @routes.get("/v1/files/{file_id}/content", response_class=FileResponse)
    async def get_content(request: Request, file_id: str) -> Response:
        """A file's content."""
        file = await files.get(file_id, caller_of(request))
        return FileResponse(
            files.store.content(file.id), media_type="application/jsonl", filename=file.name
        )

    @routes.delete("/v1/files/{file_id}", **documented(None, DeletedFile))
    async def delete_file(request: Request, file_id: str) -> Response:
        """Delete a file that no running batch reads."""
        await files.delete(file_id, caller_of(request))
        return json_answer({"id": file_id, "object": "file", "deleted": True})

    return routes


AnyObject = TypeVar("AnyObject", bound=dict[str, Any])


def page_of(found: list[AnyObject], request: Request, limit: int) -> dict[str, Any]:
    """A list as OpenAI's API gives it, from what the query names as `after`, up to its `limit`.

    Args:
        limit: how many are listed where the query says nothing.

    Raises:
        ServerError: the query is wrong.
    """
    query = request.query_params
    text = query.get("limit", str(limit))
    if not (
        text.isdecimal() and text.isascii() and len(text) < 6 and 1 <= int(text) <= _MOST_LISTED
    ):
        raise BadRequest(f"limit must be from 1 to {_MOST_LISTED:,}.", param="limit")
    after = query.get("after")
    if after is not None:
        places = [index for index, one in enumerate(found) if one["id"] == after]
        if not places:
            raise _no_such(after)
        found = found[places[0] + 1 :]
    page = found[: int(text)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(page) < len(found),
    }


def _no_such(after: str) -> ServerError:
    return BadRequest(f"after: there is no {after[:100]!r} here.", param="after")
