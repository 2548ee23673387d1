"""Files that are written: what llama.cpp's `gguf` package and our own reader read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quire.gguf.reader import GgufFile
from quire.gguf.tensor_types import type_named
from quire.gguf.writer import GgufWriter, NewTensor, file_size

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "a.flag": True,
    "a.number": 7,
    "a.share": 0.1,
    "a.text": "naïve ☃\n",
    "a.texts": ["", "Ġthe", "\u0000"],
    "a.floats": np.array([1.5, -2], np.float32),
    "a.integers": np.array([1, -2, 3], np.int32),
    "a.flags": np.array([True, False]),
}
TENSORS = (
    NewTensor("norm.weight", type_named("F32"), (3,)),
    NewTensor("blk.0.ffn_up.weight", type_named("Q8_0"), (2, 64)),
    NewTensor("blk.0.ffn_up_exps.weight", type_named("F16"), (2, 3, 4)),
)


def contents() -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    random = np.random.default_rng(0)
    return {one.name: random.integers(0, 128, one.size, np.uint8) for one in TENSORS}


def write(path: Path) -> Path:
    writer = GgufWriter(path, METADATA, TENSORS)
    for name, data in reversed(contents().items()):
        writer.write(name, [data[:7], data[7:]])
    assert not path.exists()
    writer.close()
    return path


def test_our_reader_reads_it(tmp_path: Path) -> None:
    file = GgufFile(write(tmp_path / "model.gguf"))
    for key, value in METADATA.items():
        found = file.metadata[key]
        if isinstance(value, list):
            assert [text.decode() for text in found] == value  # pyright: ignore
        else:
            np.testing.assert_allclose(found, value) if not isinstance(value, str) else None  # pyright: ignore
            assert type(found) is type(value)
    assert file.metadata["a.text"] == METADATA["a.text"]
    for tensor in TENSORS:
        entry = file.tensors[tensor.name]
        assert (entry.type, entry.shape) == (tensor.type, tensor.shape)
        np.testing.assert_array_equal(file.data(entry), contents()[tensor.name])


def test_the_gguf_package_reads_it(tmp_path: Path) -> None:
    file = gguf.GGUFReader(write(tmp_path / "model.gguf"))
    assert file.fields["a.text"].contents() == METADATA["a.text"]
    assert file.fields["a.texts"].contents() == METADATA["a.texts"]
    assert file.fields["a.integers"].contents() == [1, -2, 3]
    found = {tensor.name: tensor for tensor in file.tensors}
    assert list(found["blk.0.ffn_up_exps.weight"].shape) == [4, 3, 2]
    for tensor in TENSORS:
        data = np.ascontiguousarray(found[tensor.name].data).view(np.uint8)
        np.testing.assert_array_equal(data.reshape(-1), contents()[tensor.name])


def test_size_is_known_before(tmp_path: Path) -> None:
    size = write(tmp_path / "model.gguf").stat().st_size
    assert size <= file_size(METADATA, TENSORS) < size + 64


def test_who_gives_up_leaves_nothing(tmp_path: Path) -> None:
    writer = GgufWriter(tmp_path / "model.gguf", METADATA, TENSORS)
    writer.write("norm.weight", [contents()["norm.weight"]])
    writer.remove()
    assert not list(tmp_path.iterdir())


def test_header_can_be_read_before_the_tensors_are_there(tmp_path: Path) -> None:
    writer = GgufWriter(tmp_path / "model.gguf", METADATA, TENSORS)
    writer.flush()
    assert set(GgufFile(writer.partial).tensors) == {one.name for one in TENSORS}
    writer.remove()


def test_too_few_bytes_are_a_fault_of_ours(tmp_path: Path) -> None:
    writer = GgufWriter(tmp_path / "model.gguf", METADATA, TENSORS)
    with pytest.raises(AssertionError, match=r"norm\.weight has 12 bytes, 4 were given"):
        writer.write("norm.weight", [np.zeros(4, np.uint8)])
    writer.remove()
