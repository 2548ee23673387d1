"""What one request may be: ASGI middleware before any route, and checks of a call after it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.response_format import Constraint
from quire.server.arguments import ServerArguments, is_loopback
from quire.server.call import Call, completions_of
from quire.server.errors import BadRequest, Overloaded, Problem, TooLarge, problem_of
from quire.server.refusal import ErrorForm, openai_form, refuse

_MAX_HEADERS = 128
_MAX_TARGET = 8192  # bytes of path and query
_HERE = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SCANNED_HERE = 256 * 1024  # bytes of a body that are looked through within a millisecond or two


class Limits:
    """ASGI middleware: refuses what is too large, too deep, too slow, or no JSON in UTF-8.

    A body is read whole before the application sees the request. Without keys, a web page in the
    user's own browser could otherwise ask a server on the loopback: that takes a body that is
    declared as JSON, which no page may send elsewhere unasked, and a Host that means this machine.
    """

    def __init__(
        self, app: ASGIApp, arguments: ServerArguments, *, form: ErrorForm = openai_form
    ) -> None:
        self._app, self._arguments, self._form = app, arguments, form
        self._held = Held(arguments.max_held_bytes)
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
            with self._held.part() as part:
                await self._with_body(scope, receive, send, part)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send, part: Part) -> None:
        problem: Problem | None = None
        body: bytes | None = None
        try:
            async with asyncio.timeout(self._arguments.read_timeout):
                body = await received(receive, self._arguments.max_body_bytes, part)
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


class Held:
    """Bytes of the bodies of all requests that are in."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0

    @contextmanager
    def part(self) -> Generator[Part]:
        """What one request holds, until its end."""
        part = Part(self)
        try:
            yield part
        finally:
            self.size -= part.size


class Part:
    """The bytes of one request's body."""

    def __init__(self, held: Held) -> None:
        self._held, self.size = held, 0

    def add(self, size: int) -> None:
        """Hold so many more; raises Overloaded where all requests hold too many."""
        self.size += size
        self._held.size += size
        if self._held.size > self._held.limit:
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


async def received(receive: Receive, limit: int, held: Part) -> bytes | None:
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
        held.add(len(part))
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


# --- a call, read --------------------------------------------------------------------------------


def check_call(call: Call, arguments: ServerArguments) -> None:
    """Refuse a conversation that asks for too much.

    Raises:
        BadRequest: the field that does is named.
    """
    _check_count("messages", call.messages, arguments.max_messages)
    _check_count("tools", call.tools, arguments.max_tools)
    check_options(call.options, arguments)


def check_texts(texts: Sized, arguments: ServerArguments) -> None:
    """Refuse too many texts to be embedded or scored; raises BadRequest."""
    _check_count("input", texts, arguments.max_texts)


def check_options(
    options: Mapping[str, Any], arguments: ServerArguments, *, prompts: int = 1
) -> None:
    """Refuse request options that ask for too much; values of a wrong type are refused later.

    Raises:
        BadRequest: the field that does is named.
    """
    count = completions_of(options)
    if count > arguments.max_n:
        raise _too_many("n", "completions", arguments.max_n, "max_n")
    if count * prompts > arguments.max_completions:
        raise _too_many("n", "completions in all", arguments.max_completions, "max_completions")
    if not isinstance(options.get("stop"), str):
        _check_count("stop", options.get("stop"), arguments.max_stop_strings, "max_stop_strings")
    for name in ("logprobs", "prompt_logprobs"):
        wanted = options.get(name)
        if isinstance(wanted, int) and wanted > arguments.max_logprobs:
            raise _too_many(name, "alternatives a token", arguments.max_logprobs, "max_logprobs")
    for name in ("logit_bias", "bad_words", "stop_token_ids"):
        _check_count(name, options.get(name), arguments.max_bias_tokens, "max_bias_tokens")
    if is_larger(options.get("response_format"), arguments.max_schema_bytes):
        raise _too_many(
            "response_format", "characters", arguments.max_schema_bytes, "max_schema_bytes"
        )


def is_larger(value: Any, limit: int) -> bool:
    """Whether a value of JSON has more than about `limit` characters; looks at no more than that."""
    size, left = 0, [value.value if isinstance(value, Constraint) else value]
    while left and size <= limit:
        item = left.pop()
        size += len(item) + 2 if isinstance(item, str) else 2
        if isinstance(item, Mapping):
            left.extend((*item.keys(), *item.values()))
        elif isinstance(item, (list, tuple)):
            left.extend(item)
    return size > limit


def _check_count(name: str, value: Any, limit: int, setting: str | None = None) -> None:
    if isinstance(value, Sized) and len(value) > limit:
        raise _too_many(name, "entries", limit, setting or f"max_{name}")


def _too_many(name: str, of_what: str, limit: int, setting: str) -> BadRequest:
    text = f"{name}: at most {limit:,} {of_what} are allowed here ({setting})."
    return BadRequest(text, param=name, code="too_many")
