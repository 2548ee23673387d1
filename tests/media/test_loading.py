"""`MediaLoader`: every kind of source, bad input as clear errors, and an event loop left free."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from quire.arguments import DataArguments
from quire.errors import EngineClosedError, MediaError, RequestError
from quire.media import fetch
from quire.media.loading import MediaLoader
from quire.media.policy import MediaPolicy
from quire.media.values import Clip, Medium, Picture, Sound
from quire.messages import Media
from tests.media.making import (
    animation,
    arguments,
    encoded,
    gif_of_dots,
    gradient,
    level,
    loader,
    png_bomb,
    sine,
    sound,
    video,
)
from tests.media.servers import OPEN_HOST, serving

OPEN = MediaPolicy(networks=(f"{OPEN_HOST}/32",))
INTERNALS = re.compile(
    r"PIL|Pillow|av\.|FFmpeg|aiohttp|numpy|Errno|Error|Exception|Traceback|0x[0-9a-f]{6}|/tmp/",
    re.I,
)


async def load_one(
    kind: Any, source: Any, policy: MediaPolicy | None = None, **options: Any
) -> Medium:
    made = loader(policy, **options)
    try:
        return (await made.load([Media(kind, source)]))[0]
    finally:
        made.close()


PIXELS = gradient(80, 60)
PNG = encoded(PIXELS)


async def test_a_picture_is_the_same_from_every_source(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=PNG, content_type="image/png")

    async with serving({"/a.png": answer}) as address:
        with (tmp_path / "a.png").open("rb") as file:
            sources = [
                *(str(tmp_path / "a.png"), tmp_path / "a.png", PNG, bytearray(PNG)),
                *(io.BytesIO(PNG), file, f"{address}/a.png", Image.fromarray(PIXELS), PIXELS),
                "data:image/png;base64," + base64.b64encode(PNG).decode(),
                *({"bytes": PNG, "path": None}, {"path": str(tmp_path / "a.png"), "bytes": None}),
                *({"url": f"{address}/a.png"}, Image.open(io.BytesIO(PNG))),
            ]
            pictures = await loader(OPEN).load([Media("image", source) for source in sources])
    for picture in pictures:
        assert isinstance(picture, Picture)
        assert np.array_equal(picture.pixels, PIXELS)
        assert picture == pictures[0]
        assert (picture.width, picture.height) == (80, 60)
    again = await loader(OPEN).load([Media("image", pictures[0])])
    assert again == [pictures[0]]


async def test_a_video_and_a_sound_come_from_every_source(tmp_path: Path) -> None:
    data, tone = video(20), sound(sine(440, 0.5, 16000)[None], 16000)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=data if request.path == "/v" else tone)

    (tmp_path / "v.mp4").write_bytes(data)
    async with serving({"/v": answer, "/s": answer}) as address:
        made = await loader(OPEN).load(
            [Media("video", source) for source in (data, tmp_path / "v.mp4", f"{address}/v")]
            + [Media("audio", source) for source in (tone, io.BytesIO(tone), f"{address}/s")]
        )
    assert made[0] == made[1] == made[2]
    assert made[3] == made[4] == made[5]
    assert isinstance(made[0], Clip)
    assert isinstance(made[3], Sound)


async def test_frames_of_every_source_are_a_video(tmp_path: Path) -> None:
    shades = [np.full((40, 40, 3), level(index), np.uint8) for index in range(6)]
    (tmp_path / "f.png").write_bytes(encoded(shades[1]))
    mixed = [
        *(shades[0], tmp_path / "f.png", encoded(shades[2]), Image.fromarray(shades[3])),
        *("data:image/png;base64," + base64.b64encode(encoded(shades[4])).decode(), shades[5]),
    ]
    first = await load_one("video", np.stack(shades))
    assert await load_one("video", mixed) == first
    assert isinstance(first, Clip)
    assert first.timestamps == (0, 0.5, 1, 1.5, 2, 2.5)
    assert (first.total_frames, first.fps, first.duration) == (6, 2.0, 3.0)
    fast = await load_one("video", {"frames": shades, "fps": 4})
    assert isinstance(fast, Clip)
    assert fast.frame_indices == (0, 2, 5)
    assert fast.timestamps == (0, 0.5, 1.25)
    few = await load_one("video", shades, video_maxlen=2)
    assert isinstance(few, Clip)
    assert few.frame_indices == (0, 5)


async def test_frames_of_different_sizes_get_the_first_ones(tmp_path: Path) -> None:
    clip = await load_one("video", [gradient(40, 30), gradient(80, 60)])
    assert isinstance(clip, Clip)
    assert clip.frames.shape == (2, 30, 40, 3)
    assert np.abs(clip.frames[0].astype(int) - clip.frames[1]).mean() < 6


async def test_frames_from_addresses_keep_together_to_the_limits_of_one_medium() -> None:
    never = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=PNG)

    async def hang(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response(body=PNG)

    async with serving({"/a": answer, "/hanging": hang}) as address:
        frames = [f"{address}/a"] * 20
        assert (await load_one("video", frames, OPEN)).kind == "video"
        small = MediaPolicy(networks=OPEN.networks, max_bytes=len(PNG) * 10)
        with pytest.raises(MediaError, match="it has more than"):
            await load_one("video", frames, small)
        quick = MediaPolicy(networks=OPEN.networks, fetch_seconds=0.4)
        with pytest.raises(MediaError, match=r"within 0\.4 seconds"):
            await load_one("video", [*frames, f"{address}/hanging"], quick)


async def test_animated_pictures_and_pictures_are_videos() -> None:
    clip = await load_one("video", animation("WEBP", [0, 255], [500, 500]))
    assert isinstance(clip, Clip)
    assert clip.timestamps == (0, 0.5)
    still = await load_one("video", Image.fromarray(PIXELS))
    assert isinstance(still, Clip)
    assert still.total_frames == 1


async def test_hashes_are_of_content_and_size() -> None:
    small = await load_one("image", PNG, image_max_pixels=2000)
    other = await load_one("image", gradient(81, 60))
    plain = await load_one("image", PNG)
    assert len({medium.content_hash for medium in (small, other, plain)}) == 3
    frames = np.stack([PIXELS, PIXELS])
    slow = await load_one("video", {"frames": frames, "fps": 1.0})
    fast = await load_one("video", {"frames": frames, "fps": 2.0}, video_fps=4.0)
    assert slow.content_hash != fast.content_hash
    assert re.fullmatch("[0-9a-f]{64}", plain.content_hash)


async def test_relative_paths_are_looked_for_in_the_media_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    made = MediaLoader(arguments(), DataArguments(media_dir=str(tmp_path)))
    assert (await made.load([Media("image", "a.png")]))[0].kind == "image"


BAD: dict[str, tuple[str, Any, str]] = {
    "a truncated PNG": ("image", encoded(gradient(300, 300))[:600], "damaged or incomplete"),
    "a bomb": ("image", png_bomb(30_000), "more than 64,000,000 pixels"),
    "a GIF of 100,000 frames": ("video", gif_of_dots(100_000), "more than 10,000 frames"),
    "no video stream": ("video", sound(sine(440, 1, 16000)[None], 16000), "no video stream"),
    "a picture as sound": ("audio", PNG, "no video or sound of a known form"),
    "a video as picture": ("image", video(3), "no image of a known form"),
    "a file address": ("image", "file:///etc/passwd", "http"),
    "a loopback": ("image", "http://127.0.0.1/x", "not public"),
    "an IPv6 loopback": ("image", "http://[::1]/x", "not public"),
    "an IPv4-mapped address": ("image", "http://[::ffff:127.0.0.1]/x", "not public"),
    "a link-local address": ("image", "http://169.254.169.254/latest/meta-data", "not public"),
    "a missing file": ("image", "missing.png", "no such file"),
    "a folder": ("image", "/", "no file"),
    "a device": ("image", "/dev/zero", "no file"),
    "nothing": ("image", None, "no image can be read from a value of type NoneType"),
    "a number": ("video", 5, "no video can be read from a value of type int"),
    "an object": ("audio", object(), "no audio can be read from a value of type object"),
    "an empty list": ("video", [], "no frames"),
    "a list of lists": ("video", [[1, 2]], "no image can be read from a value of type list"),
    "a list with an address": ("video", ["http://10.0.0.1/a.png"], "not public"),
    "a bad rate": ("video", {"frames": [PIXELS], "fps": 0}, "fps must be"),
    "frames of one": ("video", np.zeros((4, 4, 3), np.uint8), "shape"),
    "floats": ("image", np.zeros((4, 4, 3)), "uint8"),
    "text": ("image", b"<html>no</html>", "no image of a known form"),
    "svg": ("image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of a known form"),
    "empty": ("image", b"", "empty"),
    "another kind": ("image", Sound.of(np.zeros(9, np.float32), 16000), "no image"),
    "a mapping": ("image", {"file": "x"}, "no image can be read"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_is_an_error_of_our_own_words(name: str) -> None:
    kind, source, text = BAD[name]
    with pytest.raises(MediaError, match=re.escape(text)) as caught:
        await load_one(kind, source)
    assert isinstance(caught.value, RequestError)
    assert str(caught.value).startswith(f"{kind} 1")
    assert not INTERNALS.search(str(caught.value))
    assert caught.value.__cause__ is None


async def test_a_loader_lives_on_after_each_bad_input() -> None:
    made = loader()
    for kind, source, _ in BAD.values():
        with pytest.raises(MediaError):
            await made.load([Media(kind, source), Media("image", PNG)])  # type: ignore[arg-type]
    assert len(await made.load([Media("image", PNG)])) == 1


async def test_the_error_says_which_medium_it_is() -> None:
    good = [Media("image", PNG), Media("video", video(3)), Media("image", PNG)]
    with pytest.raises(MediaError, match=r"^image 3 \('cat.png'\): there is no such file\.$"):
        await loader().load([*good, Media("image", "/nowhere/cat.png")])
    with pytest.raises(MediaError) as caught:
        await loader().load([Media("image", "http://127.0.0.1/x?key=secret")])
    assert "secret" not in str(caught.value)


async def test_a_path_with_dots_is_refused_under_a_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "a.png").write_bytes(PNG)
    policy = MediaPolicy.for_server(tmp_path / "root")
    for source in ("../a.png", {"path": "../a.png"}, str(tmp_path / "a.png")):
        with pytest.raises(MediaError):
            await load_one("image", source, policy)
        with pytest.raises(MediaError):
            await load_one("video", [source], policy)


MUTATED = [
    encoded(gradient(40, 30), form) for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")
]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
@given(st.sampled_from(MUTATED), st.data())
def test_damaged_pictures_give_a_picture_or_our_error(data: bytes, draw: Any) -> None:
    damaged = bytearray(data)
    for offset in draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8)):
        damaged[offset] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(1, len(data)))
    check_garbage("image", bytes(damaged[:cut]))


CLIPS = [
    video(6),
    video(6, form="matroska"),
    video(6, form="mpegts"),
    animation("GIF", [0, 9], [50, 50]),
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CLIPS), st.data())
def test_damaged_videos_give_a_clip_or_our_error(data: bytes, draw: Any) -> None:
    damaged = bytearray(data)
    for offset in draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8)):
        damaged[offset] = draw.draw(st.integers(0, 255))
    check_garbage(draw.draw(st.sampled_from(["video", "audio"])), bytes(damaged))


GARBAGE = MediaPolicy(decode_seconds=5, workers=1)


def check_garbage(kind: Any, data: bytes) -> None:
    try:
        text = asyncio.run(load_one(kind, data, GARBAGE)).kind
    except MediaError as error:
        text = str(error)
    assert not INTERNALS.search(text)
    assert text.startswith(kind)


@pytest.mark.parametrize(
    ("kind", "data"),
    [("image", PNG), ("video", video(3)), ("audio", sound(sine(440, 0.1, 8000)[None], 8000))],
)
async def test_the_event_loop_stays_free_while_media_are_decoded(kind: Any, data: bytes) -> None:
    """All reading, and so all decoding, happens in the loader's own threads."""
    threads: set[str] = set()

    class Watched(io.BytesIO):
        def read(self, *size: Any) -> bytes:
            threads.add(threading.current_thread().name.rpartition("_")[0])
            return super().read(*size)

    with patch.object(fetch, "io", SimpleNamespace(BytesIO=Watched)):
        await load_one(kind, data)
    assert threads == {"quire-media"}


