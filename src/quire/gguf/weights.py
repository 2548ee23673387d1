"""The weights of GGUF files by the names of a Hugging Face folder, and models in several files.

Weights stay as they are stored, quantised or not; only whole rows move. llama.cpp rotates neighbouring
dimensions of a head where Llama's code rotates dimensions half a head apart, so converters put the rows
of queries and keys in another order: within a head, row i of the first half is row 2i of the file, and
row i of the second half is row 2i + 1. This order is undone here. It is a matter of the architecture and
cannot be seen in the weights: a file whose keys an old converter put in the order of another number of
heads has wrong keys here as it has in llama.cpp. With M-RoPE llama.cpp rotates dimensions half a head apart,
as it does for most models, and GLM-4.1V's code neighbouring ones: there it is the other way round.

A delta net's value heads share key heads: in a folder those of one key head follow each other, and in
llama.cpp every so many heads one is of the same key head. Rows are put back into a folder's order here.
The columns of the output map stay, since those of one head may be half of a block of quantised weights:
`GgufTensor.tiles` says how they lie.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.errors import ModelNotFoundError, WeightsError
from quire.gguf.config.biases import stored_biases
from quire.gguf.config.header import Header
from quire.gguf.config.reading import architecture_of
from quire.gguf.config.rope import TENSORS as ROPE_TENSORS
from quire.gguf.layout.model import Layout
from quire.gguf.layout.tensors import FolderTensor, StoredPart, Way
from quire.gguf.reader import GgufFile
from quire.gguf.tensor_types import TENSOR_TYPES, TensorType
from quire.weights.safetensors import MappedFile, widen

_F32 = TENSOR_TYPES[0]

_ASIDE = ("v.", "a.", "mm.", "cls.")
"""How the names of tensors begin that belong to something else than a model of text."""
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_ANGLES = "attn_rot_embd.weight"  # a table that some old files have, and nothing reads


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor by its name in a folder, with its rows in the folder's order."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    """That of the folder's tensor."""
    data: NDArray[np.uint8]
    """(rows, bytes of a row). All dimensions but the last are counted as rows. It is mapped if rows are
    as in the file, else a copy."""
    tiles: tuple[int, int] = (1, 1)
    """The columns are in llama.cpp's order of so many key heads, with so many value heads each."""


def in_folder_order(values: NDArray[Any], tiles: tuple[int, int]) -> NDArray[Any]:
    """Rows whose columns are in llama.cpp's order (see `GgufTensor.tiles`), as a folder has them."""
    keys, group = tiles
    if group == 1:
        return values
    shape = (len(values), group, keys, -1)
    return np.ascontiguousarray(values.reshape(shape).swapaxes(1, 2)).reshape(len(values), -1)


