"""Forms with a file, in pieces of any size."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from quire.server.batches.multipart import FormReader, boundary_of
from quire.server.errors import BadRequest

FILE = b"\r\n--b\r\n--bound\r\n\r\n--boundar\r\nline\r\n"
FORM = (
    b"preamble\r\n--boundary \r\n"
    b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b"--boundary\r\n"
    b'content-disposition: form-data; name="file"; filename="a \\"b\\".jsonl"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + FILE + b"\r\n--boundary--\r\nepilogue"
)


async def read(form: bytes, size: int) -> tuple[FormReader, bytes]:
    content = bytearray()

    async def take(piece: bytes) -> None:
        content.extend(piece)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(form), size):
            yield form[start : start + size]

    reader = FormReader(b"boundary", take)
    await reader.read(pieces())
    return reader, bytes(content)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64, 10_000])
async def test_a_form_is_the_same_in_pieces_of_any_size(size: int) -> None:
    reader, content = await read(FORM, size)
    assert reader.fields == {"purpose": "batch"}
    assert reader.file_name == 'a "b".jsonl'
    assert content == FILE


@pytest.mark.parametrize("end", [*range(0, len(FORM) - 12, 3), len(FORM) - 13])
async def test_a_form_that_is_cut_off_is_refused(end: int) -> None:
    with pytest.raises(BadRequest):
        await read(FORM[:end], 16)


@pytest.mark.parametrize(
    "header",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 71],
)
def test_a_header_without_a_boundary_is_refused(header: str) -> None:
    with pytest.raises(BadRequest, match="with a boundary"):
        boundary_of(header)
    assert boundary_of('multipart/form-data; boundary="a b"; charset=utf-8') == b"a b"
