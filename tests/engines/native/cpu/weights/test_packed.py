"""Rounded weights that are kept: found by all bytes of their source, and never trusted blindly."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from quire.engines.native.cpu.weights import decoder, packed
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.cpu.weights.packed import PackedMatrix
from quire.engines.native.models.layers.attention import AttentionShape
from quire.engines.native.models.registry import read_spec
from quire.machine import cache
from tests.engines.native.random_models import make_random_model

EMBEDDINGS = "model.embed_tokens.weight"
UP = "model.layers.1.mlp.up_proj.weight"

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of weights of each matrix that was rounded."""
    sizes: list[int] = []
    plain = packed.rounding.quantize

    def counted(matrix: NDArray[Any], **options: Any) -> Any:
        sizes.append(matrix.size)
        return plain(matrix, **options)

    monkeypatch.setattr(packed.rounding, "quantize", counted)
    return sizes


def arrays_of(folder: Path, kind: Any = "int8") -> dict[str, NDArray[Any]]:
    """All numbers that the kernels would read."""
    weights = load_weights(read_spec(folder), folder, quantize=kind)
    tables = [weights.tensors, *weights.layers]
    found: dict[str, NDArray[Any]] = {}
    for number, table in enumerate(tables):
        for role, tensor in table.items():
            parts = (
                {"codes": tensor.codes, "scales": tensor.scales}
                if isinstance(tensor, PackedMatrix)
                else {"": tensor}
            )
            found |= {f"{number} {role} {part}": array for part, array in parts.items()}
    return found


def same(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(array, other[name]) for name, array in one.items()
    )


def changed(folder: Path, target: Path, change: Callable[[dict[str, NDArray[Any]]], None]) -> Path:
    """A copy of a model with other numbers."""
    target.mkdir()
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


def some_rows(tensors: dict[str, NDArray[Any]]) -> None:
    tensors[EMBEDDINGS][40:44] *= 1.5


def one_number(tensors: dict[str, NDArray[Any]]) -> None:
    tensors[UP][3, 5] += 1


def two_tensors_exchanged(tensors: dict[str, NDArray[Any]]) -> None:
    other = UP.replace("up", "gate")
    tensors[UP], tensors[other] = tensors[other], tensors[UP]


def nearly_all(tensors: dict[str, NDArray[Any]]) -> None:
    for tensor in tensors.values():
        tensor.reshape(-1)[200:] *= np.float32(0.5)


CHANGES = [some_rows, one_number, two_tensors_exchanged, nearly_all]


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_two_models_that_differ_anywhere_share_nothing(
    change: Any, kind: str, tmp_path: Path, own_cache: Path
) -> None:
    folder = make_random_model(tmp_path / "base", "qwen2")
    other = changed(folder, tmp_path / "other", change)
    base = arrays_of(folder, kind)
    trained = arrays_of(other, kind)
    assert len(list(own_cache.glob(f"weights-{kind}-*"))) == 2
    assert not same(base, trained)
    for path in own_cache.iterdir():
        path.unlink()
    assert same(trained, arrays_of(other, kind))  # what it would be without the other