class GgufSource:
    """The tensors of a model's files by the names of the folder that `config` is the config of.

    Where the config asks for biases of several maps, and no layer has that of one of them, that one is
    zeros. Gemma's norms are larger by 1 in a file than in a folder, and 1 is subtracted: to add it again
    gives the file's value, which is the folder's value plus 1 in float32.

    Raises:
        UnsupportedModelError: the file has tensors that are not read for its architecture.
        WeightsError: tensors are missing, or of other shapes than the config's.
    """

    def __init__(self, files: Sequence[GgufFile], config: Mapping[str, Any]) -> None:
        self._header = header = Header(files)
        self.path = files[0].path
        """The model's first file."""
        layout = Layout(architecture_of(header), config, set(stored_biases(header)))
        self._wanted: dict[str, FolderTensor] = {}
        self._ways: dict[str, Way] = {}
        used = set(ROPE_TENSORS)
        for wanted in layout.tensors():
            way = self._find(wanted)
            self._wanted[wanted.name], self._ways[wanted.name] = wanted, way
            used.update(part.name for part in way)
        used.update(layout.unused())
        self.left_aside = self._leave_aside(set(header.tensors) - used)
        """Tensors that do not belong to the model of text."""

    def drop_pages(self) -> None:
        """Let go of the files' pages in this process; whatever is read again comes back."""
        for file in self._header.files:
            file.drop_pages()

    def mapped_files(self, arrays: Collection[NDArray[Any]]) -> tuple[MappedFile, ...]:
        """The files that any of the arrays lies in."""
        return tuple(file.mapped for file in self._header.files if file.holds(arrays))

    def names(self) -> list[str]:
        """The names by which the tensors are known."""
        return list(self._wanted)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors by these names."""
        return {name: one.shape for name, one in self._wanted.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._wanted

    def tensor(self, name: str) -> GgufTensor:
        """The tensor that is known as `name`.

        Raises:
            WeightsError: there is none, or it cannot be made of what is stored.
        """
        wanted = self._wanted.get(name)
        if wanted is None:
            raise WeightsError(f"{self._header.source}: the weights lack {name}")
        way = self._ways[name]
        if not way:
            filled = np.full((1, wanted.shape[0]), wanted.fill, np.float32)
            return GgufTensor(name, _F32, wanted.shape, filled.view(np.uint8))
        kind = self._type(way)
        parts = [self._rows(part, wanted) for part in way]
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if wanted.heads:
            rows = rows[_folder_order(len(rows), wanted.heads, wanted.halves)]
        data = rows.reshape(math.prod(wanted.shape[:-1]), -1)
        tensor = GgufTensor(name, kind, wanted.shape, data, wanted.tiles)
        changes = wanted.shift or wanted.is_negative_exp
        return self._as_in_folder(tensor, wanted) if changes else tensor

    def _rows(self, part: StoredPart, wanted: FolderTensor) -> NDArray[np.uint8]:
        """The bytes of a part, row by row; of a vector, element by element."""
        file, entry = self._header.tensors[part.name]
        is_vector = len(wanted.shape) == 1
        is_part = part.rows or wanted.heads
        if not is_part:
            return file.data(entry).reshape(1 if is_vector else math.prod(part.shape[:-1]), -1)
        if is_vector and entry.type.weights > 1:
            raise WeightsError(
                f"{file.path}: {part.name} is {entry.type.name}, a vector whose elements are moved; it "
                "must be F32"
            )
        total = math.prod(part.shape) if is_vector else math.prod(part.shape[:-1])
        rows = file.data(entry).reshape(total, -1)
        return rows[part.first : part.first + part.rows] if part.rows else rows

    def _type(self, way: Way) -> TensorType:
        kinds = {self._header.tensors[part.name][1].type for part in way}
        if len(kinds) > 1:
            raise WeightsError(
                f"{self._header.source}: {', '.join(part.name for part in way)} are of different types "
                f"({', '.join(sorted(kind.name for kind in kinds))}), and the model has them in one "
                "tensor"
            )
        return kinds.pop()

    def _as_in_folder(self, tensor: GgufTensor, wanted: FolderTensor) -> GgufTensor:
        """The tensor in float32, with the values that a folder has."""
        kind = tensor.type.name
        if kind not in ("F32", "F16", "BF16"):
            stored = self._ways[tensor.name][0].name
            raise WeightsError(f"{self._header.source}: {stored} is {kind}; it must be F32")
        if kind == "BF16":
            values = widen(tensor.data.view("<u2"))
        else:
            values = tensor.data.view("<f4" if kind == "F32" else "<f2").astype(np.float32)
        if wanted.is_negative_exp and (values > 0).any():
            stored = self._ways[tensor.name][0].name
            raise WeightsError(f"{self._header.source}: {stored} must hold no positive numbers")
        with np.errstate(invalid="ignore", divide="ignore"):  # a signalling NaN; the log of 0
            values = (
                np.log(-values) if wanted.is_negative_exp else values - np.float32(wanted.shift)
            )
        return replace(tensor, type=_F32, data=values.view(np.uint8))

    # -- finding tensors

    def _find(self, wanted: FolderTensor) -> Way:
        """The way in which the files have a tensor."""
        way = next((one for one in wanted.ways if self._has(one)), None)
        if way is None and wanted.ways:
            stored = wanted.ways[0][0].name
            raise WeightsError(
                f"{self._header.source}: the file lacks {stored}, which a folder has as {wanted.name}"
            )
        for part in way or ():
            self._check_shape(part)
        return way or ()

    def _has(self, way: Way) -> bool:
        return all(part.name in self._header.tensors for part in way)

    def _check_shape(self, part: StoredPart) -> None:
        file, entry = self._header.tensors[part.name]
        if _without_ones(entry.shape) != _without_ones(part.shape):
            raise WeightsError(
                f"{file.path}: {part.name} has shape {entry.shape}, and the metadata asks for "
                f"{part.shape}"
            )

    def _leave_aside(self, names: set[str]) -> tuple[str, ...]:
        unknown = sorted(name for name in names if not self._is_aside(name))
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise self._header.unsupported(
                "it has tensors that the native engine does not read for "
                f"{self._header.architecture}: {', '.join(unknown[:3])}{more}"
            )
        return tuple(sorted(names))

    def _is_aside(self, name: str) -> bool:
        match = _BLOCK.fullmatch(name)
        if match is not None:
            return int(match[1]) >= self._header.layers or match[2] == _ANGLES
        return name.startswith(_ASIDE)


def _folder_order(rows: int, heads: int, halves: int) -> NDArray[np.intp]:
    """For each row of a folder's tensor, the one of the file's: see `FolderTensor`."""
    by_head = np.arange(rows).reshape(heads, -1)
    if not halves:
        return by_head.reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
    rotated = by_head[:, :halves].reshape(heads, 2, -1).swapaxes(1, 2).reshape(heads, -1)
    return np.concatenate((rotated, by_head[:, halves:]), axis=1).reshape(-1)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without leading ones, of which GGUF has any number."""
    first = next((index for index, size in enumerate(shape[:-1]) if size != 1), len(shape) - 1)
    return shape[first:]


