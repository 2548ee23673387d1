"""The reader of GGUF files: what it reads of a sound file, and every way in which one can be wrong.

Wrong files are written byte by byte. None may end in anything but an error of quire's own, at once and in
little memory.
"""

from __future__ import annotations

import logging
import os
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from quire.errors import ModelError, ModelNotFoundError, UnsupportedModelError, WeightsError
from quire.gguf.config.reading import config_of
from quire.gguf.finding import find_gguf
from quire.gguf.reader import GgufFile, StringList
from quire.gguf.tensor_types import REFUSED_TYPES
from quire.gguf.tokenizer import read_tokenizer
from quire.gguf.weights import GgufSource, open_files
from tests.gguf.writing import write_file, write_tiny

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
"""The types of values."""
FORMS = dict(
    zip((U8, I8, U16, I16, U32, I32, F32, BOOL, U64, I64, F64), "BbHhIif?Qqd", strict=True)
)
HUGE = 1 << 60
MOST = (1 << 64) - 1


# ---- files byte by byte


class Raw(NamedTuple):
    """A tensor as the header has it, with its dimensions in the file's order."""

    name: bytes = b"w"
    dimensions: Sequence[int] = (32,)
    type: int = 0
    offset: int = 0


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    """A key with its value."""
    return text(key) + struct.pack("<I", kind) + value


def number(key: bytes, kind: int, value: float) -> bytes:
    return entry(key, kind, struct.pack(f"<{FORMS[kind]}", value))


def array(key: bytes, kind: int, count: int, content: bytes = b"") -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", kind, count) + content)


def header(
    keys: Sequence[bytes] = (),
    tensors: Sequence[Raw] = (),
    *,
    start: bytes = struct.pack("<4sI", b"GGUF", 3),
    key_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    entries = [
        text(one.name)
        + struct.pack(f"<I{len(one.dimensions)}Q", len(one.dimensions), *one.dimensions)
        + struct.pack("<IQ", one.type, one.offset)
        for one in tensors
    ]
    return start + struct.pack("<QQ", *counts) + b"".join((*keys, *entries))


class Opener:
    """Opens files of a header and some bytes of data."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.gguf"

    def __call__(self, head: bytes, data: int = 0, alignment: int = 32) -> GgufFile:
        padding = bytes(-len(head) % alignment) if data else b""
        self.path.write_bytes(head + padding + bytes(data))
        return GgufFile(self.path)

    def refuses(
        self, words: str, head: bytes, data: int = 0, error: type[ModelError] = WeightsError
    ) -> None:
        """Check that the file is refused in these words, which follow its path."""
        with pytest.raises(error, match=words) as caught:
            self(head, data)
        assert type(caught.value) is error
        assert str(caught.value).startswith(str(self.path))


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    return Opener(tmp_path)


@contextmanager
def little_memory() -> Iterator[None]:
    """Checks that what happens inside takes no second, and no memory to speak of."""
    tracemalloc.start()
    begin = time.monotonic()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        assert time.monotonic() - begin < 5, "it takes a millisecond"
    finally:
        tracemalloc.stop()


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


# ---- files that are no files, or cut short


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no file"):
        GgufFile(tmp_path / "a.gguf")


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    os.mkfifo(tmp_path / "pipe.gguf")
    for name in ("empty.gguf", "pipe.gguf"):
        with pytest.raises(WeightsError, match=f"{name} is empty"):
            GgufFile(tmp_path / name)
    with pytest.raises(WeightsError, match="cannot be mapped"):
        GgufFile(tmp_path)


def test_a_header_that_is_cut_anywhere(small: Path) -> None:
    content, size = small.read_bytes(), GgufFile(small).header_size
    for end in range(size):
        small.write_bytes(content[:end])
        with pytest.raises(ModelError) as caught:
            GgufFile(small)
        assert str(small) in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.9, 0.999])
def test_data_that_are_cut(small: Path, share: float) -> None:
    """llama.cpp #6774: it was mapped, and read until the process was killed."""
    file = GgufFile(small)
    begin = min(one.start for one in file.tensors.values())
    os.truncate(small, begin + int((file.size - begin) * share))
    with pytest.raises(WeightsError, match=r"cut short: .* ends at .*\. Download it"):
        GgufFile(small)


# ---- any damage: nothing but errors of quire's own, up to the tokenizer


def sentencepiece() -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", "<0x41>", "<0x42>", "▁", *"abcd", "ab", "▁a", "▁ab", "<x>"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(one) for one in range(len(tokens))],
        "tokenizer.ggml.token_type": [np.int32(one) for one in (2, 3, 3, 6, 6, *[1] * 8, 4)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages }}",
    }


def byte_pairs() -> dict[str, Any]:
    tokens = ["<|endoftext|>", *"abcd", "ab", "Ġ", "Ġa", "Ġab", "cd", "abcd", "<|im_end|>", "<x>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [np.int32(one) for one in (3, *[1] * 10, 3, 4)],
        "tokenizer.ggml.merges": ["a b", "Ġ a", "Ġa b", "c d", "ab cd"],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.suppress_tokens": [3, 4],
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    }


MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        ".attention.head_count_kv": [2, 2],
        ".rope.scaling.type": "yarn",
        ".rope.scaling.factor": 2.0,
        "general.name": "Llama 3.1",
        **sentencepiece(),
    },
    "gemma3": {
        ".attention.sliding_window": 32,
        ".attention.sliding_window_pattern": [True, False],
        ".final_logit_softcapping": 30.0,
        "split.count": np.uint16(1),
        **byte_pairs(),
    },
}


