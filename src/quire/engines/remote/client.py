"""HTTP to the servers: one client in one event loop, with its retries, limits and key.

No redirect is followed and no proxy of the environment is used, so the
key goes to the configured addresses alone.
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

from quire.engines.remote.faults import RETRIED_STATUSES, error_of, fault_in_event, read_fault
from quire.engines.remote.servers import Server, ServerPool
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
"""The most that a look at a server's health may take."""
SILENCE_SECONDS = 300.0
"""How long a stream may send nothing before it counts as broken."""
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""The most bytes of an answer that comes whole; a long prompt's log-probabilities are large."""
_MAX_ERROR_BYTES = 64 * 1024
_DRAIN_SECONDS = 1.0
_LARGE_BYTES = 256 * 1024  # JSON of this size is read off the event loop


def check_key(key: str | None) -> str | None:
    """Return the key, if it can be sent.

    Raises:
        ConfigError: it holds what no HTTP header may hold.
    """
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError("remote_api_key holds characters that cannot be sent in an HTTP header.")
    return key or None


def client_settings(key: str | None) -> dict[str, Any]:
    """What the clients of this process share, whether they wait or not."""
    headers = {"User-Agent": "quire", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return {"headers": headers, "follow_redirects": False, "trust_env": False}


def reason_of(error: Exception) -> str:
    """What went wrong with a connection, in a few words."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__


class _NotTaken(Exception):
    """A server did not take the request; another may."""


class Answer:
    """An answer of status 200 whose body is still to come."""

    def __init__(self, response: httpx.Response, address: str, secret: str | None) -> None:
        self._response = response
        self._address = address
        self._secret = secret

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """The stream's events, up to its `[DONE]`.

        Raises:
            GenerationError: the connection broke, fell silent, or what came is no such stream.
            RequestError: the server found the request wrong after all.
        """
        async with aclosing(self._chunks()) as chunks, aclosing(_payloads(chunks)) as payloads:
            async for payload in payloads:
                if payload == "[DONE]":
                    await _drain(chunks)
                    return
                event = self._object(payload)
                fault = fault_in_event(event, self._secret)
                if fault is not None:
                    raise error_of(fault, self._address)
                yield event

    async def whole(self) -> dict[str, Any]:
        """The body as one JSON object. Raises what `events` raises."""
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
            raise GenerationError(f"{self._address} sent what is no JSON object.")
        return content


MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The most bytes of one line, and of one event's data together."""


class EventReader:
    """Reads the data of events from a stream of bytes.

    Invariant: the payloads that `add` and `flush` return are the stream's events in order, however
    the bytes are cut. Comments and fields other than `data` are left out.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # no line ends before here: a long line is looked through once
        self._data: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> list[str]:
        """Take more bytes and return the events that are complete.

        Raises:
            GenerationError: a line or an event is too long, or no UTF-8.
        """
        self._buffer += chunk
        found: list[str] = []
        start = 0
        while (end := self._buffer.find(b"\n", max(self._searched, start))) >= 0:
            self._take(bytes(self._buffer[start:end]).removesuffix(b"\r"), found)
            start = end + 1
        del self._buffer[:start]
        self._searched = len(self._buffer)
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise GenerationError(_TOO_LONG)
        return found

    def flush(self) -> list[str]:
        """The stream has ended: return an event that only misses its blank line."""
        found: list[str] = []
        self._take(bytes(self._buffer), found)
        self._take(b"", found)
        self._buffer.clear()
        return found

    def _take(self, line: bytes, found: list[str]) -> None:
        if not line:
            if self._data:
                found.append(_text(b"\n".join(self._data)))
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
    """Read the little that follows the last event, so that the connection can be used again."""
    with suppress(GenerationError, TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in chunks:
                pass


class RemoteClient:
    """Sends requests to the pool's servers, from one event loop."""

    def __init__(self, addresses: Sequence[str], key: str | None) -> None:
        self.pool = ServerPool(addresses, self._probe)
        self._key = key
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @asynccontextmanager
    async def ask(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        request_id: str | None = None,
        adapter: str | None = None,
    ) -> AsyncGenerator[Answer]:
        """Post a request to the server whose turn it is, and to the next where it is not taken.

        A server is asked once at most, and no other is asked once an answer has begun. Leaving the
        block closes the connection where the answer is not read to its end: the server aborts it.

        Raises:
            RequestError, ModelNotFoundError: the server refuses the request.
            EngineError: no server took it, or the one that did failed.
        """
        client = self._client_here()
        request = _Post(
            path, _encode(body), _headers(request_id), bool(body.get("stream")), adapter
        )
        failures: dict[Server, str] = {}
        while (server := self.pool.take(failures)) is not None:
            try:
                try:
                    response = await self._send(client, server, request)
                except _NotTaken as failure:
                    failures[server] = str(failure)
                    continue
                try:
                    yield Answer(response, server.address, self._key)
                    return
                finally:
                    await response.aclose()
            finally:
                self.pool.release(server)
        raise EngineError(
            "No server took the request. "
            + " ".join(f"{server.address}: {reason}." for server, reason in failures.items())
        )

    async def check(self) -> None:
        """Raise EngineClosedError or EngineDeadError where nothing can be asked."""
        self._client_here()
        await self.pool.check()

    async def close(self) -> None:
        """End the probes and close all connections. May be called twice."""
        self._closed = True
        client, self._client = self._client, None
        if client is None or self._loop is not asyncio.get_running_loop():
            return  # the loop of these connections is gone, and they with it
        await self.pool.stop()
        await client.aclose()

    def _client_here(self) -> httpx.AsyncClient:
        """The client of the running loop, made when it is first needed."""
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

    async def _send(self, client: httpx.AsyncClient, server: Server, post: _Post) -> httpx.Response:
        """Send, and return the response once its status is known to be good."""
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
            raise _NotTaken(f"no connection ({reason_of(error)})") from None
        except httpx.HTTPError as error:
            # It may have begun to answer, and may have died of the request: no other is asked.
            self.pool.note(server, healthy=False)
            raise GenerationError(
                f"{server.address} took the request and gave no answer: {reason_of(error)}."
            ) from None
        if response.status_code != 200:
            await self._refuse(server, response, post.adapter)
        return response

    async def _refuse(self, server: Server, response: httpx.Response, adapter: str | None) -> None:
        """Raise what an answer of another status than 200 means."""
        status = response.status_code
        try:
            fault = read_fault(status, await _beginning(response), self._key)
        finally:
            await response.aclose()
        if status not in RETRIED_STATUSES:
            raise error_of(fault, server.address, adapter)
        if status != 429:
            self.pool.note(server, healthy=False)
        busy = "busy, " if status == 429 else ""
        raise _NotTaken(f"{busy}{status} {fault.message}".rstrip(" ."))

    async def _probe(self, address: str) -> bool:
        """Whether the server answers `GET /health`, with anything but a failure of its own."""
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
    """One request, ready to be sent to whichever server takes it."""

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
    """The first bytes of an error's body; empty where it does not come in time."""
    body = bytearray()
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(PROBE_SECONDS):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) >= _MAX_ERROR_BYTES:
                    break
    return bytes(body[:_MAX_ERROR_BYTES])


def _transport() -> httpx.AsyncHTTPTransport:
    # A whole answer may take any time, so the system is asked to notice a machine that vanished.
    # Idle connections are dropped before servers do it (uvicorn: 5 s), or a request could be lost.
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
