"""From the media of a prompt to decoded values, off the event loop.

Addresses are fetched on the caller's event loop, everything else happens in a few threads of the
loader's own: in the default executor, decoding would hold up whatever else an application runs
there. The texts of errors are quire's own: what a library says goes to the log, at level debug.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

from quire.arguments import DataArguments, ModelArguments
from quire.errors import EngineClosedError, MediaError
from quire.machine.memory import map_large_blocks
from quire.media.audio import from_waveform, is_waveform, read_sound
from quire.media.fetch import (
    Fetched,
    Resolver,
    fetch_url,
    http_library,
    is_encoded,
    is_url,
    open_source,
    plain_source,
    resolve_host,
)
from quire.media.frames import FrameList, is_frame_list, picture_form, read_animation
from quire.media.guard import too_large
from quire.media.images import from_array, is_pillow_image, prepared, read_picture
from quire.media.placement import Kind
from quire.media.policy import MediaPolicy, Watch
from quire.media.values import Clip, Medium, Picture, Pixels, Sound
from quire.media.video import read_video
from quire.messages import Media

logger = logging.getLogger("quire")

T = TypeVar("T")

_NICENESS = 5
"""Decoding threads get about a third of the time of others that want the same core."""


class MediaLoader:
    """Fetches and decodes media within a policy. It may be used from any number of event loops.

    Once closed it stays closed.

    Args:
        model_args: the sizes, rates and lengths that media are brought to.
        data_args: `media_dir`, where relative paths are looked for first.
        policy: where media may come from, and limits.
        resolver: gives the addresses of a host; the system's by default.
        tls: whom to trust for https; the system's authorities by default.
    """

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments | None = None,
        policy: MediaPolicy | None = None,
        *,
        resolver: Resolver = resolve_host,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._args = model_args
        self._folder = None if data_args is None else data_args.media_dir
        self._policy = policy or MediaPolicy()
        self._resolver = resolver
        self._tls = tls
        self._pool = ThreadPoolExecutor(
            self._policy.workers, "quire-media", initializer=_lower_priority
        )
        self._closed = threading.Event()
        map_large_blocks()
        self._lock = threading.Lock()  # held for a look-up
        self._limits: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    async def load(self, items: Sequence[Media]) -> list[Medium]:
        """Fetch and decode media, in order.

        Raises:
            MediaError: one of them cannot be used; the text says which and why. The others are
                given up.
            EngineClosedError: the loader is closed, or was while it worked.
        """
        if self._closed.is_set():
            raise EngineClosedError("The engine was closed.")
        seen: Counter[str] = Counter()
        tasks: list[asyncio.Task[Medium]] = []
        for item in items:
            seen[item.kind] += 1
            label = f"{item.kind} {seen[item.kind]}{_named(item.source)}"
            tasks.append(asyncio.ensure_future(self._load(item, label)))
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def close(self) -> None:
        """End the threads. Whoever waits for a medium gets an EngineClosedError.

        Work that is queued is not cancelled, since its futures' cancellation would look like the
        callers' own; it ends as soon as it begins.
        """
        self._closed.set()
        self._pool.shutdown(wait=False)

    async def _load(self, item: Media, label: str) -> Medium:
        try:
            async with self._limit():
                source = plain_source(item.source)
                if isinstance(source, (Picture, Clip, Sound)):
                    return _of_kind(source, item.kind)
                if item.kind == "video" and not is_encoded(source) and is_frame_list(source):
                    return await self._load_frames(source)
                source = await self._fetched(source, item.kind)
                read = {"image": self._picture, "video": self._video, "audio": self._sound}
                return await self._in_thread(read[item.kind], source)
        except MediaError as error:
            raise MediaError(f"{label}: {error}") from None

    def _limit(self) -> asyncio.Semaphore:
        """The number of media that may be loaded at once for this event loop.

        Media wait here before they are fetched, so that those waiting hold no data yet.
        """
        with self._lock:
            loop = asyncio.get_running_loop()
            if loop not in self._limits:
                self._limits[loop] = asyncio.Semaphore(self._policy.max_fetches)
            return self._limits[loop]

    async def _fetched(self, source: Any, kind: Kind) -> Any:
        if not is_url(source):
            return source
        if sys.modules.get("aiohttp") is None:  # else a fetch would queue behind decoders here
            await self._in_thread(lambda *_: http_library(), source)
        return await fetch_url(source, kind, self._policy, self._resolver, self._tls)

    async def _load_frames(self, source: Any) -> Clip:
        frames = await self._in_thread(lambda s, _: FrameList(s, self._args, self._policy), source)
        sources = await self._fetched_frames([plain_source(taken) for taken in frames.taken])

        def decode(sources: Any, watch: Watch) -> Clip:
            return frames.read(sources, lambda one: self._frame(one, watch), watch)

        return await self._in_thread(decode, sources)

    async def _fetched_frames(self, sources: Sequence[Any]) -> list[Any]:
        """Fetch the frames that are addresses, all of them within the limits of one medium."""
        fetched: list[Any] = []
        held = 0
        try:
            async with asyncio.timeout(self._policy.fetch_seconds):
                for source in sources:
                    fetched.append(await self._fetched(source, "image"))
                    held += len(fetched[-1].getbuffer()) if isinstance(fetched[-1], Fetched) else 0
                    if held > self._policy.max_bytes:
                        raise too_large(self._policy.max_bytes)
        except TimeoutError:
            raise MediaError(
                f"its frames did not come within {self._policy.fetch_seconds:g} seconds."
            ) from None
        return fetched

    async def _in_thread(self, work: Callable[[Any, Watch], T], source: Any) -> T:
        """Run `work` in a thread of the pool, which gives up when the caller is cancelled.

        Raises:
            EngineClosedError: the loader is closed.
        """
        watch = Watch(self._policy.decode_seconds, self._closed)
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._pool, _guarded, work, source, watch)
        except RuntimeError:  # the pool takes no more work: it was closed, or the interpreter ends
            raise EngineClosedError("The engine was closed.") from None
        try:
            return await future
        finally:
            watch.give_up()

    def _picture(self, source: Any, watch: Watch) -> Picture:
        low, high = self._args.image_min_pixels, self._args.image_max_pixels
        return Picture.of(self._pixels(source, low, high, watch))

    def _frame(self, source: Any, watch: Watch) -> Pixels:
        low, high = self._args.video_min_pixels, self._args.video_max_pixels
        return self._pixels(source, low, high, watch)

    def _pixels(self, source: Any, low: int, high: int, watch: Watch) -> Pixels:
        if is_pillow_image(source):
            return prepared(source, low, high, self._policy)
        if hasattr(source, "__array__"):
            return from_array(source, low, high, self._policy)
        with self._opened(source, "image") as file:
            return read_picture(file, low, high, self._policy, watch)

    def _video(self, source: Any, watch: Watch) -> Clip:
        if is_pillow_image(source):
            return FrameList([source], self._args, self._policy).read(
                [source], lambda one: self._frame(one, watch), watch
            )
        with self._opened(source, "video") as file:
            form = picture_form(file)
            if form is not None:
                return read_animation(file, form, self._args, self._policy, watch)
            return read_video(file, self._args, self._policy, watch)

    def _sound(self, source: Any, watch: Watch) -> Sound:
        rate = self._args.audio_sampling_rate
        if not is_encoded(source) and is_waveform(source):
            return from_waveform(source, rate, self._policy, watch)
        with self._opened(source, "audio") as file:
            return read_sound(file, rate, self._policy, watch)

    def _opened(self, source: Any, kind: Kind) -> BinaryIO:
        if not is_encoded(source):
            raise MediaError(f"no {kind} can be read from a value of type {type(source).__name__}.")
        if isinstance(source, str) and is_url(source):
            raise MediaError("an address cannot stand here.")
        return open_source(source, kind, self._policy, self._folder)


def _lower_priority() -> None:
    """Let event loops and engines run before this thread where there are too few cores for all."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _guarded(work: Callable[[Any, Watch], T], source: Any, watch: Watch) -> T:
    """Do the work; whatever a library raises becomes an error in quire's own words.

    A library's text may hold paths, addresses or the data itself.
    """
    watch.start()
    try:
        return work(source, watch)
    except (MediaError, EngineClosedError):
        raise
    except MemoryError:
        raise MediaError("there is not enough memory for it.") from None
    except Exception:
        logger.debug("A medium could not be decoded", exc_info=True)
        watch.check()
        raise MediaError("it cannot be decoded: the data is damaged or incomplete.") from None


def _of_kind(medium: Medium, kind: Kind) -> Medium:
    if medium.kind != kind:
        raise MediaError(f"it is decoded already, and no {kind}.")
    return medium


def _named(source: Any) -> str:
    """A short name for an error's text; never the data, and never an address, which may hold a key."""
    if isinstance(source, os.PathLike):
        source = os.fsdecode(os.fspath(source))
    if not isinstance(source, str) or source[:5].lower() == "data:":
        return ""
    if is_url(source):
        return " (an address)"
    name = source[-300:].rsplit("/", 1)[-1]
    return f" ({name[:60]!r})" if name else ""