@pytest.fixture(params=MODELS)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of a few kilobytes of header."""
    return write_tiny(tmp_path / "small.gguf", request.param, metadata=MODELS[request.param])


def open_all(path: Path) -> list[ModelError]:
    """Open a model as far as its folder can be made; return the errors. Others come through."""
    errors: list[ModelError] = []
    try:
        files = open_files(path)
    except ModelError as error:
        return [error]
    try:
        source = GgufSource(files, config_of(files))
        for name in source.names():
            source.tensor(name)
    except ModelError as error:
        errors.append(error)
    try:
        read_tokenizer(files[0].metadata, str(path))
    except ModelError as error:
        errors.append(error)
    return errors


def test_the_models_that_are_damaged_are_whole_before(small: Path) -> None:
    assert open_all(small) == []


NUMBERS = (0, 1, 1 << 31, (1 << 32) - 1, HUGE, 1 << 63, MOST - 7, MOST)


def test_a_header_with_any_byte_changed(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each byte changed in three ways, and a number at each place: some thousands of files."""
    caplog.set_level(logging.CRITICAL)
    chance = random.Random(0)
    content, size = small.read_bytes(), GgufFile(small).header_size
    refused = 0
    with small.open("r+b", buffering=0) as file:
        for at in range(size):
            old = content[at]
            number = struct.pack("<Q", chance.choice(NUMBERS))[: size - at]
            for new in (b"\0", b"\xff", bytes([old ^ 1 << chance.randrange(8)]), number):
                file.seek(at)
                file.write(new)
                refused += bool(open_all(small))
                file.seek(at)
                file.write(content[at : at + 8])
    assert refused > size


VALUES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda key: b"",
    "0": lambda key: number(key, U32, 0),
    "-1": lambda key: number(key, I32, -1),
    "2^64 - 1": lambda key: number(key, U64, MOST),
    "NaN": lambda key: number(key, F32, float("nan")),
    "infinity": lambda key: number(key, F64, float("inf")),
    "1e300": lambda key: number(key, F64, 1e300),
    "true": lambda key: number(key, BOOL, 1),
    "no text": lambda key: entry(key, STRING, text(b"")),
    "text": lambda key: entry(key, STRING, text(b"\xff" * 300)),
    "no numbers": lambda key: array(key, U32, 0),
    "a number": lambda key: array(key, I64, 1, struct.pack("<q", -1)),
    "numbers": lambda key: array(key, U64, 2, struct.pack("<QQ", 0, MOST)),
    "NaNs": lambda key: array(key, F32, 2, struct.pack("<ff", float("nan"), float("nan"))),
    "flags": lambda key: array(key, BOOL, 2, b"\0\1"),
    "no texts": lambda key: array(key, STRING, 0),
    "texts": lambda key: array(key, STRING, 2, text(b"") + text(b"\xff")),
}


@pytest.mark.parametrize("value", VALUES)
def test_a_key_with_any_value(small: Path, value: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each key in turn, and two that these models do not have."""
    caplog.set_level(logging.CRITICAL)
    content, file = small.read_bytes(), GgufFile(small)
    begin = min(one.start for one in file.tensors.values())
    keys = [key.encode() for key in file.metadata]
    starts = [content.index(text(key)) for key in keys]
    ends = [*starts[1:], content.index(text(next(iter(file.tensors)).encode()))]
    more = (b"general.alignment", b"split.no")
    spans = [*zip(keys, starts, ends, strict=True), *((key, 24, 24) for key in more)]
    refused = 0
    for key, start, end in spans:
        new = VALUES[value](key)
        count = len(keys) + (key in more and bool(new)) - (key not in more and not new)
        head = content[:16] + struct.pack("<Q", count) + content[24:start] + new
        head += content[end : file.header_size]
        small.write_bytes(head + bytes(-len(head) % 32) + content[begin:])
        refused += bool(open_all(small))
    assert refused > 3


@pytest.mark.parametrize("value", [[np.uint32(1), np.uint32(2)], "model", 2.0])
def test_a_total_of_tensors_that_is_no_number(tmp_path: Path, value: Any) -> None:
    split = {"split.count": np.uint16(2)}
    first, second = (tmp_path / f"a-0000{number}-of-00002.gguf" for number in (1, 2))
    total = {"split.no": np.uint16(0), "split.tensors.count": value}
    write_tiny(first, metadata={**split, **total})
    write_file(second, {**split, "split.no": np.uint16(1)}, {})
    with pytest.raises(WeightsError, match=r"split\.tensors\.count is"):
        open_files(first)


@pytest.mark.parametrize("key", ["general.type", "general.architecture"])
@pytest.mark.parametrize("value", [[1, 2], ["model", "clip"], 1])
def test_a_kind_that_is_no_text_among_other_files(tmp_path: Path, key: str, value: Any) -> None:
    """A folder's headers are read only where it has several files."""
    right = write_tiny(tmp_path / "right.gguf")
    write_tiny(tmp_path / "wrong.gguf", metadata={key: value})
    found: Path | None = None
    with suppress(ModelNotFoundError):
        found = find_gguf(tmp_path, None, str(tmp_path))
    assert found in (None, right)
