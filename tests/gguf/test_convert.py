"""Folders to GGUF files and back: nothing is lost, and what cannot be said is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from quire.convert.run import Conversion, convert
from quire.engines.native.models.registry import read_spec
from quire.gguf.reader import GgufFile
from quire.weights.safetensors import SafetensorsFile
from tests.gguf.test_weights import (
    OWN_MODELS,
    assert_same_model,
    folder_tensor,
    make,
    rows,
    tensors_of,
)
from tests.gguf.writing import write_model

END = "<|im_end|>"


def nothing(count: int) -> None:
    """Takes what is said of progress."""


def run(source: Path, target: Path, **options: Any) -> Path:
    convert(Conversion(source, target, **options), nothing, nothing)
    return target


def byte_pairs() -> Backend:
    """GPT-2's kind of tokenizer, with 260 tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    texts = [*letters, *("".join(pair) for pair in merges)]
    vocabulary = {text: number for number, text in enumerate(texts)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END, special=True)])
    return backend


def with_tokenizer(folder: Path, backend: Backend | None = None, **config: Any) -> Path:
    (backend or byte_pairs()).save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    for name in ("config.json", "generation_config.json"):  # those of the random models mean nothing
        path = folder / name
        if path.is_file():
            content = json.loads(path.read_text())
            for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
                content.pop(key, None)
            path.write_text(json.dumps(content))
    return folder


# ---- there and back


@pytest.mark.parametrize("name", OWN_MODELS)
def test_nothing_is_lost(tmp_path: Path, name: str) -> None:
    """A file has the folder's model, and the folder that is made of it has the same numbers."""
    folder = with_tokenizer(make(tmp_path, name))
    file = run(folder, tmp_path / "model.gguf", type="f32")
    assert_same_model(folder, file)
    again = run(file, tmp_path / "again")
    expected, found = read_spec(folder), read_spec(again)
    one, other = (SafetensorsFile(path / "model.safetensors") for path in (folder, again))
    for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
        mine = rows(other.tensor(ours.name).values, ours)
        own = rows(folder_tensor(one, theirs.name), theirs)
        if ours.offset:  # a file has the sum, in float32
            mine, own = mine + np.float32(1), own + np.float32(1)
        np.testing.assert_array_equal(mine, own, err_msg=ours.name)


@pytest.mark.parametrize("name", OWN_MODELS)
def test_file_is_that_of_the_converter(tmp_path: Path, name: str) -> None:
    """`write_model` states llama.cpp's rules a second time: the same tensors, and the same keys."""
    folder = with_tokenizer(make(tmp_path, name))
    ours = GgufFile(run(folder, tmp_path / "ours.gguf", type="f32"))
    theirs = GgufFile(write_model(folder, tmp_path / "theirs.gguf"))
    assert set(ours.tensors) == set(theirs.tensors)
    for key, entry in theirs.tensors.items():
        mine = ours.tensors[key]
        assert (mine.type, mine.shape) == (entry.type, entry.shape), key
        if key.startswith("rope_"):  # computed, each in its own way
            values = (file.data(one).view(np.float32) for file, one in ((ours, mine), (theirs, entry)))
            np.testing.assert_allclose(*values, rtol=1e-5)
        else:
            np.testing.assert_array_equal(ours.data(mine), theirs.data(entry), err_msg=key)
    for key, value in theirs.metadata.items():
        if key in ours.metadata:
            np.testing.assert_allclose(ours.metadata[key], value, rtol=1e-6, err_msg=key) if not (
                isinstance(value, str)
            ) else None
        else:
            print("missing", key, value)