# ---- models in several files

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_CUT = re.compile(r".+\.gguf[-._](?:part|split)[-._]?\w+", re.IGNORECASE | re.DOTALL)
_MOST_FILES = 65_535  # the format counts them in 16 bits


def open_files(path: Path) -> list[GgufFile]:
    """The files of the model that begins with `path`: most often this one alone.

    Others are looked for beside it, by its own name: PREFIX-00001-of-00003.gguf is the first of three.

    Raises:
        ModelNotFoundError: the file, or another part of the model, is missing.
        UnsupportedModelError: a file is of another version, or has tensors of types that are not read.
        WeightsError: `path` is not the first part, or parts do not belong together, or one is damaged.
    """
    if _CUT.fullmatch(path.name):
        raise WeightsError(
            f"{path} is a piece of a file that was cut without regard to what is in it. Join the pieces "
            "in order (cat model.gguf-split-a model.gguf-split-b > model.gguf), and give the whole file"
        )
    first = GgufFile(path)
    count = _split_number(first, "split.count", 1)
    number = _split_number(first, "split.no", 0)
    match = _SPLIT.fullmatch(path.name)
    if number:
        name = f"{match[1]}-00001-of-{match[3]}.gguf" if match else "the one that ends in -00001"
        raise WeightsError(
            f"{path} is part {number + 1} of {count} of a model: give the first part, {name}"
        )
    if count <= 1:
        return [first]
    if match is None or int(match[2]) != 1 or int(match[3]) != count:
        raise WeightsError(
            f"{path} is the first of {count} parts of a model and must be called so, such as "
            f"model-00001-of-{count:05}.gguf: the others are found by its name"
        )
    files = [first, *_others(path, match[1], count)]
    tensors, total = sum(len(file.tensors) for file in files), first.metadata.get(_TOTAL)
    if not isinstance(total, int) or tensors != total:
        raise WeightsError(
            f"{path}: its {count} parts have {tensors} tensors, and {_TOTAL} is {total!r}: they do not "
            "belong together"
        )
    return files


_TOTAL = "split.tensors.count"


def _others(path: Path, prefix: str, count: int) -> Iterator[GgufFile]:
    names = [f"{prefix}-{number:05}-of-{count:05}.gguf" for number in range(2, count + 1)]
    absent = [name for name in names if not (path.parent / name).is_file()]
    if absent:
        more = f" and {len(absent) - 1} more of its {count} parts" if len(absent) > 1 else ""
        raise ModelNotFoundError(f"{path.parent} lacks {absent[0]}{more}")
    for number, name in enumerate(names, start=1):
        file = GgufFile(path.parent / name)
        found = _split_number(file, "split.no"), _split_number(file, "split.count")
        if found != (number, count):
            raise WeightsError(
                f"{file.path} says that it is part {found[0] + 1} of {found[1]}, and its name that it is "
                f"part {number + 1} of {count}"
            )
        yield file


def _split_number(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_FILES:
        raise WeightsError(f"{file.path}: {key} is {value!r}; it must be 0 to {_MOST_FILES}")
    return value
