"""What the user of `quire chat` attaches, by a command or by dropping: media, and files of text."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from quire.cli.chat.files import SHELL_WORD, is_file, local_path, shell_words, unquoted
from quire.cli.chat.text_files import TextFile, is_pdf, pdf_pages, read_text_file, split_quoted
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

_ENDINGS = re.compile(rf"(?:{'|'.join(map(re.escape, SUFFIXES))})(?=\s|\Z)", re.IGNORECASE)
_NAMED = re.compile(rf"(?<!\S)@({SHELL_WORD})", re.DOTALL)
_BEHIND_NAMES = ".,;:!?)"
"""Signs that may stand behind a file's name in a sentence."""
_HEIC = (".heic", ".heif")
_BEGIN = re.compile(r"""(?<!\S)(?=['"]?(?:/(?!/)|~|file://))""", re.IGNORECASE)
_WORD = re.compile(SHELL_WORD, re.DOTALL)
_MOST_MATCHES = 100
_MOST_BLANKS = 50
"""Endings that are tried of a path that was pasted with its blanks as they are."""

Attachment: TypeAlias = Media | TextFile


def read_sources(kind: Kind, argument: str) -> list[Media]:
    """The media that a command names: one path, as it is or quoted, one address, or several.

    The pages of a PDF are images.

    Raises:
        MediaError: one of them cannot be attached; then none is.
    """
    words = [argument] if scheme_of(argument) == "data" else shell_words(argument)
    media: list[Media] = []
    for word in words:
        source = _source(word)
        if kind == "image" and scheme_of(source) is None and is_pdf(source):
            media += pdf_pages(Path(source))
        else:
            media.append(Media(kind, source))
    return media


def read_files(argument: str) -> list[Attachment]:
    """Files of any kind: media by their names, texts, documents and PDFs by their content.

    A name may be a pattern (`src/**/*.py`) of several.

    Raises:
        MediaError: one of them cannot be attached; then none is.
    """
    return [read_file(name) for word in shell_words(argument) for name in _matching(word)]


def _matching(word: str) -> list[str]:
    """The files that a pattern matches; a name that is none is itself."""
    path = local_path(word) if scheme_of(word) is None else None
    if path is None or os.path.lexists(path) or not glob.has_magic(path):
        return [word]
    found = sorted(one for one in glob.iglob(path, recursive=True) if is_file(one))
    if not found:
        raise MediaError(f"No file matches {word}.")
    if len(found) > _MOST_MATCHES:
        raise MediaError(
            f"{word} matches {len(found):,} files; at most {_MOST_MATCHES} go at once."
        )
    return found


def read_file(name: str) -> Attachment:
    """A file of any kind.

    Raises:
        MediaError: it cannot be attached.
    """
    kind = SUFFIXES.get(Path(name).suffix.lower())
    if kind is not None:
        return Media(kind, _source(name))
    path = local_path(name) if scheme_of(name) in (None, "file") else None
    if path is None:
        raise MediaError(f"Cannot attach {name}: files of text are those of this machine.")
    if Path(path).suffix.lower() in _HEIC:
        raise MediaError(_no_heic(path))
    return read_text_file(Path(path))


def split_dropped(text: str) -> tuple[list[Attachment], str]:
    """Split a text into the files that were dropped on the terminal, which pastes their paths, and the rest.

    A dropped file is a word of its own: an absolute path (also with ~ or file://), quoted or escaped
    as terminals do it, or with its blanks as they are, with the suffix of a medium, and of a file that
    exists. A file of text is one where its path begins the message: elsewhere a path is spoken of.

    Raises:
        MediaError: such a file may not be read.
    """
    files: list[Attachment] = []
    rest, end = "", 0
    for match in _BEGIN.finditer(text):
        start = match.start()
        if start < end:
            continue
        found = _dropped_at(text, start, any_file=not (rest + text[end:start]).strip())
        if found is not None:
            path, after = found
            files.append(read_file(path))
            rest, end = rest + text[end:start], after
    return (files, (rest + text[end:]).strip()) if files else ([], text)


def begins_with_dropped(text: str) -> bool:
    """Whether the line begins with a dropped file, whose slash then begins no command."""
    return bool(_BEGIN.match(text)) and _dropped_at(text, 0, any_file=True) is not None


