"""Small PDFs, written by hand."""

from __future__ import annotations

import io
import struct

from PIL import Image
from PIL.TiffImagePlugin import STRIPBYTECOUNTS, STRIPOFFSETS, TiffImageFile

Objects = list[bytes]

ENCRYPTION = (
    b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <" + b"41" * 32 + b"> /U <" + b"42" * 32
) + b"> >> /ID [<00> <00>]"


def text_pdf(*pages: str, trailer: bytes = b"") -> bytes:
    """Each page has one line, in Helvetica."""
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    contents = [f"BT /F1 24 Tf 40 100 Td ({page}) Tj ET".encode() for page in pages]
    return _pdf(contents, b"/Font << /F1 3 0 R >>", [font], trailer)


def japanese_pdf(text: str) -> bytes:
    """A line in a font that is not in the file, under a predefined CMap."""
    font = (
        b"<< /Type /Font /Subtype /Type0 /BaseFont /HeiseiMin-W3 /Encoding /UniJIS-UCS2-H "
        b"/DescendantFonts [<< /Type /Font /Subtype /CIDFontType0 /BaseFont /HeiseiMin-W3 "
        b"/CIDSystemInfo << /Registry (Adobe) /Ordering (Japan1) /Supplement 2 >> "
        b"/FontDescriptor << /Type /FontDescriptor /FontName /HeiseiMin-W3 /Flags 4 "
        b"/FontBBox [0 0 1000 1000] /ItalicAngle 0 /Ascent 800 /Descent -200 /StemV 80 >> >>] >>"
    )
    code = text.encode("utf-16-be").hex().encode()
    content = b"BT /F1 24 Tf 40 100 Td <" + code + b"> Tj ET"
    return _pdf([content], b"/Font << /F1 3 0 R >>", [font])


def scanned_pdf(colour: str, pages: int = 1) -> bytes:
    """Pages that are a picture in JPEG 2000, without text."""
    held = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(held, "JPEG2000")
    kind = "/ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /JPXDecode"
    return _picture_pdf(held.getvalue(), (64, 64), kind, pages)


def faxed_pdf(black: Image.Image) -> bytes:
    """A page that is a picture in JBIG2, as scanners write it; what is lit in `black` is black there."""
    kind = "/ColorSpace /DeviceGray /BitsPerComponent 1 /Filter /JBIG2Decode"
    return _picture_pdf(_jbig2(black), black.size, kind)


def _jbig2(black: Image.Image) -> bytes:
    """An embedded stream (ITU-T T.88) of two segments: of the page, and of one generic region.

    The region is in the MMR coding of fax machines, which TIFF has as well.
    """
    held = io.BytesIO()
    black.convert("1").save(held, "TIFF", compression="group4")
    held.seek(0)
    tags = TiffImageFile(held).tag_v2
    (at,), (size,) = tags[STRIPOFFSETS], tags[STRIPBYTECOUNTS]
    coded = held.getvalue()[at : at + size]
    page = struct.pack(">4IBH", *black.size, 0, 0, 0, 0)
    region = struct.pack(">4IBB", *black.size, 0, 0, 0, 1)  # at 0, 0; or; MMR
    return _segment(0, 48, page) + _segment(1, 38, region + coded)


def _segment(number: int, kind: int, data: bytes) -> bytes:
    """A segment of page 1 that refers to no other."""
    return struct.pack(">IBBBI", number, kind, 0, 1, len(data)) + data


def _picture_pdf(data: bytes, size: tuple[int, int], kind: str, pages: int = 1) -> bytes:
    head = (
        f"<< /Type /XObject /Subtype /Image /Width {size[0]} /Height {size[1]} {kind} "
        f"/Length {len(data)} >> stream\n"
    )
    image = head.encode() + data + b"\nendstream"
    return _pdf([b"q 200 0 0 200 0 0 cm /I1 Do Q"] * pages, b"/XObject << /I1 3 0 R >>", [image])


def _pdf(contents: Objects, resources: bytes, shared: Objects, trailer: bytes = b"") -> bytes:
    """Object 1 is the catalog, 2 the list of pages, then `shared`, then each page and its content."""
    first = 3 + len(shared)
    kids = b" ".join(f"{first + 2 * index} 0 R".encode() for index in range(len(contents)))
    count = str(len(contents)).encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count " + count + b" /Kids [" + kids + b"] >>",
        *shared,
    ]
    for index, content in enumerate(contents):
        at = str(first + 2 * index + 1).encode()
        page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Resources << " + resources
        objects.append(page + b" >> /Contents " + at + b" 0 R >>")
        length = str(len(content)).encode()
        objects.append(b"<< /Length " + length + b" >> stream\n" + content + b"\nendstream")
    written, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(written))
        written += f"{number} 0 obj ".encode() + one + b" endobj\n"
    table = b"".join(f"{place:010} 00000 n \n".encode() for place in places)
    size = str(len(objects) + 1).encode()
    end = b"xref\n0 " + size + b"\n0000000000 65535 f \n" + table
    end += b"trailer << /Size " + size + b" /Root 1 0 R " + trailer + b" >>\nstartxref\n"
    return written + end + str(len(written)).encode() + b"\n%%EOF\n"
