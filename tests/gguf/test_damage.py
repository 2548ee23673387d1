"""GGUF files that are cut, or of which any byte or value is another: errors of quire's own alone."""

from __future__ import annotations

import logging
import os
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ModelError, ModelNotFoundError, WeightsError
from quire.gguf.config.reading import config_of
from quire.gguf.finding import find_gguf
from quire.gguf.reader import GgufFile
from quire.gguf.tokenizer import read_tokenizer
from quire.gguf.weights import GgufSource, open_files
from tests.gguf.raw_files import (
    BOOL,
    F32,
    F64,
    HUGE,
    I32,
    I64,
    MOST,
    STRING,
    U32,
    U64,
    array,
    entry,
    number,
    text,
)
from tests.gguf.writing import write_file, write_tiny

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
    with pytest.raises(WeightsError, match=r"cut short: .* ends at .*\. Copy or download it"):
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