def split_named(text: str) -> tuple[list[Attachment], str]:
    """Split a text into the files that it names with an @ before their paths, and the rest.

    The path stays in the text where something else does. A word whose file is not there is text.

    Raises:
        MediaError: such a file may not be read.
    """
    files: list[Attachment] = []
    rest, between, end = "", "", 0
    for match in _NAMED.finditer(text):
        for word in (match[1], match[1].rstrip(_BEHIND_NAMES)):
            path = local_path(unquoted(word))
            if word and path is not None and is_file(path):
                files.append(read_file(path))
                between += text[end : match.start()]
                rest += text[end : match.start()] + unquoted(word)
                end = match.start(1) + len(word)
                break
    if not files:
        return [], text
    return files, rest + text[end:] if (between + text[end:]).strip() else ""


def _dropped_at(text: str, start: int, *, any_file: bool) -> tuple[str, int] | None:
    """The dropped file whose path begins here, and where the text goes on behind it."""
    ends = [
        end.end() for _, end in zip(range(_MOST_BLANKS), _line_endings(text, start), strict=False)
    ]
    word = _WORD.match(text, start)
    spellings = [] if word is None else [(unquoted(word[0]), word.end())]
    if any_file:  # alone in its line, it needs no suffix
        line = text.find("\n", start)
        ends.append(len(text) if line < 0 else line)
    spellings += [(text[start:end].rstrip(), end) for end in ends]
    for name, end in spellings:
        path = local_path(name)
        if path is None or not os.path.isabs(path) or not is_file(path):
            continue
        suffix = Path(path).suffix.lower()
        if any_file or suffix in SUFFIXES or suffix in _HEIC:
            blanks = re.compile(r"[ \t]*").match(text, end)
            return path, blanks.end() if blanks else end
    return None


def _line_endings(text: str, start: int) -> Iterator[re.Match[str]]:
    line = text.find("\n", start)
    return _ENDINGS.finditer(text, start, len(text) if line < 0 else line)


def _no_heic(name: str) -> str:
    return (
        f"Cannot attach {Path(name).name}: pictures in HEIC are not read; save it as JPEG or PNG "
        "(on a Mac: sips -s format jpeg FILE --out FILE.jpg)."
    )


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
    except UnicodeEncodeError:
        raise MediaError(f"Cannot attach {name}: its name is no valid Unicode.") from None
    except MediaError as error:
        raise MediaError(f"Cannot attach {name}: {error}") from None
    if Path(path).suffix.lower() in _HEIC:
        raise MediaError(_no_heic(path))
    return path


# --- messages and what is shown of them -------------------------------------------------------


def user_content(attached: Sequence[Attachment], text: str) -> str | list[dict[str, Any]]:
    """A user message's content: the attachments before the text, media as parts."""
    media = [one for one in attached if isinstance(one, Media)]
    files = [one.quoted() for one in attached if isinstance(one, TextFile)]
    text = "\n\n".join([*files, text])
    if not media:
        return text
    parts: list[dict[str, Any]] = [
        {"type": medium.kind, medium.kind: medium.source} for medium in media
    ]
    return [*parts, {"type": "text", "text": text}]


def name_of(one: Attachment) -> str:
    """A short name: a file's, or what an address says."""
    if isinstance(one, TextFile):
        return one.name
    source = one.source
    if not isinstance(source, (str, os.PathLike)):
        return "data"
    name = os.fsdecode(source)
    scheme = scheme_of(name)
    if scheme is None:
        return Path(name).name
    return "data" if scheme == "data" else name


def labels(attached: Sequence[Attachment]) -> str:
    """Attachments as the history shows them."""
    return " ".join(
        f"[file: {one.label()}]" if isinstance(one, TextFile) else f"[{one.kind}: {name_of(one)}]"
        for one in attached
    )


def shown_text(message: Message, *, whole: bool = False) -> str:
    """A message's text with a label where a medium stands and, unless it is shown `whole`, a file."""
    shown = ""
    for part in message.parts:
        if isinstance(part, Media):
            shown += f"{labels([part])} "
            continue
        files, text = (
            split_quoted(part.text) if message.role == "user" and not whole else ([], part.text)
        )
        shown += f"{labels(files)} {text}" if files else text
    return shown.rstrip(" ")
