"""Connections whose headers do not come, over a real socket."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from quire.chat import ChatModel
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine
from tests.server.serving import serving

WHOLE = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


def until_closed(connection: socket.socket) -> None:
    """Read until the server closes it."""
    connection.settimeout(60)
    with suppress(ConnectionError):
        while connection.recv(4096):
            pass


def answer(connection: socket.socket) -> bytes:
    """One whole answer."""
    connection.settimeout(60)
    found = b""
    while b"\r\n\r\n" not in found:
        found += connection.recv(4096)
    head, body = found.split(b"\r\n\r\n", 1)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
    while len(body) < length:
        body += connection.recv(4096)
    return head + b"\r\n\r\n" + body


def test_headers_that_do_not_come_cut_the_connection(tokenizer: Tokenizer) -> None:
    model = ChatModel.from_engine(EchoEngine(tokenizer))
    with model, serving(model, read_timeout=0.3, max_header_bytes=1000) as served:
        place = (urlsplit(served.url).hostname, urlsplit(served.url).port)
        for begun in (b"", WHOLE[:20], WHOLE + WHOLE[:20]):
            with socket.create_connection(place) as connection:
                connection.sendall(begun)
                until_closed(connection)

        with socket.create_connection(place) as connection:  # one that is kept is not cut
            connection.settimeout(60)
            for _ in range(3):
                connection.sendall(WHOLE)
                assert answer(connection).endswith(b'{"status":"alive"}')
                time.sleep(0.4)  # longer than headers may take

        with socket.create_connection(place) as connection:  # a large body is no large header
            body = b'{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}'
            content = body + b" " * 6000
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
            connection.settimeout(60)
            for _ in range(2):
                connection.sendall(head % len(content) + content)
                assert answer(connection).startswith(b"HTTP/1.1 200")

        with socket.create_connection(place) as connection, pytest.raises(ConnectionError):
            connection.settimeout(60)
            connection.sendall(WHOLE[:20] + b"x-a: " + b"a" * 1500)
            while True:
                connection.sendall(b"a" * 1000)
