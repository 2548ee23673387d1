"""ASGI middleware that checks headers and bodies of requests before any route sees them."""

from __future__ import annotations

import asyncio
import re
from codecs import getincrementaldecoder
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.server.arguments import ServerArguments, is_loopback
from quire.server.errors import (
    ErrorForm,
    Overloaded,
    Problem,
    TooLarge,
    openai_form,
    problem_of,
    refuse,
)

UPLOADS = "/v1/files"
"""The path whose body is a form with a file, which its route itself reads and limits."""

_MAX_HEADERS = 128
_MAX_TARGET = 8192  # bytes of path and query
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SCANNED_ON_LOOP = 256 * 1024  # bytes of a body; scanning them takes a millisecond or two


class LimitsMiddleware:
    """ASGI middleware: refuses what is too large, too deep, too slow, or no JSON in UTF-8.

    A body is read whole before the application sees the request. A server without keys is protected
    from web pages in the user's own browser: a body must be declared as JSON, which makes browsers
    send a CORS preflight, and the Host header must name this machine (DNS rebinding).
    """

    def __init__(
        self, app: ASGIApp, arguments: ServerArguments, *, form: ErrorForm = openai_form
    ) -> None:
        self._app, self._arguments, self._form = app, arguments, form
        self._budget = BodyBudget(arguments.max_held_bytes)
        any_host = arguments.has_keys or arguments.allow_no_key
        self._checks_host = not any_host and is_loopback(arguments.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with_body = has_body(scope)
        problem = self._head_problem(scope, with_body)
        if problem is not None:
            await refuse(scope, send, problem, self._form)
        elif not with_body or self._is_upload(scope):
            await self._app(scope, receive, send)
        else:
            with self._budget.share() as share:
                await self._with_body(scope, receive, send, share)

    async def _with_body(
        self, scope: Scope, receive: Receive, send: Send, share: BodyShare
    ) -> None:
        problem: Problem | None = None
        body: bytes | None = None
        try:
            async with asyncio.timeout(self._arguments.read_timeout):
                body = await received(receive, self._arguments.max_body_bytes, share)
        except TimeoutError:
            problem = Problem(408, "The body did not arrive in time.", code="body_timeout")
        except (TooLarge, Overloaded) as error:
            problem = problem_of(error)
        else:
            if body is None:
                return  # the client disconnected
            problem = await self._scan(body)
        if problem is not None:
            await refuse(scope, send, problem, self._form)
        elif body is not None:
            await self._app(scope, replayed(body, receive), send)

    def _head_problem(self, scope: Scope, with_body: bool) -> Problem | None:
        pairs: Sequence[tuple[bytes, bytes]] = scope["headers"]
        size = sum(len(name) + len(value) for name, value in pairs)
        if len(pairs) > _MAX_HEADERS or size > self._arguments.max_header_bytes:
            return Problem(431, "The headers are too large.", code="headers_too_large")
        target = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
        if target > _MAX_TARGET or "\0" in scope["path"]:
            return Problem(400, "The address is too long, or has a NUL in it.", code="bad_address")
        headers = dict(pairs)
        if sum(name == b"host" for name, _ in pairs) > 1:
            return Problem(400, "The request has several Host headers.", code="wrong_host")
        if self._checks_host and not _is_local(headers.get(b"host", b"")):
            text = (
                "Without keys this server answers to localhost alone, and the Host header differs: "
                "give it keys, or start it with allow_no_key."
            )
            return Problem(421, text, code="wrong_host")
        if self._is_upload(scope):
            return self._upload_problem(headers)
        return self._declared_problem(headers) if with_body else None

    def _is_upload(self, scope: Scope) -> bool:
        has_files = self._arguments.batches_dir is not None
        return has_files and scope["method"] == "POST" and scope["path"] == UPLOADS

    def _upload_problem(self, headers: Mapping[bytes, bytes]) -> Problem | None:
        """What is wrong with a form. Browsers send forms of any page to any address, unlike JSON."""
        origin = headers.get(b"origin")
        allowed = self._arguments.cors_origins or ()
        if origin is None or self._arguments.has_keys or "*" in allowed:
            return None
        if origin.decode("latin-1") in allowed:
            return None
        text = "Without keys this server takes files from no web page but those of cors_origins."
        return Problem(403, text, "permission_error", code="wrong_origin")

    def _declared_problem(self, headers: Mapping[bytes, bytes]) -> Problem | None:
        """What is wrong with the body according to the headers."""
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return Problem(415, "Send the body uncompressed.", code="unsupported_encoding")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json" and not kind.endswith(b"+json"):
            text = "Send the body as JSON, with the header Content-Type: application/json."
            return Problem(415, text, code="unsupported_media_type")
        length = headers.get(b"content-length", b"0").lstrip(b"0") or b"0"
        # Python refuses to read more than 4,300 digits.
        if not length.isdigit() or len(length) > 20 or int(length) > self._arguments.max_body_bytes:
            return problem_of(_too_large(self._arguments.max_body_bytes))
        return None

    async def _scan(self, body: bytes) -> Problem | None:
        limits = self._arguments.max_json_depth, self._arguments.max_json_values
        if len(body) <= _SCANNED_ON_LOOP:
            return body_problem(body, *limits)
        return await asyncio.to_thread(body_problem, body, *limits)


class BodyBudget:
    """Counts the bytes of the bodies of all requests in flight."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0

    @contextmanager
    def share(self) -> Generator[BodyShare]:
        """One request's bytes, given back at the end of the block."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            self.size -= share.size


class BodyShare:
    """The bytes of one request's body."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget, self.size = budget, 0

    def add(self, size: int) -> None:
        """Count more bytes; raises Overloaded if all requests together hold too many."""
        self.size += size
        self._budget.size += size
        if self._budget.size > self._budget.limit:
            raise Overloaded("The server holds too much already: try again later.", retry_after=5.0)


def _is_local(host: bytes) -> bool:
    name = host.decode("latin-1").lower()
    bare = name if name.endswith("]") else name.rpartition(":")[0] or name
    return bare in _LOCAL_HOSTS or is_loopback(bare)


def has_body(scope: Scope) -> bool:
    """Whether a request's headers announce a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def received(receive: Receive, limit: int, share: BodyShare) -> bytes | None:
    """The body; None if the client disconnected before its end.

    Raises:
        TooLarge: the body has more than `limit` bytes.
        Overloaded: all requests together hold too many bytes.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        share.add(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body may have at most {limit:,} bytes (max_body_bytes).")


def replayed(body: bytes, receive: Receive) -> Receive:
    """An ASGI `receive` that gives the body once, and then the client's further messages."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return first.pop() if first else await receive()

    return next_message


def body_problem(body: bytes, max_depth: int, max_values: int) -> Problem | None:
    """What is wrong with a body before parsing: not UTF-8, a NUL, too many values, too deeply nested.

    Parsing takes many times a body's memory where it is made of small values, and keeps the
    interpreter's lock to its end.
    """
    if not _is_text(body):
        return Problem(400, "The body is no text in UTF-8.", code="bad_encoding")
    if b"\0" in body:
        return Problem(400, "The body has a NUL byte in it.", code="bad_encoding")
    if _holds_more(body, b",:[{", max_values - 1) and _has_more_values(body, max_values):
        text = f"The body holds more than {max_values:,} values (max_json_values)."
        return Problem(400, text, code="too_many")
    if _holds_more(body, b"[{", max_depth) and depth_of(body) > max_depth:
        text = f"The body nests more than {max_depth} levels (max_json_depth)."
        return Problem(400, text, code="too_deep")
    return None


# A body is looked at piece by piece: one call for all of it would keep the interpreter's lock.

_PIECE = 128 * 1024  # bytes


def _is_text(body: bytes) -> bool:
    decoder = getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), _PIECE):
            decoder.decode(body[start : start + _PIECE])
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _holds_more(body: bytes, marks: bytes, most: int) -> bool:
    """Whether there are more than `most` of these characters, those in strings included."""
    count = 0
    for start in range(0, len(body), _PIECE):
        count += sum(body.count(mark, start, start + _PIECE) for mark in marks)
        if count > most:
            return True
    return False


def _has_more_values(body: bytes, most: int) -> bool:
    """Whether JSON has more values and keys: each but the first follows one of these marks.

    An object or a list that is empty counts as two.
    """
    count = 1
    for piece in _outside_strings(body):
        count += sum(map(piece.count, b",:[{"))
        if count > most:
            return True
    return False


def _outside_strings(body: bytes) -> Iterator[bytes]:
    """JSON without the content of its strings, piece by piece."""
    start = inside = 0
    while start < len(body):
        piece = body[start : start + _PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # it ends within an escape
            piece = body[start : start + _PIECE + 1]
        start += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) % 2


_BRACKETS = re.compile(rb"[\[{]++|[\]}]++")


def depth_of(body: bytes) -> int:
    """The nesting depth of objects and lists in valid JSON; brackets in strings do not count."""
    depth = deepest = 0
    for piece in _outside_strings(body):
        for match in _BRACKETS.finditer(piece):
            run = match[0]
            if run[:1] in b"[{":
                depth += len(run)
                deepest = max(deepest, depth)
            else:
                depth -= len(run)
    return deepest
