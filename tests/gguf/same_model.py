"""A model's GGUF file against its folder: the same spec, the same tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.registry import read_spec, spec_of
from quire.engines.native.models.rope import inverse_frequencies
from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import TensorSpec
from quire.gguf.config.reading import config_of
from quire.gguf.weights import GgufSource, GgufTensor, in_folder_order, open_files
from quire.weights.hub_config import HubConfig
from quire.weights.safetensors import SafetensorsFile

# Media are of a tower, which is in another file.
_FREE = ("names", "model_type", "rope", "is_split", "tiled_output", "media")


def open_model(path: Path) -> tuple[GgufSource, DecoderSpec]:
    files = open_files(path)
    config = config_of(files)
    return GgufSource(files, config), spec_of(HubConfig(config))


def assert_same_model(folder: Path, file: Path) -> None:
    """The file's spec and tensors are the folder's, whatever their names."""
    expected = read_spec(folder)
    source, found = open_model(file)
    assert bare(found) == bare(expected)
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        if ours.mixer and theirs.mixer:
            assert_same_rope(ours.mixer.rope, theirs.mixer.rope, theirs.mixer.rope_dim)
    stored = SafetensorsFile(folder / "model.safetensors")
    asked: set[str] = set()
    for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
        assert ours.role == theirs.role
        tensor = source.tensor(ours.name)
        values = in_folder_order(floats(tensor), tensor.tiles)
        if ours.role == "router_correction":  # in some folders a matrix of one row
            values = values.reshape(ours.shape)
        assert values.shape == ours.whole_shape
        mine, own = rows(values, ours), of_folder(stored, theirs)
        if ours.offset:  # the file has the sum, in float32
            mine, own = mine + np.float32(1), own + np.float32(1)
        assert_same_values(ours, mine, own)
        asked.add(ours.name)
    assert asked == set(source.names())
    assert source.left_aside == ()


def bare(value: Any) -> Any:
    """What a spec says, without what a file may have in another way; ropes are compared by their angles."""
    if isinstance(value, tuple):
        return tuple(map(bare, value))
    if not dataclasses.is_dataclass(value):
        return value
    fields = [one.name for one in dataclasses.fields(value) if one.name not in _FREE]
    return type(value), {name: bare(getattr(value, name)) for name in fields}


def assert_same_values(tensor: TensorSpec, found: NDArray[Any], expected: NDArray[Any]) -> None:
    if tensor.role in ("a_log", "log_decay"):  # the file has -exp of it
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=tensor.name)


def assert_same_rope(found: RopeSpec | None, expected: RopeSpec | None, head_dim: int) -> None:
    """Bit for bit the same angles, for short texts and for long ones."""
    assert (found is None) == (expected is None)
    if found is None or expected is None:
        return
    assert (found.positions, found.partial) == (expected.positions, expected.partial)
    for length in (expected.positions, 4 * expected.positions):
        ours, scale = inverse_frequencies(found, head_dim, length)
        theirs, their_scale = inverse_frequencies(expected, head_dim, length)
        np.testing.assert_array_equal(ours, theirs)
        assert np.float32(scale) == np.float32(their_scale)


def tensors_of(spec: DecoderSpec) -> Iterator[TensorSpec]:
    yield from spec.tensors()


def own_names(stored: SafetensorsFile) -> dict[str, str]:
    """The names of a folder with a tower or without one, by those of a decoder alone."""
    return {
        one.replace("model.language_model.", "model.")
        .replace("language_model.", "")
        .replace("backbone.", "model.")
        .replace("embed_out.", "lm_head."): one
        for one in stored.names()
    }


def folder_tensor(stored: SafetensorsFile, name: str) -> NDArray[Any]:
    return stored.tensor(own_names(stored)[name]).values


def of_folder(stored: SafetensorsFile, spec: TensorSpec) -> NDArray[Any]:
    """A tensor, which may be a part of another one."""
    names = own_names(stored)
    for part in spec.within:
        if part.name in names and (spec.name not in names or part.name == spec.name):
            values = folder_tensor(stored, part.name)
            if len(spec.within) == 1 or values.shape == part.stored_shape:
                return part.take(values, spec.shape)
    pieces = [spec.name.format(index) for index in range(spec.pieces or 1)]
    values = np.concatenate([np.atleast_1d(folder_tensor(stored, name)) for name in pieces])
    return rows((values.T if spec.transposed else values).reshape(spec.whole_shape), spec)


def rows(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    if not spec.rows:
        return values
    taken = np.concatenate([values[first:end] for first, end in spec.rows])
    return taken.T if spec.turned else taken


def floats(tensor: GgufTensor) -> NDArray[np.float32]:
    assert tensor.type.name == "F32"
    assert tensor.data.shape == (np.prod(tensor.shape[:-1], dtype=int), 4 * tensor.shape[-1])
    return tensor.data.view(np.float32).reshape(tensor.shape)
