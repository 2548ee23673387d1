"""Documents by their content: which program they are of, their text, and why one has none."""

from __future__ import annotations

from pathlib import Path

from quire.cli.chat.documents.archive import DAMAGED, LOCKED, Archive, local, related
from quire.cli.chat.documents.open_document import OpenDocumentText
from quire.cli.chat.documents.sheets import sheets_text
from quire.cli.chat.documents.slides import slides_text
from quire.cli.chat.documents.word import WordText
from quire.errors import MediaError

MOST_DOCUMENT = 100_000_000
"""Bytes of a document with its pictures."""

_COMPOUND = b"\xd0\xcf\x11\xe0"
_SAVE = "save it as .docx, .odt or PDF"
_COMPOUND_STREAMS = {
    "EncryptedPackage": LOCKED,
    "WordDocument": f"it is of Word before 2007; {_SAVE}",
    "Workbook": "it is of Excel before 2007; save it as .xlsx or CSV",
    "PowerPoint Document": "it is of PowerPoint before 2007; save it as .pptx or PDF",
}
_OPEN_DOCUMENTS = {
    "presentation": "it is a presentation of OpenDocument; save it as .pptx or PDF",
    "spreadsheet": "it is a workbook of OpenDocument; save it as .xlsx or CSV",
}


def document_text(path: Path) -> str:
    """The text of a Word or OpenDocument text, of a presentation or a workbook.

    Raises:
        MediaError: it is none, is damaged or locked, or too large; the error says what to do.
    """
    size = path.stat().st_size
    if size > MOST_DOCUMENT:
        raise MediaError(f"it has {size:,} bytes; of a document {MOST_DOCUMENT:,} are read")
    with path.open("rb") as file:
        if file.read(len(_COMPOUND)) == _COMPOUND:
            raise MediaError(_why_compound(file.read()))
    with Archive(path) as archive:
        return _text(archive)


def _why_compound(content: bytes) -> str:
    """Why a file is refused that is of Microsoft's format before zip archives."""
    found = (why for name, why in _COMPOUND_STREAMS.items() if name.encode("utf-16-le") in content)
    return next(found, f"it is of an older program; {_SAVE}")


def _text(archive: Archive) -> str:
    if "content.xml" in archive.names and "mimetype" in archive.names:
        return _open_document_text(archive)
    part = related(archive, "", "officeDocument")
    if part is None or part not in archive.names:
        raise MediaError(_why_archive(archive))
    if part.endswith(".bin"):
        raise MediaError("it is a binary workbook; save it as .xlsx or CSV")
    main = archive.xml(part)
    kind = local(main)
    if kind == "document":
        return WordText(archive, part, main).read()
    if kind == "presentation":
        return slides_text(archive, part, main)
    if kind == "workbook":
        return sheets_text(archive, part, main)
    raise MediaError(f"it is of another program; {_SAVE}")


def _open_document_text(archive: Archive) -> str:
    kind = archive.read("mimetype").decode("latin-1").strip().rpartition(".")[2]
    manifest = "META-INF/manifest.xml"
    if manifest in archive.names and b"encryption-data" in archive.read(manifest):
        raise MediaError(LOCKED)
    if not kind.startswith("text"):
        raise MediaError(_OPEN_DOCUMENTS.get(kind, f"it is of another program; {_SAVE}"))
    return OpenDocumentText(archive).read()


def _why_archive(archive: Archive) -> str:
    names = archive.names
    if any(name.endswith(".iwa") for name in names) or "Index.zip" in names:
        return "it is of Pages, Numbers or Keynote; export it as Word or PDF"
    if "[Content_Types].xml" in names:
        return DAMAGED
    return "it is an archive; attach what is in it"
