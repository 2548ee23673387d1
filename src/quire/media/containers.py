"""Files of video and sound, opened with PyAV (FFmpeg's libraries) inside limits."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from quire.errors import MediaError
from quire.media.policy import MediaPolicy, Watch, WatchedFile

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,"
    "wav,w64,mp3,flac,aac,aiff,au,caf,amr"
)
"""Containers by FFmpeg's names. Playlists are left out: they name other files and addresses, and
FFmpeg would open these itself, past the guard."""


@contextmanager
def opened(file: BinaryIO, policy: MediaPolicy, watch: Watch) -> Generator[InputContainer]:
    """Open a file of video or sound; the duration in its header is held to the policy."""
    library = av()
    limits = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": "none",
        "max_streams": "64",
        "max_pixels": str(policy.max_frame_pixels),
    }
    try:
        container = library.open(
            WatchedFile(file, watch), "r", options=limits, metadata_errors="ignore", io_open=_refuse
        )
    except MediaError:
        raise
    except (library.FFmpegError, ValueError):
        raise MediaError("it is no video or sound of a known form, or damaged.") from None
    with container:
        check_seconds((container.duration or 0) / library.time_base, policy)
        yield container


def _refuse(*_: object) -> NoReturn:
    raise MediaError("it names other files or addresses, which are not read.")


def video_stream(container: InputContainer, policy: MediaPolicy) -> VideoStream:
    """The first stream of moving pictures; a cover picture is not one.

    Raises:
        MediaError: there is none, or its frames have too many pixels.
    """
    cover = _dispositions().attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not moving:
        raise MediaError("it has no video stream.")
    stream = moving[0]
    check_pixels(stream.codec_context.width, stream.codec_context.height, policy)
    stream.codec_context.options = {"max_pixels": str(policy.max_frame_pixels)}
    stream.codec_context.thread_type = "AUTO"
    stream.codec_context.thread_count = 2  # not one a core: each keeps frames of its own
    return stream


def sound_stream(container: InputContainer) -> AudioStream | None:
    """The first stream of sound; None where there is none."""
    return container.streams.audio[0] if container.streams.audio else None


def check_pixels(width: int, height: int, policy: MediaPolicy) -> None:
    """Refuse frames of more pixels than the policy has.

    Raises:
        MediaError: too many.
    """
    if width * height > policy.max_frame_pixels:
        raise MediaError(
            f"its frames have {width:,} x {height:,} pixels; "
            f"the most are {policy.max_frame_pixels:,}."
        )
    if max(width, height) > policy.max_side:
        raise MediaError(
            f"its frames have {width:,} x {height:,} pixels; a side has {policy.max_side:,} at most."
        )


def check_seconds(seconds: float, policy: MediaPolicy) -> None:
    """Refuse what lasts longer than the policy has.

    Raises:
        MediaError: too long.
    """
    if seconds > policy.max_seconds:
        raise MediaError(f"it lasts more than {policy.max_seconds:,.0f} seconds.")


def _dispositions() -> Any:
    from av.stream import Disposition

    return Disposition


def av() -> Any:
    """PyAV.

    Raises:
        MediaError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise MediaError(
            "videos and sounds need the package av: pip install 'quire-llm[media]'."
        ) from None
    return av
