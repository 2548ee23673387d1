"""Addresses, data URLs, bytes and files, with servers of the tests' own."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import MediaError
from quire.media.fetch import fetch_url, open_source, read_data_url
from quire.media.policy import MediaPolicy
from tests.media.servers import OPEN_HOST, certificate, serving, trap

POLICY = MediaPolicy(networks=(f"{OPEN_HOST}/32",))
PNG = b"\x89PNG\r\n\x1a\n data"


class Names:
    """A resolver of the test's own: each question takes the next answer; the last one stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def picture(request: web.Request) -> web.Response:
    return web.Response(body=PNG, content_type="image/png")


def redirect(location: str, status: int = 302):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": location})

    return answer


async def test_a_picture_is_fetched_without_cookies_and_compression() -> None:
    seen: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return await picture(request)

    async with serving({"/a.png": answer}) as address:
        file = await fetch_url(f"  {address}/a.png?size=1#part", "image", POLICY)
    assert file.read() == PNG
    assert seen[0]["Accept-Encoding"] == "identity"
    assert "Cookie" not in seen[0]


async def test_a_host_is_resolved_once_and_the_connection_goes_there() -> None:
    """A name server that gives another address the second time (DNS rebinding) is not asked."""
    names = Names([OPEN_HOST], ["127.0.0.1"])
    async with serving({"/a.png": picture}) as address, trap() as private:
        port = address.rsplit(":", 1)[1]
        file = await fetch_url(f"http://cats.example:{port}/a.png", "image", POLICY, names)
    assert file.read() == PNG
    assert names.asked == ["cats.example"]
    assert private.visits == []


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0"),
        *("127.1", "[::]", "[::ffff:7f00:1]", "127.0.0.1.", "0177.0.0.1"),
    ],
)
async def test_private_hosts_are_never_connected_to(host: str) -> None:
    async with trap() as private:
        with pytest.raises(MediaError) as caught:
            await fetch_url(f"http://{host}:{private.port}/", "image", MediaPolicy())
    assert "not public" in str(caught.value) or "not known" in str(caught.value)
    assert private.visits == []


async def test_the_trap_sees_who_comes() -> None:
    """Without the guard's refusal the same address is connected to: the tests here can fail."""
    policy = MediaPolicy(networks=("127.0.0.1/32",))
    async with trap() as private:
        with pytest.raises(MediaError, match="could not be read"):
            await fetch_url(f"http://127.0.0.1:{private.port}/", "image", policy)
    assert private.visits


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "[fe80::1]", "10.0.0.1"]
)
@pytest.mark.parametrize("status", [301, 307])
async def test_a_redirect_to_a_private_host_is_refused(host: str, status: int) -> None:
    async with trap() as private:
        to = f"http://{host}:{private.port}/secret"
        async with serving({"/a.png": redirect(to, status)}) as address:
            with pytest.raises(MediaError, match="not public"):
                await fetch_url(f"{address}/a.png", "image", POLICY)
    assert private.visits == []


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://example.com/", "", "http://[", "data:,x"]
)
async def test_a_redirect_to_another_form_is_refused(location: str) -> None:
    async with serving({"/a.png": redirect(location)}) as address:
        with pytest.raises(MediaError):
            await fetch_url(f"{address}/a.png", "image", POLICY)


async def test_a_host_of_which_one_address_is_private_is_refused() -> None:
    names = Names([OPEN_HOST, "127.0.0.1"])
    with pytest.raises(MediaError, match="not public"):
        await fetch_url("http://cats.example/a.png", "image", POLICY, names)


@pytest.mark.parametrize(("redirects", "comes"), [(0, True), (3, True), (4, False)])
async def test_three_redirects_are_followed_and_no_more(redirects: int, comes: bool) -> None:
    routes = {f"/{n}": redirect(f"/{n + 1}") for n in range(redirects)}
    async with serving({**routes, f"/{redirects}": picture}) as address:
        if comes:
            assert (await fetch_url(f"{address}/0", "image", POLICY)).read() == PNG
        else:
            with pytest.raises(MediaError, match="more than 3 times"):
                await fetch_url(f"{address}/0", "image", POLICY)


async def test_each_redirect_is_resolved_and_checked_again() -> None:
    names = Names([OPEN_HOST], ["127.0.0.1"])
    async with trap() as private:
        to = f"http://cats.example:{private.port}/b.png"
        async with serving({"/a.png": redirect(to)}) as address:
            port = address.rsplit(":", 1)[1]
            with pytest.raises(MediaError, match="not public"):
                await fetch_url(f"http://cats.example:{port}/a.png", "image", POLICY, names)
    assert private.visits == []
    assert names.asked == ["cats.example", "cats.example"]


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Content-Type": "text/html"}, 200, "'text/html', which is no image"),
        ({"Content-Type": "video/mp4"}, 200, "no image"),
        ({"Content-Type": "image/png", "Content-Encoding": "gzip"}, 200, "compressed"),
        ({"Content-Type": "image/png"}, 404, "status 404"),
        ({"Content-Type": "image/png"}, 500, "status 500"),
    ],
)
async def test_other_answers_are_refused(headers: dict, status: int, text: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=PNG, headers=headers, status=status)

    async with serving({"/a.png": answer}) as address:
        with pytest.raises(MediaError, match=text):
            await fetch_url(f"{address}/a.png", "image", POLICY)


