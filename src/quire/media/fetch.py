"""From what a caller names or holds (an address, a path, bytes, a file) to a file to decode from.

What may be fetched and opened is decided in `guard.py`; everything here goes through it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias
from urllib.parse import unquote_to_bytes

from quire.errors import MediaError
from quire.media.guard import (
    check_addresses,
    check_url,
    is_allowed,
    open_path,
    scheme_of,
    too_large,
)
from quire.media.placement import Kind
from quire.media.policy import MediaPolicy

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and a port to the host's IP addresses."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_UNTYPED = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_MORE_TYPES = {
    "image": frozenset[str](),
    "video": frozenset({"image/gif", "image/webp", "image/png", "image/apng", "application/mp4"}),
    "audio": frozenset({"video/mp4", "video/webm", "video/ogg", "application/ogg"}),
}


class Fetched(io.BytesIO):
    """A medium that was fetched from an address, in memory."""


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """The addresses of a host as the system knows them."""
    loop = asyncio.get_running_loop()
    entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in entries]


def plain_source(source: Any) -> Any:
    """A source without its wrapping: `{"bytes": ...}`, `{"path": ...}` and `{"url": ...}`."""
    if not isinstance(source, Mapping):
        return source
    for key in ("bytes", "path", "url"):
        if source.get(key) is not None:
            return source[key]
    return source


def is_url(source: Any) -> bool:
    """Whether this is an address, which is fetched, or refused as one."""
    return isinstance(source, str) and scheme_of(source) not in (None, "data")


def is_encoded(source: Any) -> bool:
    """Whether this names or holds an encoded file."""
    readable = isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview))
    return readable or callable(getattr(source, "read", None))


def open_source(
    source: Any, kind: Kind, policy: MediaPolicy, folder: str | None = None
) -> BinaryIO:
    """Open a path, a data URL, bytes or a file object; an address is for `fetch_url`. Blocks.

    Raises:
        MediaError: the policy does not allow it, or there is nothing to be read.
    """
    if isinstance(source, Fetched):
        return source
    if isinstance(source, str) and scheme_of(source) == "data":
        return io.BytesIO(read_data_url(source, kind, policy))
    if isinstance(source, (str, os.PathLike)):
        return open_path(_text(source), policy, folder)
    data = source if isinstance(source, (bytes, bytearray, memoryview)) else _read(source, policy)
    if memoryview(data).nbytes > policy.max_bytes:
        raise too_large(policy.max_bytes)
    if not data:
        raise MediaError("it is empty.")
    return io.BytesIO(data)


def _text(path: str | os.PathLike[Any]) -> str:
    name = os.fspath(path)
    return os.fsdecode(name)


def _read(file: Any, policy: MediaPolicy) -> bytes:
    """What a caller's file object holds from its position on."""
    try:
        data = file.read(policy.max_bytes + 1)
    except Exception:
        raise MediaError("the file object could not be read.") from None
    if not isinstance(data, (bytes, bytearray)):
        raise MediaError("the file object gives no bytes; open the file in binary mode.")
    return bytes(data)


def read_data_url(text: str, kind: Kind, policy: MediaPolicy) -> bytes:
    """The bytes of `data:[type][;base64],...`.

    Raises:
        MediaError: it is malformed, of another type, or too large.
    """
    if not policy.data_urls:
        raise MediaError("data URLs are not read here.")
    head, comma, body = text.strip().partition(",")
    if not comma:
        raise MediaError("the data URL has no comma before its data.")
    media_type, *parameters = head[len("data:") :].split(";")
    check_type(media_type, kind)
    encoded = any(parameter.strip().lower() == "base64" for parameter in parameters)
    # Before anything is decoded: base64 writes 4 characters for 3 bytes, an escape 3 for one.
    if len(body) > policy.max_bytes * (4 / 3 if encoded else 3) + 4:
        raise too_large(policy.max_bytes)
    data = _base64(body) if encoded else unquote_to_bytes(body)
    if len(data) > policy.max_bytes:
        raise too_large(policy.max_bytes)
    if not data:
        raise MediaError("it is empty.")
    return data


def _base64(body: str) -> bytes:
    plain = unquote_to_bytes(body) if "%" in body else body.encode("ascii", "replace")
    try:
        return base64.b64decode(plain, validate=True)
    except binascii.Error:
        raise MediaError("the data URL is no valid base64.") from None


def check_type(media_type: str, kind: Kind) -> None:
    """Check that data is not declared to be of another kind.

    Raises:
        MediaError: the media type is not one of this kind.
    """
    name = media_type.partition(";")[0].strip().lower()
    if name in _UNTYPED or name.startswith(f"{kind}/") or name in _MORE_TYPES[kind]:
        return
    raise MediaError(f"it is declared as {name[:60]!r}, which is no {kind}.")


