"""The HTTP client of the remote engine, for one event loop: retries, limits, the API key.

It follows no redirect and uses no proxy of the environment, so the key goes to the configured
addresses only.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from quire.engines.lifetime import HomeProcess
from quire.engines.remote.errors import RETRIED_STATUSES, as_quire_error, fault_in_event, read_fault
from quire.engines.remote.server_pool import RemoteServer, ServerPool
from quire.errors import (
    ConfigError,
    EngineClosedError,
    EngineError,
    GenerationError,
    RequestError,
)

try:
    import httpx
except ImportError:
    raise ConfigError(
        "infer_backend remote needs the package httpx: pip install 'quire-llm[remote]'"
    ) from None

CONNECT_SECONDS = 5.0
PROBE_SECONDS = 5.0
"""Time limit of a health probe."""
SILENCE_SECONDS = 300.0
"""How long a stream may send nothing before it counts as broken."""
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Largest whole answer. It is this large since a long prompt's log-probabilities are."""
_MAX_ERROR_BYTES = 64 * 1024
_DRAIN_SECONDS = 1.0
_LARGE_BYTES = 256 * 1024  # JSON from this size on is parsed off the event loop


def check_key(key: str | None) -> str | None:
    """Return the key, or None for an empty one.

    Raises:
        ConfigError: it holds characters that no HTTP header may hold.
    """
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError("remote_api_key holds characters that cannot be sent in an HTTP header.")
    return key or None


