"""Files of rows: what kind each is, by its name, and its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from quire.batch.inputs.columnar import count_parquet, read_arrow, read_parquet
from quire.batch.inputs.json_text import read_json
from quire.batch.inputs.records import InputRecord
from quire.batch.inputs.streams import TextBytes
from quire.batch.inputs.text_tables import read_csv, read_txt
from quire.batch.rows import SeeChunk
from quire.errors import ConfigError

FileKind: TypeAlias = Literal["json", "csv", "txt", "parquet", "arrow"]

KINDS: dict[str, FileKind] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".txt": "txt",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_COMPRESSED = (".gz", ".zst")


def kind_of_file(path: Path) -> FileKind | None:
    """What a file's name says it holds; None where it says nothing that is known."""
    name = path.name.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    return KINDS.get(Path(name).suffix)


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of rows."""

    path: Path
    kind: FileKind

    def __str__(self) -> str:
        return str(self.path)

    def records(self, limit: int, see_chunk: SeeChunk | None = None) -> Iterator[InputRecord]:
        """The file's records, read anew.

        Args:
            limit: the most bytes of one of them, where they are text.
            see_chunk: see `RowSource.rows`.

        Raises:
            ConfigError: the file cannot be read, or is not what its name says.
        """
        if self.kind == "parquet":
            yield from read_parquet(self.path, see_chunk)
        elif self.kind == "arrow":
            yield from read_arrow(self.path, see_chunk)
        else:
            with TextBytes(self.path, see_chunk) as text:
                if self.kind == "csv":
                    yield from read_csv(text, limit, self.path)
                elif self.kind == "txt":
                    yield from read_txt(text, limit)
                else:
                    is_lines = not self.path.name.lower().startswith(".json", -5)
                    yield from read_json(text, limit, may_span_lines=not is_lines)

    def count(self) -> int | None:
        """How many records there are, where that is known without reading them."""
        return count_parquet(self.path) if self.kind == "parquet" else None


def input_file(path: Path, *, kind: FileKind | None = None) -> InputFile:
    """A file that is there, not empty, and of a known kind.

    Args:
        kind: what it is where its name does not say so.

    Raises:
        ConfigError: it is none of that.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        reason = "No such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError(f"{reason}: {path}.") from None
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, not a file.")
    found = kind_of_file(path) or kind
    if found is None:
        known = ", ".join(KINDS)
        raise ConfigError(
            f"{path} is none of the files that are read: {known}, and those of text with "
            f"{' or '.join(_COMPRESSED)} after it."
        )
    if not size:
        raise ConfigError(f"{path} is empty.")
    return InputFile(path, found)


def files_of_folder(folder: Path) -> tuple[InputFile, ...]:
    """The files of a folder in the order of their names, without hidden ones.

    Raises:
        ConfigError: there are none, or not all of one kind.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"Cannot read {folder}: {error.strerror or error}.") from None
    files = tuple(input_file(path) for path in paths if not path.is_dir())
    if not files:
        raise ConfigError(f"The folder {folder} holds no files.")
    _check_one_kind(folder, files)
    return files


def _check_one_kind(folder: Path, files: Sequence[InputFile]) -> None:
    other = next((file for file in files if file.kind != files[0].kind), None)
    if other is not None:
        raise ConfigError(
            f"The files of {folder} must be of one kind: {files[0].path.name} is {files[0].kind}, "
            f"{other.path.name} is {other.kind}."
        )
