"""Safetensors files and folders, and every way in which they can be wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import ModelNotFoundError, WeightsError
from quire.weights.safetensors import (
    SafetensorsFile,
    WeightsFolder,
    round_to_bfloat16,
    widen,
)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_rounding_is_torchs(values: list[float]) -> None:
    array = np.array(values, np.float32)
    expected = torch.from_numpy(array).bfloat16().float().numpy()
    np.testing.assert_array_equal(widen(round_to_bfloat16(array)), expected)


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (entry(offsets=(0, 12)), r"w of shape \(2,\) needs 8 bytes"),
        (entry(offsets=(8, 16)), "truncated: w ends at byte 16"),
        (entry(offsets=(-8, 0)), "malformed"),
        (entry(offsets=(0,)), "malformed"),
        (entry(shape=(-2,)), "malformed"),
        (entry(shape=(2.0,)), "malformed"),
        (entry(shape=None), "malformed"),
        (entry(shape=(2**40, 2**40)), "needs"),
        (entry(shape=[1] * 65, offsets=(0, 4)), "malformed"),
        (entry(shape=[1] * 100_000, offsets=(0, 4)), "malformed"),
        (entry(offsets=(8, 0)), "malformed"),
        (entry(offsets=(0, 10**30)), "needs"),
        ({**entry(), "v": entry()["w"]}, "the bytes of v and w overlap"),
        ({**entry(), "v": entry(shape=(1,), offsets=(4, 8))["w"]}, "the bytes of w and v overlap"),
        (b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nests deeper"),
        (entry(dtype="F8_E5M2"), "unknown type 'F8_E5M2'"),
        (entry(dtype=None), "unknown type"),
        ({"v": {}}, "no tensor w"),
        ({"w": 3}, "no tensor w"),
        (b"{", "no JSON"),
        (b"[]", "no JSON object"),
    ],
)
def test_damaged_headers(tmp_path: Path, header: Any, text: str) -> None:
    path = write(tmp_path / "a.safetensors", header, bytes(8))
    with pytest.raises(WeightsError, match=text) as caught:
        SafetensorsFile(path).tensor("w")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 1 << 60) + b"{}"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.safetensors.*again"):
        SafetensorsFile(path)


def test_an_empty_tensor_overlaps_nothing(tmp_path: Path) -> None:
    empty = {"v": entry(shape=(0, 3), offsets=(4, 4))["w"], **entry()}
    file = SafetensorsFile(write(tmp_path / "a.safetensors", empty, bytes(8)))
    assert file.tensor("v").values.shape == (0, 3)


def test_unaligned_data_is_copied(tmp_path: Path) -> None:
    header = json.dumps(entry()).encode()
    header += b" " * ((1 - len(header)) % 8)  # the data begins one byte off
    path = write(tmp_path / "a.safetensors", header, np.array([1.5, -2], np.float32).tobytes())
    np.testing.assert_array_equal(SafetensorsFile(path).tensor("w").values, [1.5, -2])


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not a folder"):
        WeightsFolder(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match="neither"):
        WeightsFolder(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "part-1.safetensors"}}))
    with pytest.raises(ModelNotFoundError, match=r"lacks part-1\.safetensors"):
        WeightsFolder(tmp_path).stored("w")


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": {"w": 3}}', '{"weight_map": ' + "[" * 100_000]
)
def test_damaged_index(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match="index"):
        WeightsFolder(tmp_path)


def test_index_stays_in_its_folder(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../other.safetensors"}}))
    with pytest.raises(WeightsError, match="no file of this folder"):
        WeightsFolder(tmp_path)


def test_pickles_are_refused_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin.*weights_only=True.*save_pretr"):
        WeightsFolder(tmp_path)
