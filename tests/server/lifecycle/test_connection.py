"""What a connection bears from its client, over a real socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI, Request

from quire.chat import ChatModel
from quire.chat.loop_thread import LoopThread
from quire.server.arguments import ServerArguments
from quire.server.streams import CancelOnDisconnect
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine
from tests.polling import wait_until
from tests.server.serving import running, serving

WHOLE = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Echo:
    """A server that answers with what it was sent; `/wait` answers once `opened` is set."""

    place: tuple[str, int] = ("", 0)
    opened: threading.Event = field(default_factory=threading.Event)
    waiting: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/health")
        async def health() -> dict[str, str]:
            return {"status": "alive"}

        @app.post("/echo")
        async def echo(request: Request) -> dict[str, Any]:
            body = await request.body()
            return {"body": body.decode(), "headers": sorted(dict(request.headers))}

        @app.post("/deaf")
        async def deaf() -> dict[str, str]:
            return {"status": "refused"}

        @app.get("/wait")
        async def wait(request: Request) -> dict[str, str]:
            self.waiting += 1
            async with CancelOnDisconnect(request.receive):
                while not self.opened.is_set():
                    await asyncio.sleep(0.01)
            return {"status": "done"}

        return app

    def connect(self) -> socket.socket:
        connection = socket.create_connection(self.place)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(60)
        return connection

    def asked(self, sent: bytes) -> bytes:
        """One whole answer to what was sent on a connection of its own."""
        with self.connect() as connection:
            connection.sendall(sent)
            return answer(connection)


@contextmanager
def echoing(*, keep_alive: float = 75, **arguments: Any) -> Iterator[Echo]:
    echo, thread = Echo(), LoopThread("echo")
    settings = ServerArguments(**arguments)
    try:
        with running(echo.app(), settings, thread._loop, timeout_keep_alive=keep_alive) as url:
            split = urlsplit(url)
            echo.place = (split.hostname or "", split.port or 0)
            yield echo
            echo.opened.set()
    finally:
        thread.stop()


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    connection.settimeout(60)
    found = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            found += data
    return found


def answer(connection: socket.socket) -> bytes:
    """One whole answer."""
    connection.settimeout(60)
    found = b""
    while b"\r\n\r\n" not in found:
        data = connection.recv(1)
        if not data:
            raise ConnectionError("closed")
        found += data
    length = int(found.lower().split(b"content-length: ")[1].split(b"\r")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return found + body


# --- headers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", WHOLE[:20], WHOLE + WHOLE[:20]])
def test_headers_that_do_not_come_cut_the_connection(begun: bytes) -> None:
    with echoing(read_timeout=0.3) as echo, echo.connect() as connection:
        connection.sendall(begun)
        until_closed(connection)


def test_a_connection_that_is_kept_may_be_silent_for_longer_than_headers_may_take() -> None:
    with echoing(read_timeout=1) as echo, echo.connect() as kept:
        for _ in range(3):
            kept.sendall(WHOLE)
            assert answer(kept).endswith(b'{"status":"alive"}')
            with echo.connect() as other:  # cut when headers were due
                until_closed(other)


def test_a_large_body_is_no_large_header() -> None:
    with echoing(max_header_bytes=1000) as echo, echo.connect() as connection:
        for _ in range(2):
            head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n"
            connection.sendall(head + b"a" * 100_000)
            assert answer(connection).count(b"a") >= 100_000


def test_headers_without_an_end_are_cut_off() -> None:
    with echoing(max_header_bytes=1000) as echo, echo.connect() as connection:
        connection.sendall(WHOLE[:20] + b"x-a: " + b"a" * 1500)
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(b"a" * 1000)


# --- chunked bodies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "piece",
    [b"x-trailer: " + b"a" * 500 + b"\r\n", b"a" * 500, b"a:\r\n" * 100],
    ids=["trailers", "a trailer without an end", "small ones"],
)
def test_trailers_without_an_end_are_cut_off(piece: bytes) -> None:
    with echoing(max_header_bytes=2000) as echo, echo.connect() as connection:
        connection.sendall(CHUNKED + b"1\r\nx\r\n0\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(10**6):
                connection.sendall(piece)


def test_a_large_body_buys_no_large_trailers() -> None:
    with echoing(max_header_bytes=2000) as echo, echo.connect() as connection:
        connection.sendall(CHUNKED + b"40000\r\n" + b"a" * 0x40000 + b"\r\n0\r\n")
        with pytest.raises(ConnectionError):  # far more than the buffers between hold
            for _ in range(10**5):
                connection.sendall(b"x-trailer: " + b"a" * 500 + b"\r\n")


def test_chunk_extensions_are_counted() -> None:
    with echoing(max_header_bytes=2000) as echo, echo.connect() as connection:
        connection.sendall(CHUNKED)
        with pytest.raises(ConnectionError):
            for _ in range(10**6):
                connection.sendall(b"1;" + b"a" * 500 + b"\r\nx\r\n")


def test_a_body_in_chunks_of_one_byte_is_taken() -> None:
    with echoing(max_header_bytes=1000) as echo, echo.connect() as connection:
        connection.sendall(CHUNKED)
        for _ in range(100):
            connection.sendall(b"1\r\nx\r\n" * 100)
        connection.sendall(b"0\r\n\r\n")
        assert answer(connection).count(b"x") >= 10_000


def test_trailers_do_not_become_headers() -> None:
    with echoing() as echo:
        found = echo.asked(CHUNKED + b"1\r\nx\r\n0\r\nx-api-key: secret\r\nx-more: 1\r\n\r\n")
        assert found.endswith(b'{"body":"x","headers":["host","transfer-encoding"]}')


@pytest.mark.parametrize("trickle", [b"1\r\nx\r\n", b"0\r\nx-trailer: 1\r\n"])
def test_a_request_that_goes_on_after_its_answer_ends_with_the_keep_alive_time(
    trickle: bytes,
) -> None:
    with echoing(keep_alive=0.3) as echo, echo.connect() as connection:
        connection.sendall(CHUNKED.replace(b"/echo", b"/deaf"))
        assert b"refused" in answer(connection)
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(trickle)
                trickle = trickle.removeprefix(b"0\r\n")
                with suppress(TimeoutError):
                    connection.settimeout(0.05)
                    if not connection.recv(100):
                        raise ConnectionError


# --- many requests on one connection ---------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order() -> None:
    with echoing() as echo, echo.connect() as connection:
        head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n"
        connection.sendall(b"".join(head + b"%d" % number for number in range(8)))
        for number in range(8):
            assert b'{"body":"%d"' % number in answer(connection)
        connection.sendall(WHOLE)
        assert b"alive" in answer(connection)


def test_too_many_pipelined_requests_end_with_those_that_were_taken() -> None:
    with echoing() as echo, echo.connect() as connection:
        connection.sendall(WHOLE * 1000)
        answers = until_closed(connection).split(b"HTTP/1.1 ")[1:]
        assert 1 < len(answers) < 100
        assert all(one.startswith(b"200 OK") and one.endswith(b'"}') for one in answers)
        closing = [b"connection: close" in one for one in answers]
        assert closing == [*(False for _ in answers[1:]), True]


@pytest.mark.parametrize(
    "behind",
    [
        WHOLE,
        b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n\r\n",
        CHUNKED,
    ],
)
def test_nothing_is_read_while_requests_wait(behind: bytes) -> None:
    with echoing() as echo, echo.connect() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n")
        wait_until(lambda: echo.waiting == 1)
        filler = {WHOLE: WHOLE * 2000, CHUNKED: b"10000\r\n" + b"a" * 65536 + b"\r\n"}
        connection.sendall(behind)
        connection.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += connection.send(filler.get(behind, b"a" * 65536))
        assert sent < 32 * 2**20  # what the system's own buffers hold
        echo.opened.set()
        assert b"done" in answer(connection)


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", b"\r\n\r\n"])
def test_blank_lines_do_not_keep_a_connection(blank: bytes) -> None:
    with echoing(keep_alive=0.4) as echo, echo.connect() as connection:
        connection.sendall(WHOLE)
        answer(connection)
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(blank)
                with suppress(TimeoutError):
                    connection.settimeout(0.1)
                    if not connection.recv(100):
                        raise ConnectionError


def test_blank_lines_are_counted() -> None:
    with echoing(max_header_bytes=1000) as echo, echo.connect() as connection:
        connection.sendall(b"\r\n" * 100 + WHOLE)
        assert b"alive" in answer(connection)
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(b"\r\n" * 1000)


def test_a_request_begun_during_an_answer_is_not_cut_by_the_keep_alive_time() -> None:
    with echoing(keep_alive=0.2) as echo, echo.connect() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\nGET /wait HTTP/1.1\r\n")
        wait_until(lambda: echo.waiting == 1)
        echo.opened.set()
        assert b"done" in answer(connection)
        echo.opened.clear()
        connection.sendall(b"host: localhost\r\n\r\n")
        wait_until(lambda: echo.waiting == 2)
        with echo.connect() as other:
            other.sendall(WHOLE)
            answer(other)
            until_closed(other)  # the keep-alive time has passed
        echo.opened.set()
        assert b"done" in answer(connection)


def test_what_is_no_http_is_answered_but_not_in_the_midst_of_an_answer(
    tokenizer: Tokenizer,
) -> None:
    with echoing() as echo, echo.connect() as connection:
        connection.sendall(b"GET / nonsense\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 400")
    model = ChatModel.from_engine(EchoEngine(tokenizer, reply="word " * 1000, delay=0.01))
    with model, serving(model) as served:
        place = (urlsplit(served.url).hostname, urlsplit(served.url).port)
        with socket.create_connection(place) as connection:
            connection.sendall(streamed_chat("1.1"))
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            connection.sendall(b"\0\0\0\r\n\r\n")
            assert b"HTTP/" not in until_closed(connection)


# --- many connections ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"/health", b"/ready", b"/health?x=1"])
def test_probes_are_answered_beyond_the_most_connections(tokenizer: Tokenizer, path: bytes) -> None:
    model = ChatModel.from_engine(EchoEngine(tokenizer))
    with model, serving(model, max_connections=3) as served:
        place = (urlsplit(served.url).hostname or "", urlsplit(served.url).port or 0)
        held = [socket.create_connection(place) for _ in range(3)]
        for connection in held:
            connection.sendall(WHOLE)
            answer(connection)
        silent = [socket.create_connection(place) for _ in range(200)]
        echo = Echo(place)
        assert b"HTTP/1.1 200" in echo.asked(WHOLE.replace(b"/health", path))
        refused = echo.asked(WHOLE.replace(b"/health", b"/v1/models"))
        assert refused.startswith(b"HTTP/1.1 503")
        held[0].sendall(WHOLE.replace(b"/health", path))  # of those within the limit, too
        assert b"HTTP/1.1 200" in answer(held[0])
        for connection in (*held, *silent):
            connection.close()

        def is_served() -> bool:
            with suppress(ConnectionError):
                return b"200 OK" in echo.asked(WHOLE.replace(b"/health", b"/v1/models"))
            return False

        wait_until(is_served)


def test_as_many_connections_as_allowed_are_served(tokenizer: Tokenizer) -> None:
    model = ChatModel.from_engine(EchoEngine(tokenizer))
    with model, serving(model, max_connections=1) as served:
        place = (urlsplit(served.url).hostname or "", urlsplit(served.url).port or 0)
        assert b"200 OK" in Echo(place).asked(WHOLE.replace(b"/health", b"/v1/models"))


# --- other versions of HTTP ------------------------------------------------------------------------

CURL = (
    b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    b"Content-Type: application/json\r\nContent-Length: 12\r\n\r\n"
    b'{"a": "b c"}'
)
JAVA = (
    b"POST /echo HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 12\r\n"
    b"Host: localhost:8000\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAABgAGAAA\r\n"
    b"Upgrade: h2c\r\nUser-Agent: Java-http-client/21.0.4\r\n\r\n"
    b'{"a": "b c"}'
)
IN_CHUNKS = (
    b"POST /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nconnection: upgrade\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    b'6\r\n{"a": \r\n6\r\n"b c"}\r\n0\r\n\r\n'
)
OFFERS = {
    "curl": CURL,
    "Java": JAVA,
    "chunks": IN_CHUNKS,
    "a web socket": CURL.replace(b"h2c", b"websocket"),
    "TLS": CURL.replace(b"h2c", b"TLS/1.0"),
}


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_to_upgrade_is_ignored_and_the_body_read(offer: str) -> None:
    sent = OFFERS[offer]
    with echoing() as echo, echo.connect() as connection:
        cuts = [len(sent), *range(1, len(sent), 7)]
        for cut in cuts:  # as TCP may deliver it
            connection.sendall(sent[:cut])
            connection.sendall(sent[cut:])
            found = answer(connection)
            assert found.startswith(b"HTTP/1.1 200"), found
            assert b'"body":"{\\"a\\": \\"b c\\"}"' in found
            assert b'"upgrade"' not in found
        connection.sendall(sent * 3)
        assert all(b"b c" in answer(connection) for _ in range(3))


def test_an_offer_without_a_body_is_answered() -> None:
    with echoing() as echo:
        offer = b"\r\nupgrade: h2c\r\nconnection: Upgrade\r\n\r\n"
        assert b"alive" in echo.asked(WHOLE[:-4] + offer)


def test_an_offer_keeps_what_else_its_connection_header_says() -> None:
    with echoing() as echo, echo.connect() as connection:
        offer = b"\r\nupgrade: h2c\r\nconnection: close, Upgrade\r\n\r\n"
        connection.sendall(WHOLE[:-4] + offer)
        assert b"connection: close" in until_closed(connection)


def streamed_chat(version: str) -> bytes:
    body = b'{"messages": [{"role": "user", "content": "Hi"}], "stream": true}'
    return (
        b"POST /v1/chat/completions HTTP/%s\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (version.encode(), len(body), body)
    )


def test_http_1_0_gets_no_chunks(tokenizer: Tokenizer) -> None:
    model = ChatModel.from_engine(EchoEngine(tokenizer, reply="one two three four"))
    with model, serving(model) as served:
        place = (urlsplit(served.url).hostname, urlsplit(served.url).port)
        with socket.create_connection(place) as connection:
            connection.sendall(streamed_chat("1.0"))
            head, _, body = until_closed(connection).partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in head
            assert b"connection: close" in head
            assert body.startswith(b"data: {")
            assert body.endswith(b"data: [DONE]\n\n")
            assert all(line.startswith(b"data: ") for line in body.split(b"\n") if line)
        with socket.create_connection(place) as connection:
            connection.sendall(WHOLE.replace(b"1.1", b"1.0"))
            found = until_closed(connection)
            assert b"content-length: 18" in found
            assert found.endswith(b'{"status":"alive"}')
