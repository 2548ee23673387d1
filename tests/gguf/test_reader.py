"""The reader of GGUF files: what it reads of a sound file, and headers that are wrong.

None may end in anything but an error of quire's own, at once and in little memory.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from quire.errors import UnsupportedModelError, WeightsError
from quire.gguf.reader import GgufFile, StringList
from quire.gguf.tensor_types import REFUSED_TYPES
from tests.gguf.raw_files import (
    ARRAY,
    BOOL,
    F32,
    F64,
    HUGE,
    I32,
    MOST,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Opener,
    Raw,
    array,
    entry,
    header,
    little_memory,
    number,
    text,
)
from tests.gguf.writing import write_file

# ---- what a sound file says


def test_values_of_all_types(tmp_path: Path) -> None:
    """As `gguf` writes them. Lists of numbers are arrays, and texts of a list stay bytes."""
    scalars: dict[str, Any] = {
        "u8": np.uint8(255), "i8": np.int8(-128), "u16": np.uint16(65_535), "i16": np.int16(-9),
        "u32": np.uint32(MOST >> 32), "i32": np.int32(-7), "u64": np.uint64(MOST),
        "i64": np.int64(-(1 << 63)), "f32": np.float32(0.1), "f64": np.float64(0.1),
        "yes": True, "no": False, "text": "ä\x00b", "empty": "",
    }  # fmt: skip
    lists: dict[str, list[Any]] = {
        "numbers": [np.int32(one) for one in (3, -1, 2)],
        "scores": [np.float32(one) for one in (0.5, -1.5)],
        "flags": [True, False, True],
        "texts": ["a", "", "ß"],
    }
    found = GgufFile(write_file(tmp_path / "a.gguf", {**scalars, **lists}, {})).metadata
    assert list(found) == [*scalars, *lists]
    for key, value in scalars.items():
        expected = value if isinstance(value, str | bool) else value.item()
        assert found[key] == expected
        assert type(found[key]) is type(expected)
    for key in ("numbers", "scores", "flags"):
        values = found[key]
        assert isinstance(values, np.ndarray)
        assert values.tolist() == lists[key]
    texts = found["texts"]
    assert isinstance(texts, StringList)
    assert (len(texts), list(texts)) == (3, [b"a", b"", "ß".encode()])


def test_a_text_that_is_no_utf8_is_read(opened: Opener) -> None:
    """A description may be broken. Tokens are bytes anyway."""
    keys = [entry(b"name", STRING, text(b"caf\xe9")), array(b"list", STRING, 1, text(b"\xff"))]
    found = opened(header(keys)).metadata
    assert found["name"] == "caf\ufffd"
    values = found["list"]
    assert isinstance(values, StringList)
    assert list(values) == [b"\xff"]


def test_empty_lists(opened: Opener) -> None:
    found = opened(header([array(b"a", STRING, 0), array(b"b", F32, 0)])).metadata
    assert [
        len(value) for value in found.values() if isinstance(value, StringList | np.ndarray)
    ] == [
        0,
        0,
    ]


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3(opened: Opener, version: int) -> None:
    file = opened(header([], [Raw()], start=struct.pack("<4sI", b"GGUF", version)), 128)
    assert file.tensors["w"].shape == (32,)


def test_a_file_without_tensors_needs_no_data(opened: Opener) -> None:
    """A vocabulary, or the first part of a model in several files."""
    file = opened(header([number(b"a", U32, 1)]))
    assert (dict(file.metadata), dict(file.tensors)) == ({"a": 1}, {})
    assert file.header_size == file.size


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_tensors_are_where_gguf_has_them(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "a.gguf"
    matrix = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    blocks = gguf.quants.quantize(matrix, GGMLQuantizationType.Q4_1)
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    writer.add_tensor("odd", matrix[0, :5])
    writer.add_tensor("blocks", blocks, raw_dtype=GGMLQuantizationType.Q4_1)
    writer.add_tensor("experts", matrix.reshape(2, 3, 64).astype(np.float16))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    file, reader = GgufFile(path), GGUFReader(path)
    assert {name: (one.type.name, one.shape) for name, one in file.tensors.items()} == {
        "odd": ("F32", (5,)),
        "blocks": ("Q4_1", (6, 64)),
        "experts": ("F16", (2, 3, 64)),
    }
    for tensor in reader.tensors:
        found = file.tensors[tensor.name]
        assert (found.start, found.size) == (tensor.data_offset, tensor.n_bytes)
        assert file.data(found).tobytes() == tensor.data.tobytes()
    assert file.header_size <= file.tensors["odd"].start < file.header_size + alignment
    assert bytes(file.header()) == path.read_bytes()[: file.header_size]


# ---- magic and version


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GG", "no GGUF file: it begins with b'GG'"),
        (b"GGML" + bytes(60), "no GGUF file: it begins with b'GGML'"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "no GGUF file"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a git-lfs pointer"),
        (b"GGUF", "cut short, or damaged: the version"),
    ],
)
def test_what_is_no_gguf(opened: Opener, content: bytes, words: str) -> None:
    opened.refuses(words, content)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (struct.pack("<4sI", b"GGUF", 1), "version 1, of August 2023"),
        (struct.pack("<4sI", b"GGUF", 0), "version 0, and quire reads 2 and 3"),
        (struct.pack("<4sI", b"GGUF", 4), "version 4, and quire reads 2 and 3"),
        (struct.pack(">4sI", b"GGUF", 2), "numbers are big-endian"),
        (struct.pack(">4sI", b"GGUF", 3), "numbers are big-endian"),
        (struct.pack(">4sI", b"FUGG", 3), "a big-endian GGUF file"),
    ],
)
def test_versions_and_byte_orders_that_are_not_read(
    opened: Opener, start: bytes, words: str
) -> None:
    opened.refuses(words, header(start=start), error=UnsupportedModelError)


# ---- counts and lengths: checked before any loop, and before anything is made of them


@pytest.mark.parametrize("count", [3, 1 << 31, HUGE, 1 << 63, MOST])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("keys", "the number of metadata keys"),
        ("tensors", "tensors"),
        ("texts", "the length of k"),
        ("numbers", "the length of k"),
        ("bytes", "k would have"),
        ("key", "a metadata key has"),
        ("name", "the name of a tensor has"),
    ],
)
def test_a_count_that_the_file_is_too_short_for(
    opened: Opener, kind: str, words: str, count: int
) -> None:
    length = struct.pack("<Q", count if count > 3 else 1 << 17)  # of things of one byte
    heads = {
        "keys": header([number(b"a", U8, 1)], key_count=count),
        "tensors": header(tensor_count=count),
        "texts": header([array(b"k", STRING, count, text(b"ab"))]),
        "numbers": header([array(b"k", F64, count, bytes(16))]),
        "bytes": header([entry(b"k", STRING, length + b"ab")]),
        "key": header(key_count=1) + length + bytes(20),
        "name": header(tensor_count=1) + length + bytes(20),
    }
    with little_memory():
        opened.refuses(words, heads[kind])


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (header(key_count=1 << 25), "the number of metadata keys is 33554432; at most"),
        (header(tensor_count=1 << 25), "the number of tensors is 33554432; at most"),
        (header([array(b"k", STRING, 1 << 25)]), "the length of k is 33554432; at most"),
        (header([entry(b"k", STRING, struct.pack("<Q", 1 << 28))]), "k has 268435456 bytes"),
    ],
)
def test_a_count_that_no_model_has(opened: Opener, head: bytes, words: str) -> None:
    """A file with a hole of any size costs nothing to make."""
    opened.path.write_bytes(head)
    os.truncate(opened.path, 1 << 30)
    with little_memory(), pytest.raises(WeightsError, match=words):
        GgufFile(opened.path)


@pytest.mark.parametrize("length", [100, HUGE, 1 << 63, MOST - 7, MOST])
def test_a_list_of_texts_that_ends_behind_the_file(opened: Opener, length: int) -> None:
    content = struct.pack("<Q", length) + text(b"a")
    head = header([array(b"k", STRING, 2, content)]) + bytes(40)
    with little_memory():
        opened.refuses("k ends after the end of the file", head)


# ---- metadata


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([array(b"k", ARRAY, 1, struct.pack("<IQ", U8, 0))], "k has lists of lists"),
        ([array(b"k", 13, 1, bytes(8))], "k has elements of the unknown type 13"),
        ([entry(b"k", 13, bytes(8))], "k has the unknown type 13"),
        ([entry(b"k", (1 << 32) - 1, bytes(8))], "k has the unknown type 4294967295"),
        ([number(b"k", U8, 1), number(b"k", U32, 1)], "the metadata key k is there twice"),
        ([number(b"", U8, 1), bytes(20)], "a metadata key has 0 bytes"),
        ([number(b"x" * 70_000, U8, 1)], "a metadata key has 70000 bytes"),
        ([number(b"\xff", U8, 1)], r"a metadata key is no UTF-8: b'\\xff'"),
    ],
)
def test_metadata_that_is_wrong(opened: Opener, keys: Sequence[bytes], words: str) -> None:
    opened.refuses(words, header(keys))


ALIGNMENT = b"general.alignment"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (number(ALIGNMENT, U32, 0), "is 0; it must be a power of two"),
        (number(ALIGNMENT, U32, 3), "is 3; it must be a power of two"),
        (number(ALIGNMENT, I32, -32), "is -32; it must be a power of two"),
        (number(ALIGNMENT, BOOL, 1), "is True; it must be a power of two"),
        (number(ALIGNMENT, F32, 32), r"is 32\.0; it must be a power of two"),
        (entry(ALIGNMENT, STRING, text(b"32")), "is '32'; it must be a power of two"),
        (array(ALIGNMENT, U32, 1, struct.pack("<I", 32)), "it must be a power of two"),
        (number(ALIGNMENT, U32, 4), "is 4; it must be 8 to 1048576"),
        (number(ALIGNMENT, U32, 1 << 21), "is 2097152; it must be 8 to 1048576"),
        (number(ALIGNMENT, U32, 1 << 31), "is 2147483648; it must be 8 to 1048576"),
        (number(ALIGNMENT, U64, 1 << 63), "is 9223372036854775808; it must be 8 to 1048576"),
    ],
)
def test_alignments_that_are_wrong(opened: Opener, key: bytes, words: str) -> None:
    opened.refuses(words, header([key], [Raw()]), 128)


@pytest.mark.parametrize("kind", [U16, U32, I32, U64])
def test_an_alignment_may_be_of_any_integer_type(opened: Opener, kind: int) -> None:
    head = header([number(ALIGNMENT, kind, 4096)], [Raw()])
    assert opened(head, 128, 4096).tensors["w"].start == 4096


# ---- tensors


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([Raw(dimensions=())], "w has 0 dimensions"),
        ([Raw(dimensions=(1, 1, 1, 1, 1))], "w has 5 dimensions"),
        ([Raw(dimensions=(0,))], r"w has the impossible dimensions \[0\]"),
        ([Raw(dimensions=(32, 0))], "w has the impossible dimensions"),
        ([Raw(dimensions=(1 << 63,))], "w has the impossible dimensions"),
        ([Raw(dimensions=(1 << 32, 1 << 31))], "w has the impossible dimensions"),
        ([Raw(dimensions=(1 << 32, 1 << 32))], "w has the impossible dimensions"),  # 0 in 64 bits
        ([Raw(dimensions=(MOST, MOST, MOST, MOST))], "w has the impossible dimensions"),
        ([Raw(dimensions=((1 << 61) + 32,))], "w of shape .* is too large"),  # 128 in 64 bits
        ([Raw(dimensions=(1 << 59,))], "cut short: w ends at byte 230584300921369"),
        ([Raw(dimensions=(96, 4), type=12)], "rows of 96 weights, .* no whole blocks of Q4_K"),
        ([Raw(dimensions=(16, 2), type=2)], "rows of 16 weights, .* no whole blocks of Q4_0"),
        ([Raw(b"")], "the name of a tensor has 0 bytes; it must have 1 to 63"),
        ([Raw(b"x" * 64)], "the name of a tensor has 64 bytes; it must have 1 to 63"),
        ([Raw(b"\xff")], "the name of a tensor is no UTF-8"),
        ([Raw(), Raw(offset=128)], "two tensors are named w"),
        ([Raw(offset=31)], "w begins at 31, which is no multiple of 32"),
        ([Raw(offset=16)], "w begins at 16, which is no multiple of 32"),
        ([Raw(offset=MOST)], "w begins at 18446744073709551615, which is no multiple"),
        ([Raw(offset=MOST - 31)], "cut short: w ends at byte 18446744073709551"),
        ([Raw(offset=(1 << 63) - 32)], "cut short: w ends at byte 92233720368547"),
        ([Raw(offset=160)], "cut short: w ends at byte 352, and the file has 320"),
        ([Raw(), Raw(b"v")], "the bytes of w and v overlap"),
        ([Raw(b"v", offset=96), Raw()], "the bytes of w and v overlap"),
        ([Raw(b"v", offset=32, dimensions=(8,)), Raw()], "the bytes of w and v overlap"),
    ],
)
def test_tensors_that_are_wrong(opened: Opener, tensors: Sequence[Raw], words: str) -> None:
    with little_memory():
        opened.refuses(words, header([], tensors), 256)


def test_a_name_of_63_bytes(opened: Opener) -> None:
    assert "x" * 63 in opened(header([], [Raw(b"x" * 63)]), 128).tensors


@pytest.mark.parametrize(
    ("number", "words"),
    [
        *((one, f"w is {name}, ") for one, (name, _) in REFUSED_TYPES.items()),
        (31, "Q4_0_4_4, .*: take the model's Q4_0"),
        (43, "w has the type 43, which llama.cpp has not"),
        (138, "the file is a fork's"),
        ((1 << 32) - 1, "w has the type 4294967295"),
    ],
)
def test_types_that_are_not_read(opened: Opener, number: int, words: str) -> None:
    """llama.cpp #10757, for one, ended in a crash."""
    head = header([], [Raw(dimensions=(256,), type=number)])
    opened.refuses(words, head, 4096, UnsupportedModelError)
