"""From a model's folder to a GGUF file and back, or to another file or folder, with adapters merged.

Everything is checked before anything is written: that the file can say what the model is, that its
tokenizer makes the same ids, and that there is room on the disk.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from quire.convert.files import FilePlan, FileTensor, plan_file
from quire.convert.folders import DTYPES, OnBytes, folder_of_gguf, merged_folder
from quire.convert.header import (
    FILE_TYPES,
    architecture_for,
    check_header,
    header_of,
    rope_tensors,
    xielu_keys,
)
from quire.convert.merging import MergedFolder, open_merged
from quire.convert.planned import Planned
from quire.convert.tensors import Mixture, pieces, plan_tensors, type_of
from quire.convert.vocabulary import FolderVocabulary
from quire.errors import ConfigError, ModelError
from quire.gguf.folder import make_folder
from quire.gguf.quantize import Bytes
from quire.gguf.reader import GgufFile
from quire.gguf.tensor_types import TensorType, type_named
from quire.gguf.writer import GgufWriter, NewTensor, Written, file_size
from quire.weights.sizes import size_text

logger = logging.getLogger("quire")

GGUF: Final = ".gguf"
"""How the name of a target ends that is to be a GGUF file; any other is a folder."""
_DEFAULTS: Final = {"F32": "f32", "F16": "f16", "BF16": "bf16", "F64": "f32", "F8_E4M3": "bf16"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is to be done."""

    source: Path
    """A model's folder, or the (first) GGUF file of a model."""
    target: Path
    type: str | None = None
    """One of `FILE_TYPES`; None for the source's own."""
    adapters: tuple[Path, ...] = ()
    """Adapters that are merged into the weights, in order."""
    pre: str | None = None
    """How the tokenizer splits texts, where no known way is just the folder's."""
    overwrite: bool = False


def convert(conversion: Conversion, on_start: OnBytes, on_bytes: OnBytes) -> None:
    """Convert a model.

    Args:
        on_start: gets how many bytes will be written, before the first is.
        on_bytes: gets how many were written since the last call.

    Raises:
        ConfigError: the target exists, or the type is not one of its kind.
        ModelError: the model cannot be read, or not be written in this form.
        OSError: the target cannot be written.
    """
    _check_target(conversion)
    is_file, to_file = not conversion.source.is_dir(), conversion.target.suffix == GGUF
    folder = make_folder(conversion.source) if is_file else conversion.source
    source = open_merged(folder, conversion.adapters)
    is_same = not is_file and not to_file and not conversion.adapters
    if is_same and not source.is_float8:
        raise ConfigError(
            f"{folder} is a folder, and {conversion.target} would be one. Name the target so that it "
            "ends in .gguf, or name an adapter to merge: adapter_name_or_path=FOLDER."
        )
    if to_file:
        plan = plan_file(source, conversion) if is_file else _plan_of_folder(source, conversion)
        _write_gguf(plan, conversion.target, on_start, on_bytes)
        return
    new = (folder_of_gguf if is_file else merged_folder)(source, conversion.type)
    _check_space(conversion.target, new.size)
    on_start(new.size)
    new.write(conversion.target, on_bytes)


def _check_target(conversion: Conversion) -> None:
    target, is_file = conversion.target, conversion.target.suffix == GGUF
    if conversion.type is not None and conversion.type not in (FILE_TYPES if is_file else DTYPES):
        known = ", ".join(FILE_TYPES if is_file else DTYPES)
        what = "a GGUF file" if is_file else "a folder (a GGUF file's name ends in .gguf)"
        raise ConfigError(f"type={conversion.type} is none of {what}: these are {known}.")
    if not target.parent.is_dir():
        raise ConfigError(f"There is no folder {target.parent} to write {target.name} into.")
    if not target.exists():
        return
    if target.is_dir() == is_file:
        what = "a folder, and a GGUF file is a file" if is_file else "a file, and not a folder"
        raise ConfigError(f"{target} is {what}. Give another name.")
    if not conversion.overwrite:
        raise ConfigError(f"{target} is there already. Give another name, or overwrite=true.")
    if target.samefile(conversion.source):
        raise ConfigError(f"{target} is the source itself. Give another name.")
    if not is_file and not (target / "config.json").is_file():
        raise ConfigError(
            f"{target} is no model's folder, so it is not replaced. Give another name."
        )


