"""From a model's folder to a GGUF file and back, with adapters merged on the way.

Everything is checked before anything is written: that the file can say what the model is, that its
tokenizer makes the same ids, and that there is room on the disk.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from quire.convert.folders import DTYPES, NewFolder, OnBytes, folder_of_gguf, merged_folder
from quire.convert.header import (
    FILE_TYPES,
    architecture_for,
    check_header,
    header_of,
    rope_tensors,
)
from quire.convert.merging import MergedFolder, open_merged
from quire.convert.tensors import Mixture, Planned, pieces, plan_tensors, type_of
from quire.convert.vocabulary import FolderVocabulary
from quire.errors import ConfigError, ModelError
from quire.gguf.quantize import Bytes
from quire.gguf.reader import GgufFile
from quire.gguf.tensor_types import type_named
from quire.gguf.writer import GgufWriter, NewTensor, Written, file_size
from quire.weights.sizes import size_text

logger = logging.getLogger("quire")

GGUF: Final = ".gguf"
"""How the name of a target ends that is to be a GGUF file; any other is a folder."""
_DEFAULTS: Final = {"F32": "f32", "F16": "f16", "BF16": "bf16", "F64": "f32"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is to be done."""

    source: Path
    """A model's folder, or the (first) GGUF file of a model."""
    target: Path
    type: str | None = None
    """One of `FILE_TYPES`; None for the source's own."""
    adapters: tuple[Path, ...] = ()
    """Adapters that are merged into a folder's weights, in order."""
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
    if conversion.source.is_dir() and conversion.target.suffix == GGUF:
        _write_gguf(conversion, on_start, on_bytes)
        return
    new = _new_folder(conversion)
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


def _new_folder(conversion: Conversion) -> NewFolder:
    source = conversion.source
    if source.is_dir():
        if not conversion.adapters:
            raise ConfigError(
                f"{source} is a folder, and {conversion.target} would be one. Name the target so that it "
                "ends in .gguf, or name an adapter to merge: adapter_name_or_path=FOLDER."
            )
        return merged_folder(open_merged(source, conversion.adapters), conversion.type)
    if conversion.target.suffix == GGUF:
        raise ConfigError(
            f"{source} is a GGUF file, and {conversion.target} would be one. Convert it to a folder first."
        )
    if conversion.adapters:
        raise ConfigError(
            f"{source} is a GGUF file, and adapters are merged into folders: convert it to a folder first."
        )
    return folder_of_gguf(source, conversion.type)


# ---- a GGUF file


def _write_gguf(conversion: Conversion, on_start: OnBytes, on_bytes: OnBytes) -> None:
    folder, target = conversion.source, conversion.target
    source = open_merged(folder, conversion.adapters)
    architecture = architecture_for(folder, source.spec.model_type)
    file_type = conversion.type or _own_type(source)
    planned = plan_tensors(source.spec, architecture)
    _check_parts(source, planned)
    mixture = Mixture(source.spec, architecture) if file_type == "q4_k_m" else None
    rope = rope_tensors(source.spec)
    vocabulary = FolderVocabulary(folder)
    tensors = [
        *(NewTensor(name, type_named("F32"), values.shape) for name, values in rope.items()),
        *(
            NewTensor(one.name, type_of(one, file_type, mixture, source), one.shape)
            for one in planned
        ),
    ]
    metadata: dict[str, Written] = {
        **header_of(source.spec, architecture, folder, file_type),
        **vocabulary.metadata(architecture.name, source.spec.vocab_size, conversion.pre),
    }
    size = file_size(metadata, tensors)
    _check_space(target, size)
    writer = GgufWriter(target, metadata, tensors)
    try:
        for name, values in rope.items():
            writer.write(name, [values.view(np.uint8)])
        writer.flush()
        written = GgufFile(writer.partial)
        check_header(written, source.spec, folder)
        vocabulary.check(written.metadata, is_asked_for=conversion.pre is not None)
        on_start(size)
        _write_tensors(writer, planned, tensors[len(rope) :], source, on_bytes)
        writer.close()
    except BaseException:
        writer.remove()
        raise


def _check_parts(source: MergedFolder, planned: Sequence[Planned]) -> None:
    """Check that the folder has every tensor, and say which of its own are left out."""
    used = {name for one in planned for part in one.parts for name in source.check(part.spec)}
    names = source.source.names()
    rest = sorted(
        {source.source.stored(name).name for name in names} - used - {source.spec.names.head}
    )
    rest = [name for name in rest if not name.endswith(".inv_freq")]  # old folders have frequencies
    if rest:
        logger.warning(
            "%s: %d tensors do not belong to a model of text (such as %s). The GGUF file is without them.",
            source.folder, len(rest), rest[0],
        )  # fmt: skip


def _write_tensors(
    writer: GgufWriter,
    planned: Sequence[Planned],
    tensors: Sequence[NewTensor],
    source: MergedFolder,
    on_bytes: OnBytes,
) -> None:
    for one, tensor in zip(planned, tensors, strict=True):

        def counted(one: Planned = one, tensor: NewTensor = tensor) -> Iterator[Bytes]:
            for piece in pieces(one, tensor.type, source):
                yield piece
                on_bytes(piece.nbytes)

        writer.write(tensor.name, counted())


def _own_type(source: MergedFolder) -> str:
    """The type of the folder's embeddings."""
    stored = source.source.stored(source.spec.names.embeddings)
    return _DEFAULTS.get(stored.dtype, "f32")