def test_a_model_that_is_overwritten_is_rounded_anew(
    tmp_path: Path, rounded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_MEMO_BYTES", 0)
    monkeypatch.setattr(cache, "_SETTLED_NS", -(10**18))
    folder = make_random_model(tmp_path / "base", "qwen2")
    path = folder / "model.safetensors"
    before, state = arrays_of(folder), path.stat()
    count = len(rounded)
    assert same(before, arrays_of(folder))
    assert len(rounded) == count  # it is found
    other = changed(folder, tmp_path / "other", some_rows)
    with path.open("r+b") as file:  # the same path, inode, size and time
        file.write((other / "model.safetensors").read_bytes())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not same(before, arrays_of(folder))
    assert len(rounded) == 2 * count


def test_what_changes_while_it_is_rounded_is_not_kept(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_random_model(tmp_path / "base", "qwen2")
    plain = decoder.read_tensor

    def touched(*arguments: Any) -> Any:
        os.utime(folder / "model.safetensors", (1, 1))
        return plain(*arguments)

    monkeypatch.setattr(decoder, "read_tensor", touched)
    arrays_of(folder)
    assert not list(own_cache.glob("weights-*"))


@pytest.mark.parametrize("part", [0.1, 0.4, 0.7, 0.999])
def test_damage_anywhere_is_made_again(
    part: float, tmp_path: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_random_model(tmp_path / "base", "qwen2")
    before = arrays_of(folder)
    (path,) = own_cache.glob("weights-*")
    content = bytearray(path.read_bytes())
    content[int(part * len(content))] ^= 0x10
    path.write_bytes(content)
    assert same(before, arrays_of(folder))
    assert str(path) in caplog.text
    assert path.read_bytes() != content


@pytest.mark.parametrize("part", ["codes", "scales", "unit"])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda array: array[:1],
        lambda array: array.reshape(-1),
        lambda array: array[..., None],
        lambda array: array.view(np.int8),
        lambda array: None,
    ],
    ids=["shorter", "flat", "deeper", "another type", "missing"],
)
def test_another_shape_is_never_followed_into_memory(
    part: str, wrong: Any, tmp_path: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file whose hash is right, and whose arrays are not those that the config asks for."""
    if part == "unit" and wrong(np.zeros(1, np.float32)) is not None:
        wrong = lambda array: np.zeros(3, np.float32)  # noqa: E731
    folder = make_random_model(tmp_path / "base", "qwen2")
    before = arrays_of(folder)
    (path,) = own_cache.glob("weights-*")
    content = path.read_bytes()[: -cache._TRAILER]
    (tmp_path / "plain.safetensors").write_bytes(content)
    arrays = load_file(tmp_path / "plain.safetensors")
    name = next(name for name in arrays if name.startswith(UP) and name.endswith(part))
    found = wrong(arrays.pop(name))
    if found is not None:
        arrays[name] = np.ascontiguousarray(found)
    cache.keep(path.name, lambda temporary: save_file(arrays, temporary), "weights")
    with caplog.at_level(logging.WARNING, "quire"):
        assert same(before, arrays_of(folder))
    assert found is None or "not as they must be" in caplog.text


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_may_write_is_not_used(
    mode: int, tmp_path: Path, own_cache: Path, rounded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_random_model(tmp_path / "base", "qwen2")
    before = arrays_of(folder)
    count = len(rounded)
    own_cache.chmod(mode)
    assert same(before, arrays_of(folder))
    assert len(rounded) == 2 * count
    assert str(own_cache) in caplog.text


def test_a_longer_context_changes_no_weight(tmp_path: Path, own_cache: Path) -> None:
    folder = make_random_model(tmp_path / "base", "qwen2")
    arrays_of(folder)
    config = (folder / "config.json").read_text("utf-8")
    assert "max_position_embeddings" in config
    (folder / "config.json").write_text(
        config.replace('"max_position_embeddings": ', '"max_position_embeddings": 9')
    )
    arrays_of(folder)
    assert len(list(own_cache.glob("weights-*"))) == 1


def _shape(folder: Path) -> AttentionShape:
    attention = read_spec(folder).attention
    assert attention is not None
    return attention.shape


def test_a_config_that_cuts_fused_tensors_elsewhere(tmp_path: Path, own_cache: Path) -> None:
    """The same bytes in the same shapes, and other rows for each head."""
    folder = make_random_model(tmp_path / "base", "internlm2")
    arrays_of(folder)
    shape = _shape(folder)
    changes = {
        f'"num_key_value_heads": {shape.kv_heads}': f'"num_key_value_heads": {shape.kv_heads // 2}',
        f'"num_attention_heads": {shape.heads}': f'"num_attention_heads": {shape.heads // 2}',
        f'"head_dim": {shape.head_dim}': f'"head_dim": {2 * shape.head_dim}',
    }
    text = (folder / "config.json").read_text("utf-8")
    for old, new in changes.items():
        text = text.replace(old, new)
    (folder / "config.json").write_text(text, "utf-8")
    assert _shape(folder).kv_heads == shape.kv_heads // 2
    arrays_of(folder)
    assert len(list(own_cache.glob("weights-*"))) == 2
