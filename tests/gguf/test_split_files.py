"""Models in several GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ModelNotFoundError, WeightsError
from quire.gguf.config.reading import config_of
from quire.gguf.weights import GgufSource, open_files
from tests.gguf.same_model import open_model
from tests.gguf.writing import write_file, write_tiny


def split(tmp_path: Path, **options: Any) -> list[Path]:
    """A tiny model in several files."""
    (tmp_path / "parts").mkdir()
    write_tiny(tmp_path / "parts" / "a.gguf", split_max_tensors=8, **options)
    return sorted((tmp_path / "parts").iterdir())


def test_a_model_in_several_files_is_the_same(tmp_path: Path) -> None:
    whole, _ = open_model(write_tiny(tmp_path / "whole.gguf"))
    paths = split(tmp_path)
    assert [path.name for path in paths] == [f"a-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    source, _ = open_model(paths[0])
    assert source.names() == whole.names()
    for name in whole.names():
        np.testing.assert_array_equal(source.tensor(name).data, whole.tensor(name).data)
    whole = [source.tensor(name).data for name in source.names()]
    assert [file.path for file in source.mapped_files(whole)] == paths


def test_the_first_file_may_hold_no_tensors(tmp_path: Path) -> None:
    paths = split(tmp_path, small_first_shard=True)
    files = open_files(paths[0])
    assert len(files) == 4
    assert not files[0].tensors
    assert GgufSource(files, config_of(files)).left_aside == ()


def test_another_part_than_the_first_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    first = r"is part 2 of 3 of a model: give the first part, a-00001-of-00003\.gguf"
    with pytest.raises(WeightsError, match=first):
        open_files(paths[1])


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = split(tmp_path)
    paths[2].unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks a-00003-of-00003\.gguf$"):
        open_files(paths[0])
    paths[1].unlink()
    with pytest.raises(ModelNotFoundError, match=r"a-00002-of-00003\.gguf and 1 more"):
        open_files(paths[0])


def test_parts_with_each_others_names_are_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    first, second = (path.read_bytes() for path in paths[1:])
    paths[1].write_bytes(second)
    paths[2].write_bytes(first)
    with pytest.raises(WeightsError, match=r"says that it is part 3 of 3, .* part 2 of 3"):
        open_files(paths[0])


def test_a_renamed_part_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    for name in ("model.gguf", "a-00001-of-00004.gguf", "a-00002-of-00003.gguf"):
        renamed = paths[0].rename(tmp_path / name)
        with pytest.raises(WeightsError, match=r"called so, such as model-00001-of-00003\.gguf"):
            open_files(renamed)
        paths[0] = renamed


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    keys = {
        "split.no": np.uint16(2), "split.count": np.uint16(3), "split.tensors.count": np.int32(21)
    }  # fmt: skip
    write_file(paths[2], keys, {"output.weight": np.ones((70, 64), np.float32)})
    with pytest.raises(WeightsError, match=r"its 3 parts have 17 tensors, and .* is 21"):
        open_files(paths[0])
    write_file(paths[2], {**keys, "split.count": np.uint16(4)}, {"b": np.ones(1, np.float32)})
    with pytest.raises(WeightsError, match="says that it is part 3 of 4"):
        open_files(paths[0])


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    keys = {
        "split.no": np.uint16(2), "split.count": np.uint16(3), "split.tensors.count": np.int32(21)
    }  # fmt: skip
    names = ["token_embd.weight", *list(open_files(paths[0])[2].tensors)[1:]]
    write_file(paths[2], keys, {name: np.ones(1, np.float32) for name in names})
    with pytest.raises(WeightsError, match=r"token_embd\.weight is in another part"):
        config_of(open_files(paths[0]))


@pytest.mark.parametrize("value", ["three", -1, 1 << 17, True, 2.0])
def test_a_number_of_parts_that_is_none(tmp_path: Path, value: Any) -> None:
    value = np.int64(value) if isinstance(value, int) and not isinstance(value, bool) else value
    path = write_tiny(tmp_path / "a-00001-of-00002.gguf", metadata={"split.count": value})
    with pytest.raises(WeightsError, match=r"split\.count is .*; it must be 0 to 65535"):
        open_files(path)


@pytest.mark.parametrize(
    "name", ["a.gguf.part1of2", "a.gguf-split-a", "a.Q8_0.gguf.part-b", "a.gguf-part-aa"]
)
def test_a_plain_cut_is_refused_with_a_hint(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(write_tiny(tmp_path / "a.gguf").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="Join the pieces in order"):
        open_files(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no file"):
        open_files(tmp_path / "a.gguf")
