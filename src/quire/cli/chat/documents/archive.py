"""The zip archive of a document: the parts that are asked for, within limits, and their XML."""

from __future__ import annotations

import codecs
import re
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from quire.errors import MediaError

MOST_ENTRIES = 10_000
MOST_XML = 30_000_000
"""Bytes of all parts that are read, unpacked."""
DEEPEST = 200
"""Elements within one another that are read."""

_MOST_DIRECTORY = 4_000_000
_END, _END_SIZE, _LONGEST_COMMENT = b"PK\5\6", 22, 65_535
_ENCRYPTED = 0x1
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")

DAMAGED = "it is damaged"
LOCKED = "it is locked with a password; save it without one"


class Archive:
    """A zip archive that is read part by part.

    Raises:
        MediaError: it is damaged, or beyond the limits.
    """

    def __init__(self, path: Path) -> None:
        self._left = MOST_XML
        _check_directory(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            raise MediaError(DAMAGED) from None
        self.names = frozenset(self._zip.namelist())

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        """A part, unpacked; its size is looked at before.

        Raises:
            MediaError: it is not there, damaged, locked or too large.
        """
        if name not in self.names:
            raise MediaError(DAMAGED)
        entry = self._zip.getinfo(name)
        if entry.flag_bits & _ENCRYPTED:
            raise MediaError(LOCKED)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MediaError(DAMAGED)
        self._left -= entry.file_size
        if self._left < 0:
            raise MediaError(f"its text unpacks to more than {MOST_XML:,} bytes")
        try:
            # No more than the size that the directory tells is unpacked.
            return self._zip.read(entry)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
            raise MediaError(DAMAGED) from None

    def xml(self, name: str) -> Element:
        """A part's root element.

        Raises:
            MediaError: as `read`, or it is no XML, or brings a document type, which no office program writes.
        """
        text = _decoded(self.read(name))
        if "<!DOCTYPE" in text:
            raise MediaError(DAMAGED)
        try:
            return ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError):
            raise MediaError(DAMAGED) from None

    def xml_if_any(self, name: str | None) -> Element | None:
        """A part's root element; None where there is no such part."""
        return self.xml(name) if name in self.names else None


def _check_directory(path: Path) -> None:
    """Refuse what has too many entries before they are read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_SIZE - _LONGEST_COMMENT))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise MediaError(DAMAGED)
    entries, length = struct.unpack_from("<HI", tail, at + 10)
    if entries > MOST_ENTRIES or length > _MOST_DIRECTORY:
        raise MediaError(f"it has more than {MOST_ENTRIES:,} parts")


def _decoded(content: bytes) -> str:
    mark, encoding = next((one for one in _MARKS if content.startswith(one[0])), (b"", "utf-8"))
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        raise MediaError(DAMAGED) from None


# --- elements, by their names without namespaces: Word's are two sets of the same names -----------------


def local(element: Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def child(element: Element | None, *path: str) -> Element | None:
    """The first child of a name, its first child of the next one, and so on."""
    for name in path:
        if element is None:
            return None
        element = next((one for one in element if local(one) == name), None)
    return element


def check_depth(depth: int) -> None:
    """Refuse what is nested deeper than documents are.

    Raises:
        MediaError: it is.
    """
    if depth > DEEPEST:
        raise MediaError("its parts are nested too deeply")


def attribute(element: Element | None, name: str) -> str | None:
    """An attribute by its name without namespace."""
    if element is None:
        return None
    ending = f"}}{name}"
    return next(
        (value for key, value in element.items() if key == name or key.endswith(ending)), None
    )


def reference(element: Element | None) -> str | None:
    """The id by which an element names what its part refers to: one of a namespace, not its own."""
    items = () if element is None else element.items()
    return next((value for key, value in items if key.endswith("}id")), None)


def branch(alternatives: Element) -> Element:
    """The first of several forms of the same content: the others are for older programs."""
    return next(iter(alternatives), alternatives)


def number(text: str | None, default: int = 0) -> int:
    """A whole number of at most nine digits, or the default."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else default


def relations(archive: Archive, part: str) -> dict[str, tuple[str, str]]:
    """What a part refers to, by ids: the last word of its type, and its part or address."""
    folder, _, name = part.rpartition("/")
    root = archive.xml_if_any(f"{folder}/_rels/{name}.rels" if folder else f"_rels/{name}.rels")
    found: dict[str, tuple[str, str]] = {}
    for one in () if root is None else root:
        kind = (attribute(one, "Type") or "").rpartition("/")[2]
        target = attribute(one, "Target") or ""
        if attribute(one, "TargetMode") != "External":
            target = target[1:] if target.startswith("/") else _joined(folder, target)
        found[attribute(one, "Id") or ""] = (kind, target)
    return found


def related(archive: Archive, part: str, kind: str) -> str | None:
    """The first part of a kind that a part refers to."""
    return next((to for one, to in relations(archive, part).values() if one == kind), None)


def _joined(folder: str, target: str) -> str:
    names = folder.split("/") if folder else []
    for name in target.split("/"):
        if name == "..":
            del names[-1:]
        elif name != ".":
            names.append(name)
    return "/".join(names)
