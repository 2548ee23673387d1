"""multipart/form-data, read piece by piece: short fields, and one file that goes to the disk."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import Message
from email.parser import HeaderParser
from typing import TypeAlias

from quire.server.errors import BadRequest

_MAX_HEAD = 8 * 1024  # bytes of one part's headers
_MAX_FIELD = 8 * 1024  # bytes of one field that is no file
_MAX_PARTS = 32
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")

TakeFile: TypeAlias = Callable[[bytes], Awaitable[None]]


def boundary_of(content_type: str) -> bytes:
    """The boundary that a header names.

    Raises:
        BadRequest: it names none, or the body is no form.
    """
    message = Message()
    message["content-type"] = content_type
    boundary = str(message.get_param("boundary", "")).encode("utf-8")
    if message.get_content_type() != "multipart/form-data" or not _BOUNDARY.fullmatch(boundary):
        raise BadRequest("Send the file as multipart/form-data, with a boundary.", code="form")
    return boundary


class FormReader:
    """Reads one form. Fields are in `fields`; what the part `file` holds is passed on as it comes."""

    def __init__(self, boundary: bytes, take_file: TakeFile) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        """What the client calls its file; None where it has sent none."""
        self._mark = b"\r\n--" + boundary
        self._take_file = take_file
        # The first boundary stands at the beginning of a line, too.
        self._buffer = bytearray(b"\r\n")
        self._field: tuple[str, bytearray] | None = None
        self._parts = 0

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Read the form to its end.

        Raises:
            BadRequest: it is no form, or has parts that are too large.
        """
        rest = aiter(chunks)
        await self._until_mark(rest, self._drop)
        while not await self._is_last(rest):
            self._parts += 1
            if self._parts > _MAX_PARTS:
                raise BadRequest(f"A form may have at most {_MAX_PARTS} parts.", code="too_many")
            await self._part(rest)
        async for _ in rest:  # what follows the last boundary says nothing
            pass

    async def _part(self, rest: AsyncIterator[bytes]) -> None:
        name, file_name = await self._head(rest)
        if name == "file" and file_name is not None:
            if self.file_name is not None:
                raise BadRequest("One file, please.", param="file")
            self.file_name = file_name
            await self._until_mark(rest, self._take_file)
            return
        self._field = (name, bytearray())
        await self._until_mark(rest, self._add)
        try:
            self.fields[name] = self._field[1].decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest(f"{name}: this is no text in UTF-8.", param=name) from None

    async def _drop(self, piece: bytes) -> None:
        """What stands before the first boundary says nothing."""

    async def _add(self, piece: bytes) -> None:
        assert self._field is not None
        name, content = self._field
        content += piece
        if len(content) > _MAX_FIELD:
            raise BadRequest(f"{name}: this field is too long.", param=name, code="too_many")

    async def _until_mark(self, rest: AsyncIterator[bytes], take: TakeFile) -> None:
        """Pass on all that comes before the next boundary, and drop the boundary."""
        while (at := self._buffer.find(self._mark)) < 0:
            surely = len(self._buffer) - len(self._mark) + 1  # the boundary may begin after it
            if surely > 0:
                await take(bytes(self._buffer[:surely]))
                del self._buffer[:surely]
            await self._more(rest)
        if at:
            await take(bytes(self._buffer[:at]))
        del self._buffer[: at + len(self._mark)]

    async def _is_last(self, rest: AsyncIterator[bytes]) -> bool:
        """Whether the boundary that was read is the last one; the rest of its line is dropped."""
        while len(self._buffer) < 2:
            await self._more(rest)
        if self._buffer.startswith(b"--"):
            return True
        line = await self._upto(rest, b"\r\n")
        if line.strip(b" \t"):
            raise BadRequest("The form is malformed after a boundary.", code="form")
        return False

    async def _head(self, rest: AsyncIterator[bytes]) -> tuple[str, str | None]:
        """A part's name, and its file's name."""
        if (await self._peek(rest, 2)) == b"\r\n":
            raise BadRequest("A part of the form has no name.", code="form")
        text = await self._upto(rest, b"\r\n\r\n")
        headers = HeaderParser().parsestr(text.decode("utf-8", "replace"))
        disposition = headers.get("content-disposition", "")
        if not disposition.lower().startswith("form-data"):
            raise BadRequest("A part of the form has no name.", code="form")
        name = headers.get_param("name", None, "content-disposition")
        if not isinstance(name, str):
            raise BadRequest("A part of the form has no name.", code="form")
        return name, headers.get_filename()

    async def _peek(self, rest: AsyncIterator[bytes], count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more(rest)
        return bytes(self._buffer[:count])

    async def _upto(self, rest: AsyncIterator[bytes], end: bytes) -> bytes:
        """What comes before `end`, which is dropped."""
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise BadRequest("The headers of a part are too long.", code="form")
            await self._more(rest)
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return found

    async def _more(self, rest: AsyncIterator[bytes]) -> None:
        try:
            self._buffer += await anext(rest)
        except StopAsyncIteration:
            raise BadRequest("The form ends before its last boundary.", code="form") from None