def client_settings(key: str | None) -> dict[str, Any]:
    """The arguments that httpx's synchronous and asynchronous clients here have in common."""
    headers = {"User-Agent": "quire", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return {"headers": headers, "follow_redirects": False, "trust_env": False}


def reason_of(error: Exception) -> str:
    """A short description of what went wrong with a connection."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__


class _NotAccepted(Exception):
    """A server did not accept the request; another one may."""


class RemoteAnswer:
    """A response with status 200 whose body has not been read."""

    def __init__(self, response: httpx.Response, address: str, secret: str | None) -> None:
        self._response = response
        self._address = address
        self._secret = secret

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the stream's events, up to its `[DONE]`.

        Raises:
            GenerationError: the connection broke or fell silent, or the body is no such stream.
            RequestError: the server reports in the stream that the request is wrong.
        """
        async with aclosing(self._chunks()) as chunks, aclosing(_payloads(chunks)) as payloads:
            async for payload in payloads:
                if payload == "[DONE]":
                    await _drain(chunks)
                    return
                event = self._object(payload)
                fault = fault_in_event(event, self._secret)
                if fault is not None:
                    raise as_quire_error(fault, self._address)
                yield event

    async def whole(self) -> dict[str, Any]:
        """Read the body as one JSON object.

        Raises:
            GenerationError: the connection broke or fell silent, or the body is too large or no
                JSON object.
        """
        body = bytearray()
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise GenerationError(f"{self._address} sent an answer too large to read.")
        if len(body) < _LARGE_BYTES:
            return self._object(body)
        return await asyncio.to_thread(self._object, body)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in self._response.aiter_bytes():
                yield chunk
        except httpx.ReadTimeout:
            raise GenerationError(
                f"{self._address} sent nothing for {SILENCE_SECONDS:g} s in the middle of an answer."
            ) from None
        except httpx.HTTPError as error:
            raise GenerationError(
                f"The connection to {self._address} broke in the middle of an answer: "
                f"{reason_of(error)}."
            ) from None

    def _object(self, text: str | bytes | bytearray) -> dict[str, Any]:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise GenerationError(f"{self._address} sent something that is no JSON object.")
        return content


MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Largest line, and largest data of one event."""


class EventReader:
    """Reads the data of server-sent events from a stream of bytes.

    Invariant: the payloads that `add` and `flush` return are the data of the stream's events in
    order, however the bytes are cut. Comments and fields other than `data` are skipped.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # offset before which no line ends, so that each byte is searched once
        self._data: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> list[str]:
        """Add bytes and return the data of the events that they complete.

        Raises:
            GenerationError: a line or an event is too long, or no UTF-8.
        """
        self._buffer += chunk
        payloads: list[str] = []
        start = 0
        while (end := self._buffer.find(b"\n", max(self._searched, start))) >= 0:
            self._add_line(bytes(self._buffer[start:end]).removesuffix(b"\r"), payloads)
            start = end + 1
        del self._buffer[:start]
        self._searched = len(self._buffer)
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise GenerationError(_TOO_LONG)
        return payloads

    def flush(self) -> list[str]:
        """End the stream: return the data of an event that only lacks its blank line."""
        payloads: list[str] = []
        self._add_line(bytes(self._buffer), payloads)
        self._add_line(b"", payloads)
        self._buffer.clear()
        return payloads

    def _add_line(self, line: bytes, payloads: list[str]) -> None:
        if not line:
            if self._data:
                payloads.append(_text(b"\n".join(self._data)))
                self._data, self._size = [], 0
        elif line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            self._size += len(data)
            if self._size > MAX_EVENT_BYTES:
                raise GenerationError(_TOO_LONG)
            self._data.append(data)


_TOO_LONG = f"The server sent an event of more than {MAX_EVENT_BYTES:,} bytes."


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise GenerationError("The server sent an event that is no UTF-8.") from None


async def _payloads(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    reader = EventReader()
    async for chunk in chunks:
        for payload in reader.add(chunk):
            yield payload
    for payload in reader.flush():
        yield payload


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows the last event: only a response read to its end frees its connection."""
    with suppress(GenerationError, TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in chunks:
                pass


class RemoteClient:
    """Sends requests to the pool's servers, from one event loop."""

    def __init__(self, addresses: Sequence[str], key: str | None) -> None:
        self._home = HomeProcess()
        self.pool = ServerPool(addresses, self._probe)
        self._key = key
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @asynccontextmanager
    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        request_id: str | None = None,
        adapter: str | None = None,
    ) -> AsyncGenerator[RemoteAnswer]:
        """Post a request to the server that the pool chooses, and to others until one accepts it.

        Each server gets the request once at most, and no other gets it once an answer has begun.
        Leaving the block before the answer's end closes the connection, and the server aborts.

        Raises:
            RequestError: the server refuses the request.
            ModelNotFoundError: the server does not serve the model.
            EngineError: no server accepted the request, or the one that did failed.
        """
        client = self._client_here()
        request = _Post(
            path, _encode(body), _headers(request_id), bool(body.get("stream")), adapter
        )
        failures: dict[RemoteServer, str] = {}
        while (server := self.pool.take(failures)) is not None:
            try:
                try:
                    response = await self._send(client, server, request)
                except _NotAccepted as failure:
                    failures[server] = str(failure)
                    continue
                try:
                    yield RemoteAnswer(response, server.address, self._key)
                    return
                finally:
                    await response.aclose()
            finally:
                self.pool.release(server)
        raise EngineError(
            "No server accepted the request. "
            + " ".join(f"{server.address}: {reason}." for server, reason in failures.items())
        )

    async def check(self) -> None:
        """Raise EngineClosedError after `close`, EngineDeadError if no server is healthy."""
        self._client_here()
        await self.pool.check()

    async def close(self) -> None:
        """Stop probing and close all connections. May be called twice."""
        if not self._home.is_here:  # the connections are the parent's
            return
        self._closed = True
        client, self._client = self._client, None
        if client is None or self._loop is not asyncio.get_running_loop():
            return  # the connections belong to a loop that has ended, and are gone with it
        await self.pool.stop()
        await client.aclose()

    def _client_here(self) -> httpx.AsyncClient:
        """The client of the running event loop, made when it is first needed."""
        self._home.check()
        if self._closed:
            raise EngineClosedError("The engine was closed.")
        loop = asyncio.get_running_loop()
        if self._client is None:
            self._loop = loop
            self._client = httpx.AsyncClient(
                transport=_transport(), timeout=CONNECT_SECONDS, **client_settings(self._key)
            )
        if self._loop is not loop:
            raise EngineError("The remote engine must always be used from one event loop.")
        self.pool.watch()
        return self._client

    async def _send(
        self, client: httpx.AsyncClient, server: RemoteServer, post: _Post
    ) -> httpx.Response:
        """Send the request, and return the response if its status is 200.

        Raises:
            _NotAccepted: another server may accept the request.
            GenerationError, RequestError, EngineError, ModelNotFoundError: see `post`.
        """
        request = client.build_request(
            "POST",
            server.address + post.path,
            content=post.content,
            headers=post.headers,
            timeout=httpx.Timeout(
                SILENCE_SECONDS if post.streamed else None, connect=CONNECT_SECONDS, pool=None
            ),
        )
        try:
            response = await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.pool.note(server, healthy=False)
            raise _NotAccepted(f"no connection ({reason_of(error)})") from None
        except httpx.HTTPError as error:
            # No other server is tried: this one may have computed an answer already, or it may have
            # died of this very request.
            self.pool.note(server, healthy=False)
            raise GenerationError(
                f"{server.address} accepted the request and gave no answer: {reason_of(error)}."
            ) from None
        if response.status_code != 200:
            await self._refuse(server, response, post.adapter)
        return response

    async def _refuse(
        self, server: RemoteServer, response: httpx.Response, adapter: str | None
    ) -> None:
        """Raise the error for a response whose status is not 200."""
        status = response.status_code
        try:
            fault = read_fault(status, await _beginning(response), self._key)
        finally:
            await response.aclose()
        if status not in RETRIED_STATUSES:
            raise as_quire_error(fault, server.address, adapter)
        if status != 429:
            self.pool.note(server, healthy=False)
        busy = "busy, " if status == 429 else ""
        raise _NotAccepted(f"{busy}{status} {fault.message}".rstrip(" ."))

    async def _probe(self, address: str) -> bool:
        """Whether the server answers `GET /health` with a status below 500."""
        if self._client is None:
            return False
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                response = await self._client.get(f"{address}/health", timeout=PROBE_SECONDS)
        except (httpx.HTTPError, TimeoutError, RuntimeError):  # RuntimeError: closed meanwhile
            return False
        return response.status_code < 500


@dataclass(frozen=True, slots=True)
class _Post:
    """One request, encoded once for all servers that it is sent to."""

    path: str
    content: bytes
    headers: dict[str, str]
    streamed: bool
    adapter: str | None


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise RequestError(f"The request cannot be written as JSON: {error}.") from None


def _headers(request_id: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if request_id is not None:
        if not (request_id.isascii() and request_id.isprintable() and 0 < len(request_id) <= 256):
            raise RequestError("request_id must be 1 to 256 printable ASCII characters.")
        headers["X-Request-Id"] = request_id
    return headers


async def _beginning(response: httpx.Response) -> bytes:
    """The first bytes of an error's body, as far as they come within the time limit."""
    body = bytearray()
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(PROBE_SECONDS):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) >= _MAX_ERROR_BYTES:
                    break
    return bytes(body[:_MAX_ERROR_BYTES])


def _transport() -> httpx.AsyncHTTPTransport:
    # A whole answer may take any time, so there is no read timeout. TCP keep-alive notices a machine
    # that vanished. Idle connections expire before the server closes them (uvicorn: 5 s): a request
    # on a connection that is just being closed would fail.
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), seconds))
    return httpx.AsyncHTTPTransport(
        verify=ssl.create_default_context(),
        trust_env=False,
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0
        ),
        socket_options=options,
    )
