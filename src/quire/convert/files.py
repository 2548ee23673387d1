"""What a GGUF file is to hold, and the file that another one becomes: in other types, or merged.

Of a file everything is kept as it is: its metadata byte for byte, the order of its rows, tensors that have
the wanted type already, and those that quire does not read. Only rows that adapters change go by way of the
folder that is made of the file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quire.convert.header import BLOCKS_VERSION, FILE_TYPES
from quire.convert.merging import MergedFolder
from quire.convert.planned import Planned
from quire.convert.sources import AT_ONCE
from quire.convert.tensors import Mixture, encoded, pieces, plan_tensors, type_of
from quire.errors import ConfigError, UnsupportedModelError
from quire.gguf.blocks import check_type, dequantize, is_block_type
from quire.gguf.config.header import Header
from quire.gguf.config.reading import architecture_of
from quire.gguf.folder import gguf_file_of
from quire.gguf.quantize import KINDS, Bytes
from quire.gguf.reader import GgufEntry, GgufFile
from quire.gguf.tensor_types import TensorType
from quire.gguf.weights import GgufSource, open_files
from quire.gguf.writer import NewTensor, Written
from quire.json_files import read_json_object

if TYPE_CHECKING:
    from quire.convert.run import Conversion

logger = logging.getLogger("quire")

_OF_THE_PLACE: Final = ("general.alignment", "split.no", "split.count", "split.tensors.count")
"""Keys that say how a file lies on the disk, which the new one does as quire writes it."""


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor that a file is to have."""

    tensor: NewTensor
    pieces: Callable[[], Iterator[Bytes]]
    """Makes its bytes, a piece at a time."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """A GGUF file that is to be written."""

    metadata: Mapping[str, Written]
    tensors: Sequence[FileTensor]
    first: int = 0
    """So many tensors are written before the header is checked."""
    check: Callable[[GgufFile], None] = lambda written: None
    """Raises if the file's header would describe another model."""


def plan_file(source: MergedFolder, conversion: Conversion) -> FilePlan:
    """The file that a GGUF file becomes, in one piece even if it has several.

    Args:
        source: of the folder that is made of the file.

    Raises:
        ConfigError: nothing is to be changed.
        UnsupportedModelError: a tensor is to be changed whose type is not written, or not read.
    """
    files = open_files(gguf_file_of(source.folder))
    wanted = conversion.type
    if wanted is None and not conversion.adapters and len(files) == 1:
        raise ConfigError(
            f"{conversion.source} is a GGUF file already. Name the type that {conversion.target} is to "
            f"have (type=, one of {', '.join(FILE_TYPES)}), or an adapter to merge into it: "
            "adapter_name_or_path=FOLDER."
        )
    if conversion.pre is not None:
        raise ConfigError(
            "pre says how the tokenizer of a folder splits texts; a GGUF file says it itself: leave it out."
        )
    rewriting = _Rewriting(source, files, wanted)
    metadata: dict[str, Written] = {
        key: files[0].stored_value(key) for key in files[0].metadata if key not in _OF_THE_PLACE
    }
    if wanted is not None:
        metadata["general.file_type"] = FILE_TYPES[wanted]
        metadata["general.quantization_version"] = BLOCKS_VERSION
    return FilePlan(metadata, rewriting.tensors())


class _Rewriting:
    """How the tensors of a file become those of another one."""

    def __init__(self, source: MergedFolder, files: Sequence[GgufFile], wanted: str | None) -> None:
        self._source, self._header, self._wanted = source, Header(files), wanted
        architecture = architecture_of(self._header)
        self._mixture = Mixture(source.spec, architecture) if wanted == "q4_k_m" else None
        config = read_json_object(source.folder / "config.json")
        self._aside = frozenset(GgufSource(files, config).left_aside)
        self._changed: dict[str, Planned] = {}
        """Those that adapters change, by their names in the file."""
        if source.changed and not architecture.is_written:
            raise UnsupportedModelError(
                f"{self._header.source}: quire merges no adapter into a file of {architecture.models}. Name "
                "a folder as the target"
            )
        if source.changed:
            self._find_changed(plan_tensors(source.spec, architecture))

    def _find_changed(self, planned: Sequence[Planned]) -> None:
        found: set[str] = set()
        for one in planned:
            names = {name for part in one.parts for name in self._source.check(part.spec)}
            if one.name in self._header.tensors and names & self._source.changed:
                self._changed[one.name] = one
                found |= names
        missed = sorted(self._source.changed - found)
        if missed:
            raise UnsupportedModelError(
                f"{self._header.source}: the adapter changes {missed[0]}, for which the file has no tensor "
                "of its own in today's form. Convert it to a folder with the adapter, and that to a file"
            )

    def tensors(self) -> list[FileTensor]:
        """All of the file's, in its order."""
        planned = [self._tensor(*one) for one in self._header.tensors.values()]
        again = [
            entry.name
            for (_, entry), one in zip(self._header.tensors.values(), planned, strict=True)
            if is_block_type(entry.type.name) and is_block_type(one.tensor.type.name)
            and (entry.type != one.tensor.type or entry.name in self._changed)
        ]  # fmt: skip
        if again:
            logger.warning(
                "%s: %d tensors that were rounded once (such as %s) are rounded once more, which costs "
                "a little of the model. A file of F16 or BF16, or the model's folder, would lose less.",
                self._header.source, len(again), again[0],
            )  # fmt: skip
        return planned

    def _tensor(self, file: GgufFile, entry: GgufEntry) -> FileTensor:
        kind, changed = self._kind(entry), self._changed.get(entry.name)
        new = NewTensor(entry.name, kind, entry.shape)
        if changed is not None:
            return FileTensor(new, lambda: pieces(changed, kind, self._source))
        if kind == entry.type:
            return FileTensor(new, lambda: iter([file.data(entry)]))
        check_type(entry.type.name, f"{file.path}: {entry.name}")
        return FileTensor(new, lambda: _in_another_type(file, entry, kind))

    def _kind(self, entry: GgufEntry) -> TensorType:
        if entry.name in self._aside:
            return entry.type
        if self._wanted is not None:
            planned = Planned(entry.name, entry.shape, ())
            return type_of(planned, self._wanted, self._mixture, self._source)
        if entry.name in self._changed and entry.type.name not in KINDS:
            raise UnsupportedModelError(
                f"{self._header.source}: the adapter changes {entry.name}, which is {entry.type.name}, and "
                f"quire does not write this type. Name one for the whole file (type=, one of "
                f"{', '.join(FILE_TYPES)})"
            )
        return entry.type


def _in_another_type(file: GgufFile, entry: GgufEntry, kind: TensorType) -> Iterator[Bytes]:
    depth = entry.shape[-1]
    data = file.data(entry).reshape(math.prod(entry.shape[:-1]), -1)
    step = max(AT_ONCE // depth, 1)
    for first in range(0, len(data), step):
        part = np.ascontiguousarray(data[first : first + step])
        values = dequantize(entry.type.name, part).reshape(-1, depth)
        yield encoded(values, kind, f"{file.path}: {entry.name}")
