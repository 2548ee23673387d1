"""A row of a batch: what the input says, as a request, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

from quire.request import ChatRequest

Stage: TypeAlias = Literal["read", "convert", "prepare", "generate", "engine"]
"""Where a row failed: in the file, in its columns, as a prompt, in its answer, or with its engine."""

_NO_COLUMNS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no answer."""

    stage: Stage
    message: str
    code: str = "invalid_row"
    """A name for programs, as OpenAI's error codes are."""
    line: int | None = None
    """The line of the source file, from 1, where it has lines."""
    byte: int | None = None
    """The byte of the source file at which the row, or its fault, begins."""


@dataclass(frozen=True, slots=True)
class ChatRow:
    """A conversation to answer."""

    request: ChatRequest
    answer: Mapping[str, Any] | None = None
    """What the data set gives as the answer: an assistant message in OpenAI's form; None where it
    gives none."""


@dataclass(frozen=True, slots=True)
class PairRow:
    """Two answers to one conversation, of which a reward model should prefer the first."""

    chosen: ChatRow
    rejected: ChatRow


@dataclass(frozen=True, slots=True)
class ApiRow:
    """A request of an API as a line of a batch file holds it."""

    url: str
    """Such as `/v1/chat/completions`."""
    body: Mapping[str, Any]


Work: TypeAlias = ChatRow | PairRow | ApiRow


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input. Exactly one of `work` and `error` is there."""

    index: int
    """The row's place in the job's input, from 0: all rows count, also those that cannot be read."""
    work: Work | None = None
    error: RowError | None = None
    id: str | None = None
    """The row's own name, such as a `custom_id`, if it has one."""
    columns: Mapping[str, Any] = field(default_factory=lambda: _NO_COLUMNS)
    """The source row as it was read."""
    source: str = ""
    """The data set, or the file, that the row comes from."""
    notes: tuple[str, ...] = ()
    """What was done to the row that its author may not expect, such as a label made from an object."""


SeeChunk: TypeAlias = Callable[[str, int, bytes], None]
"""Called with (file, number of the chunk, SHA-256 of it) as each chunk of an input file is read."""


class RowSource(Protocol):
    """The rows of a job, in an order that is the same each time."""

    @property
    def total(self) -> int | None:
        """How many rows there are; None where only reading them tells."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What decides about the rows, beside the bytes of the files: names, columns, choices, seeds.

        It consists of what JSON holds. A job that is resumed must have the same.
        """
        ...

    def rows(self, see_chunk: SeeChunk | None = None) -> Iterator[Row]:
        """All rows from the first to the last; may be called again, and reads the files anew.

        A fault of one row is that row's `error`. Only what ends all reading is raised.

        Raises:
            ConfigError: a file cannot be read, or is not what its name says.
        """
        ...