async def fetch_url(
    text: str,
    kind: Kind,
    policy: MediaPolicy,
    resolver: Resolver = resolve_host,
    tls: ssl.SSLContext | None = None,
) -> Fetched:
    """Fetch an http or https address into memory.

    Each address, the first and those of redirects, is checked by the guard and connected to at an
    IP address that the guard has checked. Proxies and cookies are never used.

    Raises:
        MediaError: the address may not be fetched, does not answer in time or with such data.
    """
    aiohttp = http_library()
    try:
        async with asyncio.timeout(policy.fetch_seconds):
            return await _fetch(check_url(text, policy), kind, policy, resolver, tls)
    except TimeoutError:
        seconds = f"{policy.fetch_seconds:g} seconds"
        raise MediaError(f"the address did not give it within {seconds}.") from None
    except (ssl.SSLError, aiohttp.ClientSSLError):
        raise MediaError("the address has no valid certificate.") from None
    except (aiohttp.ClientError, OSError):
        raise MediaError("the address could not be read.") from None


async def _fetch(
    url: URL, kind: Kind, policy: MediaPolicy, resolver: Resolver, tls: ssl.SSLContext | None
) -> Fetched:
    for _ in range(policy.max_redirects + 1):
        addresses = await _addresses(url, policy, resolver)
        async with (
            _session(addresses, policy, tls) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status not in _REDIRECTS:
                return await _body(response, kind, policy)
            url = check_url(_next(url, response.headers.get("Location", "")), policy)
    raise MediaError(f"the address redirects more than {policy.max_redirects} times.")


async def _addresses(url: URL, policy: MediaPolicy, resolver: Resolver) -> list[str]:
    try:
        addresses = await resolver(str(url.raw_host), int(url.port or 0))
    except (OSError, UnicodeError):
        addresses = ()
    return check_addresses(addresses, policy)


def _next(url: URL, location: str) -> str:
    from yarl import URL

    try:
        return str(url.join(URL(location)))
    except ValueError:
        raise MediaError("the address redirects to no valid URL.") from None


def _session(
    addresses: Sequence[str], policy: MediaPolicy, tls: ssl.SSLContext | None
) -> ClientSession:
    """A session that can connect to these addresses alone.

    A host that was resolved to be checked, and then again to connect, could have another address the
    second time (DNS rebinding). So the resolver answers with what was checked; and whatever reaches
    `make_socket` by another way, such as an IP address in the URL, is checked there once more.
    """
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Pinned(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            return [_pinned(host, address, port) for address in addresses]

        async def close(self) -> None: ...

    def make_socket(info: Any) -> socket.socket:
        if info[4][0] not in addresses or not is_allowed(info[4][0], policy):
            raise MediaError("the address leads to a network that is not public.")
        made = socket.socket(info[0], info[1], info[2])
        made.setblocking(False)
        return made

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=Pinned(),
            use_dns_cache=False,
            force_close=True,
            socket_factory=make_socket,
            ssl=True if tls is None else tls,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=policy.fetch_seconds),
        # Uncompressed: the limit on bytes would not hold for what a few of them expand to.
        headers={"Accept-Encoding": "identity", "User-Agent": "quire"},
        auto_decompress=False,
        trust_env=False,  # a proxy would connect for us, past the guard
    )


def http_library() -> Any:
    """aiohttp. The first import takes a tenth of a second: not on an event loop.

    Raises:
        MediaError: it is not installed.
    """
    try:
        import aiohttp
    except ImportError:
        raise MediaError(
            "addresses need the package aiohttp: pip install 'quire[media]'."
        ) from None
    return aiohttp


def _pinned(host: str, address: str, port: int) -> Any:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return {
        "hostname": host,
        "host": address,
        "port": port,
        "family": family,
        "proto": socket.IPPROTO_TCP,
        "flags": socket.AI_NUMERICHOST,
    }


async def _body(response: ClientResponse, kind: Kind, policy: MediaPolicy) -> Fetched:
    """Read a response's body, as long as it keeps to the limits."""
    if response.status != 200:
        raise MediaError(f"the address answers with status {response.status}.")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise MediaError("the address sends it compressed, which was not asked for.")
    check_type(response.headers.get("Content-Type", ""), kind)
    if (response.content_length or 0) > policy.max_bytes:
        raise too_large(policy.max_bytes)
    file = Fetched()
    async for chunk in response.content.iter_any():  # Content-Length is only what is promised
        if file.tell() + len(chunk) > policy.max_bytes:
            raise too_large(policy.max_bytes)
        file.write(chunk)
    if not file.tell():
        raise MediaError("it is empty.")
    file.seek(0)
    return file