def _check_space(target: Path, size: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise ModelError(
            f"{target} needs {size_text(size)}, and no more than {size_text(free)} are free there: not "
            "enough space"
        )


# ---- a GGUF file


def _plan_of_folder(source: MergedFolder, conversion: Conversion) -> FilePlan:
    """The file of a folder's model.

    Raises:
        ModelError: a file cannot say what the model is, or the folder lacks a tensor.
    """
    architecture = architecture_for(source.folder, source.spec)
    file_type = conversion.type or _own_type(source)
    planned = plan_tensors(source.spec, architecture, frozenset(source.source.names()))
    _check_parts(source, planned)
    mixture = Mixture(source.spec, architecture) if file_type == "q4_k_m" else None
    rope = rope_tensors(source.spec)
    vocabulary = FolderVocabulary(source.folder)

    def check(written: GgufFile) -> None:
        check_header(written, source.spec, source.folder)
        vocabulary.check(written.metadata, is_asked_for=conversion.pre is not None)

    def rope_pieces(name: str) -> Callable[[], Iterator[Bytes]]:
        return lambda: iter([rope[name].view(np.uint8)])

    def tensor_pieces(one: Planned, kind: TensorType) -> Callable[[], Iterator[Bytes]]:
        return lambda: pieces(one, kind, source)

    frequencies = [
        FileTensor(NewTensor(name, type_named("F32"), values.shape), rope_pieces(name))
        for name, values in rope.items()
    ]
    kinds = {one.name: type_of(one, file_type, mixture, source) for one in planned}
    tensors = [
        FileTensor(
            NewTensor(one.name, kinds[one.name], one.shape), tensor_pieces(one, kinds[one.name])
        )
        for one in planned
    ]
    metadata: dict[str, Written] = {
        **header_of(source.spec, architecture, source.folder, file_type),
        **xielu_keys(source.spec, source),
        **vocabulary.metadata(architecture.name, source.spec.vocab_size, conversion.pre),
    }
    return FilePlan(metadata, [*frequencies, *tensors], len(frequencies), check)


def _write_gguf(plan: FilePlan, target: Path, on_start: OnBytes, on_bytes: OnBytes) -> None:
    tensors = [one.tensor for one in plan.tensors]
    size = file_size(plan.metadata, tensors)
    _check_space(target, size)
    writer = GgufWriter(target, plan.metadata, tensors)
    try:
        for one in plan.tensors[: plan.first]:
            writer.write(one.tensor.name, one.pieces())
        writer.flush()
        plan.check(GgufFile(writer.partial))
        on_start(size)
        for one in plan.tensors[plan.first :]:
            writer.write(one.tensor.name, _counted(one.pieces(), on_bytes))
        writer.close()
    except BaseException:
        writer.remove()
        raise


def _counted(pieces: Iterator[Bytes], on_bytes: OnBytes) -> Iterator[Bytes]:
    for piece in pieces:
        yield piece
        on_bytes(piece.nbytes)


def _check_parts(source: MergedFolder, planned: Sequence[Planned]) -> None:
    """Check that the folder has every tensor, and say which of its own are left out."""
    used = {name for one in planned for part in one.parts for name in source.check(part.spec)}
    names = source.source.names()
    rest = sorted(
        {source.source.find(name).name for name in names} - used - {source.spec.names.head}
    )
    rest = [name for name in rest if not name.endswith(".inv_freq")]  # old folders have frequencies
    if rest:
        logger.warning(
            "%s: %d tensors do not belong to a model of text (such as %s). The GGUF file is without them.",
            source.folder, len(rest), rest[0],
        )  # fmt: skip


def _own_type(source: MergedFolder) -> str:
    """The type of the folder's embeddings."""
    stored = source.source.find(source.spec.names.embeddings)
    return _DEFAULTS.get(stored.type, "f32")
