"""What one request may be: ASGI middleware before any route."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Mapping, Sequence
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

_MAX_HEADERS = 128
_MAX_TARGET = 8192  # bytes of path and query
_HERE = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SCANNED_HERE = 256 * 1024  # bytes of a body that are looked through within a millisecond or two


class LimitsMiddleware:
    """ASGI middleware: refuses what is too large, too deep, too slow, or no JSON in UTF-8.

    A body is read whole before the application sees the request. Without keys, a web page in the
    user's own browser could otherwise ask a server on the loopback: that takes a body that is
    declared as JSON, which no page may send elsewhere unasked, and a Host that means this machine.
    """

    def __init__(
        self, app: ASGIApp, arguments: ServerArguments, *, form: ErrorForm = openai_form
    ) -> None:
        self._app, self._arguments, self._form = app, arguments, form
        self._budget = BodyBudget(arguments.max_held_bytes)
        lets_all_in = arguments.has_keys or arguments.allow_no_key
        self._checks_host = not lets_all_in and is_loopback(arguments.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with_body = has_body(scope)
        problem = self._of_head(scope, with_body)
        if problem is not None:
            await refuse(scope, send, problem, self._form)
        elif not with_body:
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
            problem = Problem(408, "The body did not come in time.", code="body_timeout")
        except (TooLarge, Overloaded) as error:
            problem = problem_of(error)
        else:
            if body is None:
                return  # the client went away
            problem = await self._of_body(body)
        if problem is not None:
            await refuse(scope, send, problem, self._form)
        elif body is not None:
            await self._app(scope, replayed(body, receive), send)

    def _of_head(self, scope: Scope, with_body: bool) -> Problem | None:
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > _MAX_HEADERS or size > self._arguments.max_header_bytes:
            return Problem(431, "The headers are too large.", code="headers_too_large")
        target = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
        if target > _MAX_TARGET or "\0" in scope["path"]:
            return Problem(400, "The address is too long, or has a NUL in it.", code="bad_address")
        found = dict(headers)
        if self._checks_host and not _is_here(found.get(b"host", b"")):
            text = (
                "Without keys this server answers to localhost alone, and the Host header differs: "
                "give it keys, or start it with allow_no_key."
            )
            return Problem(421, text, code="wrong_host")
        return self._of_declared(found) if with_body else None

    def _of_declared(self, headers: Mapping[bytes, bytes]) -> Problem | None:
        """What the headers say of the body."""
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return Problem(415, "Send the body uncompressed.", code="unsupported_encoding")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json" and not kind.endswith(b"+json"):
            text = "Send the body as JSON, with the header Content-Type: application/json."
            return Problem(415, text, code="unsupported_media_type")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._arguments.max_body_bytes:
            return problem_of(_too_large(self._arguments.max_body_bytes))
        return None

    async def _of_body(self, body: bytes) -> Problem | None:
        if len(body) <= _SCANNED_HERE:
            return body_problem(body, self._arguments.max_json_depth)
        return await asyncio.to_thread(body_problem, body, self._arguments.max_json_depth)


class BodyBudget:
    """Bytes of the bodies of all requests that are in."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0

    @contextmanager
    def share(self) -> Generator[BodyShare]:
        """What one request holds, until its end."""
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
        """Hold so many more; raises Overloaded where all requests hold too many."""
        self.size += size
        self._budget.size += size
        if self._budget.size > self._budget.limit:
            raise Overloaded("The server holds too much already: try again later.", retry_after=5.0)


def _is_here(host: bytes) -> bool:
    name = host.decode("latin-1").lower()
    bare = name if name.endswith("]") else name.rpartition(":")[0] or name
    return bare in _HERE or is_loopback(bare)


def has_body(scope: Scope) -> bool:
    """Whether a request's headers announce a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def received(receive: Receive, limit: int, share: BodyShare) -> bytes | None:
    """The body; None where the client went away before its end.

    Raises:
        TooLarge: it has more than `limit` bytes.
        Overloaded: with it all requests would hold too many.
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
    return TooLarge(f"The body may have {limit:,} bytes (max_body_bytes).")


def replayed(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read, and from then on what comes from the client."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


def body_problem(body: bytes, max_depth: int) -> Problem | None:
    """What is wrong with a body before it is parsed: no UTF-8, a NUL, or nested too deeply."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return Problem(400, "The body is no text in UTF-8.", code="bad_encoding")
    if b"\0" in body:
        return Problem(400, "The body has a NUL byte in it.", code="bad_encoding")
    if body.count(b"[") + body.count(b"{") > max_depth and depth_of(body) > max_depth:
        text = f"The body nests more than {max_depth} levels (max_json_depth)."
        return Problem(400, text, code="too_deep")
    return None


_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)|[\[{]++|[\]}]++', re.DOTALL)


def depth_of(body: bytes) -> int:
    """How deeply objects and lists nest, strings left out; right for valid JSON."""
    depth = deepest = 0
    for match in _TOKEN.finditer(body):
        first = body[match.start()]
        if first in b"[{":
            depth += match.end() - match.start()
            deepest = max(deepest, depth)
        elif first != 0x22:
            depth -= match.end() - match.start()
    return deepest