async def test_an_empty_answer_is_refused() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"", content_type="image/png")

    async with serving({"/a.png": answer}) as address:
        with pytest.raises(MediaError, match="empty"):
            await fetch_url(f"{address}/a.png", "image", POLICY)


@pytest.mark.parametrize("declared", [True, False])
async def test_no_more_is_read_than_may_come(declared: bool) -> None:
    """With a length in the header nothing is read; without one reading ends at the limit."""
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        if declared:
            response.content_length = 2**40
        await response.prepare(request)
        while True:
            await response.write(bytes(2**16))
            sent += 2**16

    policy = MediaPolicy(networks=POLICY.networks, max_bytes=2**20)
    async with serving({"/a.png": answer}) as address:
        with pytest.raises(MediaError, match="more than 1 MiB"):
            await fetch_url(f"{address}/a.png", "image", policy)
    assert sent < 2**25


@pytest.mark.parametrize("part", ["head", "body", "name"])
async def test_what_does_not_come_to_an_end_is_given_up(part: str) -> None:
    never = asyncio.Event()

    async def drops(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        if part == "body":
            await response.prepare(request)
            await response.write(b"x")
        await never.wait()
        return response

    async def slow_names(host: str, port: int) -> Sequence[str]:
        if part == "name":
            await never.wait()
        return [OPEN_HOST]

    policy = MediaPolicy(networks=POLICY.networks, fetch_seconds=0.3)
    async with serving({"/a.png": drops}) as address:
        port = address.rsplit(":", 1)[1]
        with pytest.raises(MediaError, match=r"within 0\.3 seconds"):
            await fetch_url(f"http://cats.example:{port}/a.png", "image", policy, slow_names)


async def test_a_port_where_nobody_listens_is_an_error_of_our_own_words() -> None:
    async with serving({}) as address:
        pass
    with pytest.raises(MediaError) as caught:
        await fetch_url(f"{address}/a.png", "image", POLICY)
    assert str(caught.value) == "the address could not be read."


async def test_the_certificate_must_be_the_hosts(tmp_path: Path) -> None:
    """The connection goes to the pinned address; name and certificate are still the host's."""
    server, trusting = certificate(tmp_path, "cats.example")
    names = Names([OPEN_HOST])
    async with serving({"/a.png": picture}, server) as address:
        port = address.rsplit(":", 1)[1]
        good, other = (f"https://{host}:{port}/a.png" for host in ("cats.example", "dogs.example"))
        assert (await fetch_url(good, "image", POLICY, names, trusting)).read() == PNG
        with pytest.raises(MediaError, match="no valid certificate"):
            await fetch_url(other, "image", POLICY, names, trusting)
        with pytest.raises(MediaError, match="no valid certificate"):
            await fetch_url(good, "image", POLICY, names)


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trap() as private:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{private.port}")
        async with serving({"/a.png": picture}) as address:
            assert (await fetch_url(f"{address}/a.png", "image", POLICY)).read() == PNG
    assert private.visits == []


@given(st.binary(min_size=1, max_size=200), st.sampled_from(["", "image/png", "IMAGE/JPEG"]))
def test_data_urls_give_their_bytes(data: bytes, media_type: str) -> None:
    text = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    assert read_data_url(text, "image", POLICY) == data
    percent = "".join(f"%{byte:02X}" for byte in data)
    assert read_data_url(f"data:{media_type},{percent}", "image", POLICY) == data


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,a", "base64"),
        ("data:image/png;base64,äöü=", "base64"),
        ("data:image/png;base64,", "empty"),
        ("data:text/html;base64,aGk=", "no image"),
        ("data:audio/wav;base64,aGk=", "no image"),
    ],
)
def test_bad_data_urls_are_refused(text: str, why: str) -> None:
    with pytest.raises(MediaError, match=why):
        read_data_url(text, "image", POLICY)


@given(st.integers(0, 300), st.booleans())
def test_a_data_url_is_held_to_the_same_limit(size: int, encoded: bool) -> None:
    data = b"x" * size
    body = base64.b64encode(data).decode() if encoded else data.decode()
    text = f"data:{';base64' if encoded else ''},{body}"
    policy = MediaPolicy(max_bytes=100)
    if 0 < size <= 100:
        assert read_data_url(text, "image", policy) == data
    else:
        with pytest.raises(MediaError):
            read_data_url(text, "image", policy)


def test_data_urls_are_refused_where_none_are_read() -> None:
    with pytest.raises(MediaError, match="not read here"):
        read_data_url("data:,x", "image", MediaPolicy(data_urls=False))


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_and_file_objects_are_opened(wrap: type) -> None:
    with open_source(wrap(PNG), "image", POLICY) as file:
        assert file.read() == PNG
    with pytest.raises(MediaError, match="more than 5 bytes"):
        open_source(wrap(PNG), "image", MediaPolicy(max_bytes=5))
    with pytest.raises(MediaError, match="empty"):
        open_source(wrap(b""), "image", POLICY)


def test_a_file_object_without_bytes_is_refused() -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise RuntimeError("a secret of the caller's")

    with pytest.raises(MediaError, match="binary mode"):
        open_source(io.StringIO("text"), "image", POLICY)
    with pytest.raises(MediaError) as caught:
        open_source(Broken(), "image", POLICY)
    assert "secret" not in str(caught.value)


def test_a_file_object_that_never_ends_is_read_up_to_the_limit() -> None:
    with Path("/dev/zero").open("rb") as file, pytest.raises(MediaError, match="more than"):
        open_source(file, "image", MediaPolicy(max_bytes=1000))
