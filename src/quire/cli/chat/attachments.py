"""Images, videos and sounds that the user of `quire chat` attaches, by a command or by dropping."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quire.cli.chat.files import SHELL_WORD, local_path, unquoted
from quire.errors import MediaError
from quire.media.guard import open_path, scheme_of
from quire.media.placement import Kind
from quire.media.policy import MediaPolicy
from quire.messages import Media, Message

SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "image"),
    ".avif": "image",
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"), "video"),
    **dict.fromkeys((".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".aiff"), "audio"),
}
"""What tells a dropped file's kind; the commands take files of any name."""

_DROPPED = re.compile(rf"""(?<!\S)(?=['"]?(?:/(?!/)|~|file://)){SHELL_WORD}[ \t]*""", re.DOTALL)


def read_sources(kind: Kind, argument: str) -> list[Media]:
    """The media that a command names: one path, as it is or quoted, one address, or several.

    Raises:
        MediaError: one of them cannot be attached; then none is.
    """
    whole = os.path.isfile(os.path.expanduser(argument)) or scheme_of(argument) == "data"
    words = re.findall(rf"(?<!\S){SHELL_WORD}", argument, re.DOTALL)
    # What stands between the words can only be a quotation mark without its end, as the apostrophe of
    # a path that was typed as it is: then the whole is one path.
    if whole or "".join(argument.split()) != "".join("".join(words).split()):
        return [Media(kind, _source(argument))]
    return [Media(kind, _source(unquoted(word))) for word in words]


def split_dropped(text: str) -> tuple[list[Media], str]:
    """Split a text into the files that were dropped on the terminal, which pastes their paths, and the rest.

    A dropped file is a word of its own: an absolute path (also with ~ or file://), quoted or escaped
    as terminals do it, with the suffix of a medium, and of a file that exists.

    Raises:
        MediaError: such a file may not be read.
    """
    media: list[Media] = []
    rest, end = "", 0
    for match in _DROPPED.finditer(text):
        if medium := _dropped(match[0]):
            media.append(medium)
            rest, end = rest + text[end : match.start()], match.end()
    return (media, (rest + text[end:]).strip()) if media else ([], text)


def begins_with_dropped(text: str) -> bool:
    """Whether the line begins with a dropped file, whose slash then begins no command."""
    match = _DROPPED.match(text)
    return match is not None and _dropped_path(match[0]) is not None


def _dropped(word: str) -> Media | None:
    path = _dropped_path(word)
    return Media(SUFFIXES[Path(path).suffix.lower()], _source(path)) if path else None


def _dropped_path(word: str) -> str | None:
    path = local_path(unquoted(word.rstrip(" \t")))
    if path is None or Path(path).suffix.lower() not in SUFFIXES:
        return None
    return path if os.path.isabs(path) and os.path.isfile(path) else None


def _source(name: str) -> str:
    """An address as it is, or the absolute path of a file that can be read."""
    scheme = scheme_of(name)
    try:
        if scheme in ("http", "https", "data"):
            return name
        path = local_path(name) if scheme in (None, "file") else None
        if path is None:
            raise MediaError("addresses begin with http:// or https://.")
        open_path(path, MediaPolicy()).close()
        path = os.path.abspath(path)
        path.encode()  # raises here, before a request or a saved chat would have to hold it
        return path
    except UnicodeEncodeError:
        raise MediaError(f"Cannot attach {name}: its name is no valid Unicode.") from None
    except MediaError as error:
        raise MediaError(f"Cannot attach {name}: {error}") from None


# --- messages and what is shown of them -------------------------------------------------------


def user_content(attached: Sequence[Media], text: str) -> str | list[dict[str, Any]]:
    """A user message's content: the attachments before the text, as parts."""
    if not attached:
        return text
    parts: list[dict[str, Any]] = [
        {"type": medium.kind, medium.kind: medium.source} for medium in attached
    ]
    return [*parts, {"type": "text", "text": text}]


def name_of(medium: Media) -> str:
    """A short name: a file's, or what an address says."""
    source = medium.source
    if not isinstance(source, (str, os.PathLike)):
        return "data"
    name = os.fsdecode(source)
    scheme = scheme_of(name)
    if scheme is None:
        return Path(name).name
    return "data" if scheme == "data" else name


def labels(media: Sequence[Media]) -> str:
    """Media as the history shows them."""
    return " ".join(f"[{medium.kind}: {name_of(medium)}]" for medium in media)


def shown_text(message: Message) -> str:
    """A message's text with a label where a medium stands."""
    texts = [
        f"{labels([part])} " if isinstance(part, Media) else part.text for part in message.parts
    ]
    return "".join(texts).rstrip(" ")