async def test_an_address_is_fetched_while_all_threads_decode() -> None:
    asked, gate = asyncio.Event(), Gate(PNG)

    async def answer(request: web.Request) -> web.Response:
        asked.set()
        return web.Response(body=PNG)

    made = loader(MediaPolicy(networks=OPEN.networks, workers=1))
    async with serving({"/a": answer}) as address:
        media = [Media("image", gate), Media("image", f"{address}/a")]
        loading = asyncio.create_task(made.load(media))
        try:
            await asyncio.wait_for(asked.wait(), 60)
            assert not gate.opened.is_set()
        finally:
            gate.opened.set()
        assert len(await loading) == 2


class Gate(io.BytesIO):
    """A file that a decoder waits for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reached, self.opened = threading.Event(), threading.Event()

    def read(self, *size: Any) -> bytes:
        self.reached.set()
        assert self.opened.wait(60)
        return super().read(*size)


async def test_a_closed_loader_stays_closed() -> None:
    made = loader()
    await made.load([Media("image", PNG)])
    made.close()
    made.close()
    for media in ([Media("image", PNG)], [Media("image", "http://example.com/a.png")], []):
        with pytest.raises(EngineClosedError, match="closed"):
            await made.load(media)


async def test_media_in_flight_when_the_loader_is_closed() -> None:
    """The one in a thread, and those that wait for it: nobody is left waiting, or cancelled."""
    made, gate = loader(MediaPolicy(workers=1)), Gate(PNG)
    media = [Media("image", gate), Media("image", PNG)]
    several = asyncio.create_task(made.load(media))
    another = asyncio.create_task(made.load([Media("video", gif_of_dots(9))]))
    await asyncio.to_thread(gate.reached.wait, 60)
    made.close()
    gate.opened.set()
    for task in (several, another):
        with pytest.raises(EngineClosedError, match="closed"):
            await asyncio.wait_for(task, 60)


async def test_an_address_in_flight_when_the_loader_is_closed() -> None:
    asked, opened = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.set()
        await opened.wait()
        return web.Response(body=PNG)

    made = loader(OPEN)
    async with serving({"/a": answer}) as address:
        task = asyncio.create_task(made.load([Media("image", f"{address}/a")]))
        await asyncio.wait_for(asked.wait(), 60)
        made.close()
        opened.set()
        with pytest.raises(EngineClosedError, match="closed"):
            await asyncio.wait_for(task, 60)


async def test_no_more_threads_than_allowed_decode_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()
    two = threading.Barrier(2)

    class Slow(io.BytesIO):
        def read(self, *size: Any) -> bytes:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            two.wait(60)
            with lock:
                running -= 1
            return super().read(*size)

    await loader(MediaPolicy(workers=2)).load([Media("image", Slow(PNG)) for _ in range(10)])
    assert most == 2


async def test_media_waiting_for_their_turn_are_not_fetched_yet() -> None:
    open_now, most = 0, 0
    three = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if open_now == 3:
            three.set()
        await three.wait()
        open_now -= 1
        return web.Response(body=PNG)

    policy = MediaPolicy(networks=OPEN.networks, max_fetches=3)
    async with serving({"/a": answer}) as address:
        await loader(policy).load([Media("image", f"{address}/a")] * 10)
    assert most == 3


def test_a_loader_serves_several_event_loops() -> None:
    made = loader(MediaPolicy(max_fetches=1))
    results: list[Medium] = []

    def run() -> None:
        results.extend(asyncio.run(made.load([Media("image", PNG)] * 5)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 20
    assert len(set(results)) == 1


async def test_a_request_that_is_given_up_frees_its_thread() -> None:
    started = threading.Event()

    class Endless(io.BytesIO):
        def read(self, *size: Any) -> bytes:
            started.set()
            return super().read(*size)

    gif = gif_of_dots(9_000)
    made = loader(MediaPolicy(workers=1))
    task = asyncio.create_task(made.load([Media("video", Endless(gif))] * 20))
    await asyncio.to_thread(started.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(made.load([Media("image", PNG)]), 30)


async def test_one_bad_medium_gives_the_others_up() -> None:
    never = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response(body=PNG)

    async with serving({"/a": hang}) as address:
        media = [Media("image", f"{address}/a"), Media("image", b"no")]
        with pytest.raises(MediaError, match="image 2"):
            await asyncio.wait_for(loader(OPEN).load(media), 25)  # an address may take 30 seconds


async def test_the_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module, kind, source in (
        ("PIL", "image", PNG),
        ("av", "audio", sound(sine(440, 0.1, 8000)[None], 8000)),
        ("aiohttp", "image", "http://example.com/a.png"),
    ):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, module, None)
            with pytest.raises(MediaError, match=re.escape("pip install 'quire-llm[media]'")):
                await load_one(kind, source)
