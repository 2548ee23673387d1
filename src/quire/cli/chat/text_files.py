"""Files whose text goes with a message: texts, documents and PDFs, told by their content, not their names.

In a message they stand as the chat page writes them: the name, and the text in a fence below it.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from quire.errors import MediaError
from quire.messages import Media

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

MOST_TEXT = 20_000_000
"""Bytes of a text, and characters of a PDF's."""
MOST_PDF = 100_000_000
MOST_PAGES = 20
"""Pages of a PDF that are sent as pictures."""
_LONGEST_SIDE = 1568
"""Pixels of such a picture: small print is read, and most models scale larger ones down."""
_DOCUMENTS = (b"PK\3\4", b"\xd0\xcf\x11\xe0")
"""How zip archives begin, and what Microsoft had before."""
PDF_EXTRA = "pip install 'quire-llm[pdf]'"

_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_CONTROLS = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
"""Not those of lines, tabs, pages and colours."""
_FOREIGN = 0.3
"""The most letters beyond ASCII in a text of one byte a letter."""
_QUOTED_FILE = re.compile(r"([^\n]{1,255}):\n\n(`{3,})\n(.*?)\n\2(?:\n\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class TextFile:
    """The text of one file, by the file's name."""

    name: str
    text: str

    def quoted(self) -> str:
        """The file as a part of a message, in a fence that its text has none of."""
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"^`{3,}", self.text, re.M))])
        return f"{self.name}:\n\n{fence}\n{self.text.removesuffix(chr(10))}\n{fence}"

    def label(self) -> str:
        """The file in a few words."""
        return f"{self.name}, {count_lines(self.text)}"


def count_lines(text: str) -> str:
    """How many lines a text has, in words."""
    lines = text.removesuffix("\n").count("\n") + 1
    return f"{lines:,} line{'' if lines == 1 else 's'}"


def size_of(text: str) -> str:
    """How long a text is, in words."""
    return count_lines(text) if "\n" in text.removesuffix("\n") else f"{len(text):,} characters"


def split_quoted(text: str) -> tuple[list[TextFile], str]:
    """Split a message's text into the files at its beginning, and what the user has written."""
    files: list[TextFile] = []
    while match := _QUOTED_FILE.match(text):
        files.append(TextFile(match[1], match[3]))
        text = text[match.end() :]
    return files, text


def read_text_file(path: Path) -> TextFile:
    """The text of a file, of a document, or of a PDF's pages.

    Raises:
        MediaError: it cannot be read, is no text, or is too large.
    """
    size = _size_of(path)
    with _opened(path) as file:
        start = file.read(1024)
        if start.startswith(_DOCUMENTS):
            return TextFile(path.name, _document_text(path))
        if b"%PDF-" in start:
            return TextFile(path.name, _pdf_text(path, size))
        if size > MOST_TEXT:
            raise MediaError(f"{path.name} has {size:,} bytes; of a text {MOST_TEXT:,} are read.")
        text = text_of(start + file.read())
    if text is None:
        raise MediaError(
            f"{path.name} is no text or document, and no picture, sound or video by its name."
        )
    if not text.strip():
        raise MediaError(f"{path.name} is empty.")
    return TextFile(path.name, text)


def _document_text(path: Path) -> str:
    # Few chats have documents: their reader comes with the first one.
    from quire.cli.chat.documents.reading import document_text

    try:
        text = document_text(path)
    except MediaError as error:
        raise MediaError(f"Cannot read {path.name}: {error}.") from None
    except OSError as error:
        raise MediaError(_why(path, error)) from None
    if not text:
        raise MediaError(f"{path.name} holds no text.")
    return text


def text_of(content: bytes) -> str | None:
    """The text that some bytes are; None if they are none."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    text = _decoded(content, encoding or "utf-8")
    if text is None and encoding is None and _is_western(content):
        text = _decoded(content, "cp1252")
    if text is None or _CONTROLS.search(text):
        return None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_western(content: bytes) -> bool:
    """Whether this may be an older file of a western language."""
    return sum(byte > 127 for byte in content) <= len(content) * _FOREIGN


def _size_of(path: Path) -> int:
    if os.path.isdir(path):
        raise MediaError(f"{path} is a folder: {path / '*'} takes the files in it.")
    try:
        return path.stat().st_size
    except (OSError, ValueError) as error:
        raise MediaError(_why(path, error)) from None


def _opened(path: Path) -> io.BufferedReader:
    try:
        if not path.is_file():  # a pipe would be waited for
            raise MediaError(f"{path} is no plain file.")
        return path.open("rb")
    except OSError as error:
        raise MediaError(_why(path, error)) from None


def _why(path: Path, error: Exception) -> str:
    return f"Cannot read {path}: {getattr(error, 'strerror', None) or error}."


# --- PDFs ---------------------------------------------------------------------------------------------


def _pdf_text(path: Path, size: int) -> str:
    if size > MOST_PDF:
        raise MediaError(f"{path.name} has {size:,} bytes; of a PDF {MOST_PDF:,} are read.")
    pages: list[str] = []
    length = 0
    with closing(_open_pdf(path)) as document:
        for number in range(len(document)):
            with closing(document[number]) as page, closing(page.get_textpage()) as text:
                written = text.get_text_bounded().replace("\r\n", "\n").strip()
            length += len(written)
            if length > MOST_TEXT:
                raise MediaError(f"{path.name} has more than {MOST_TEXT:,} characters.")
            if written:
                pages.append(f"[page {number + 1}]\n{_CONTROLS.sub('', written)}")
    if not pages:
        raise MediaError(
            f"{path.name} has no text, only pictures of it: /image sends its pages to a model that sees."
        )
    return "\n\n".join(pages)


def is_pdf(path: str) -> bool:
    """Whether a file is a PDF, by its content."""
    try:
        with open(path, "rb") as file:
            return b"%PDF-" in file.read(1024)
    except (OSError, ValueError):
        return False


def pdf_pages(path: Path) -> list[Media]:
    """The first pages of a PDF as pictures.

    Raises:
        MediaError: it cannot be read, or what reads it is not installed.
    """
    return [Media("image", source) for source in _drawn(path)]


def _drawn(path: Path) -> Iterator[str]:
    if find_spec("PIL") is None:  # pypdfium2 hands its pictures over as Pillow's
        raise MediaError(
            f"{path.name} is a PDF; to draw those: pip install 'quire-llm[pdf,media]'."
        )
    with closing(_open_pdf(path)) as document:
        for number in range(min(len(document), MOST_PAGES)):
            with closing(document[number]) as page:
                scale = _LONGEST_SIDE / max(*page.get_size(), 1)
                picture = page.render(scale=scale).to_pil()
            data = io.BytesIO()
            picture.save(data, "PNG")
            yield f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _open_pdf(path: Path) -> PdfDocument:
    try:
        from pypdfium2 import PdfDocument, PdfiumError
    except ImportError:
        raise MediaError(f"{path.name} is a PDF; to read those: {PDF_EXTRA}.") from None
    try:
        return PdfDocument(path)
    except PdfiumError as error:
        locked = "password" in str(error).lower()
        why = "it is locked with a password" if locked else "it is damaged, or no PDF"
        raise MediaError(f"Cannot read {path.name}: {why}.") from None
