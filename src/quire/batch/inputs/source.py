"""The rows of a job: files and data sets read, put in order, and made into requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from quire.batch.arguments import BatchArgs
from quire.batch.inputs.convert import RowConverter
from quire.batch.inputs.dataset_info import DataSet, read_data_sets
from quire.batch.inputs.files import InputFile, input_file
from quire.batch.inputs.hub import HubRows
from quire.batch.inputs.identity import ID_COLUMNS, SeenIds, row_id
from quire.batch.inputs.media_paths import MediaPaths
from quire.batch.inputs.orders import (
    WHOLE,
    Mix,
    Positions,
    Slice,
    check_shares,
    choose_samples,
    interleave,
    read_split,
    validation_part,
)
from quire.batch.inputs.plain import PlainConverter, is_api_row
from quire.batch.inputs.records import InputRecord, RowFault
from quire.batch.inputs.store import RecordStore
from quire.batch.inputs.streams import keep_stream
from quire.batch.rows import Row, RowError, SeeChunk, Work
from quire.errors import ConfigError

STANDARD_INPUT = "-"
_TABLES = ("csv", "parquet", "arrow")
_FILE_SHIFT = 40
DEFAULT_SEED = 42


class Converter(Protocol):
    """What makes work of a row's columns."""

    def convert(self, row: Any, *, text_cells: bool = False) -> tuple[Work, tuple[str, ...]]:
        """The work, and notes; raises RowFault."""
        ...


class Rows(Protocol):
    """What holds records: a file, or a set of a hub."""

    def records(self, limit: int, see_chunk: SeeChunk | None = None) -> Iterator[InputRecord]:
        """All records, read anew."""
        ...

    def count(self) -> int | None:
        """How many there are, where that is known without reading them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One data set or plain file of a job."""

    name: str
    places: Sequence[Rows]
    converter: Converter
    limit: int
    """The most bytes of a row."""
    slices: tuple[Slice, ...] = WHOLE
    num_samples: int | None = None
    max_samples: int | None = None
    id_columns: tuple[str, ...] = ID_COLUMNS
    named_columns: tuple[str, ...] = ()
    """The columns that the data set names itself, beside those that it has without a word."""
    is_table: bool = False
    """Whether all of its rows have the same columns."""
    description: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def records(self, see_chunk: SeeChunk | None = None) -> Iterator[InputRecord]:
        """All of its records; one whose id was there before has an error instead."""
        seen = SeenIds()
        for file, place in enumerate(self.places):
            for number, record in enumerate(place.records(self.limit, see_chunk), 1):
                name = row_id(record.value, self.id_columns)
                at = (file << _FILE_SHIFT) + (record.line or number)
                first = None if name is None else seen.first(name, at)
                yield record if first is None else self._repeated(record, str(name), first, at)

    def _repeated(self, record: InputRecord, name: str, *lines: int) -> InputRecord:
        """The record of a repeated id, which would make two answers of one name."""
        word = "row" if record.line is None else "line"
        files = [f" of {place}" if len(self.places) > 1 else "" for place in self.places]
        first, again = (
            f"{word} {at & (1 << _FILE_SHIFT) - 1}{files[at >> _FILE_SHIFT]}" for at in lines
        )
        api = isinstance(record.value, Mapping) and is_api_row(record.value)
        error = RowError(
            "read",
            f"The id {name!r} is there twice: first in {first}, and again in {again}.",
            "duplicate_custom_id" if api else "duplicate_id",
            record.line,
            record.byte,
        )
        return InputRecord(None, error, record.line, record.byte, record.notes)

    @property
    def streams(self) -> bool:
        """Whether its rows come in the order of its files, from the first on."""
        return self.num_samples is None and len(self.slices) == 1 and self.slices[0].is_head

    def head(self, see_chunk: SeeChunk | None = None) -> Iterator[InputRecord]:
        """Its chosen records, where it `streams`."""
        kept = self.slices[0]
        chosen = itertools.islice(self.records(see_chunk), kept.begin or 0, kept.end)
        return itertools.islice(chosen, self.max_samples)

    def chosen(self, count: int, random: np.random.RandomState) -> Positions:
        """Which of `count` records are its rows, in their order."""
        ranges = [one.of(count) for one in self.slices]
        places = np.concatenate([np.arange(one.start, one.stop, dtype=np.int64) for one in ranges])
        if self.num_samples is not None and len(places):
            places = places[choose_samples(len(places), self.num_samples, random)]
        return places[: self.max_samples]

    def count(self) -> int | None:
        """How many rows it gives, where that is known without reading them."""
        counts = [place.count() for place in self.places]
        if any(count is None for count in counts):
            return None
        known = sum(count for count in counts if count is not None)
        return len(self.chosen(known, np.random.RandomState(0)))

    def row(self, record: InputRecord, index: int) -> Row:
        """A record as a row of the job."""
        columns = record.value if isinstance(record.value, Mapping) else {}
        notes = record.notes
        work, error = None, record.error
        if error is None:
            try:
                work, more = self.converter.convert(record.value, text_cells=record.text_cells)
                notes += more
            except RowFault as fault:
                error = RowError("convert", fault.message, fault.code, record.line, record.byte)
        name = (
            row_id(record.value, self.id_columns)
            if error is None or error.stage != "read"
            else None
        )
        return Row(index, work, error, name, columns, self.name, notes)


class BatchSource:
    """The rows of all parts of a job, in one order that is the same each time."""

    def __init__(
        self,
        parts: Sequence[Part],
        folder: Path,
        *,
        mix: Mix = "concat",
        shares: Sequence[float] | None = None,
        val_size: float = 0.0,
        seed: int = DEFAULT_SEED,
    ) -> None:
        """Make the source.

        Args:
            folder: where records are kept for a time, if they are read in another order.

        Raises:
            ConfigError: the shares do not fit the parts.
        """
        check_shares(shares, len(parts), mix)
        self.parts, self._folder = tuple(parts), folder
        self._mix: Mix = mix if len(parts) > 1 else "concat"
        self._shares, self._val_size, self._seed = shares, val_size, seed
        self._total: int | None = None

    @property
    def total(self) -> int | None:
        """How many rows there are; None where only reading them tells."""
        if self._total is None and self._streams:
            counts = [part.count() for part in self.parts]
            if not any(count is None for count in counts):
                self._total = sum(count for count in counts if count is not None)
        return self._total

    @property
    def _streams(self) -> bool:
        in_order = self._mix == "concat" and not self._val_size
        return in_order and all(part.streams for part in self.parts)

    def describe(self) -> Mapping[str, Any]:
        """What decides about the rows, beside the bytes of the files; see `RowSource`."""
        return {
            "parts": [dict(part.description) for part in self.parts],
            "mix_strategy": self._mix,
            "interleave_probs": None if self._shares is None else list(self._shares),
            "val_size": self._val_size,
            "seed": self._seed,
        }

    def rows(self, see_chunk: SeeChunk | None = None) -> Iterator[Row]:
        """All rows; see `RowSource.rows`."""
        if self._streams:
            index = 0
            for part in self.parts:
                for record in part.head(see_chunk):
                    yield part.row(record, index)
                    index += 1
            self._total = index
        else:
            yield from self._ordered(see_chunk)
        if not self._total:
            names = ", ".join(part.name for part in self.parts)
            raise ConfigError(f"No rows are left of {names}: see split, max_samples, mix_strategy.")

    def _ordered(self, see_chunk: SeeChunk | None) -> Iterator[Row]:
        """The rows in an order that only their number decides: records are first kept on the disk."""
        store = RecordStore(self._folder)
        try:
            chosen: list[Positions] = []
            random = np.random.RandomState(self._seed)
            for part in self.parts:
                begin = len(store)
                for record in part.records(see_chunk):
                    store.append(record)
                chosen.append(part.chosen(len(store) - begin, random) + begin)
            ends = np.cumsum([len(one) for one in chosen])
            places = np.concatenate(chosen)
            order = interleave([len(one) for one in chosen], self._mix, self._shares, self._seed)
            if self._val_size:
                order = order[validation_part(len(order), self._val_size, self._seed)]
            self._total = len(order)
            for index, place in enumerate(order.tolist()):
                part = self.parts[int(np.searchsorted(ends, place, side="right"))]
                yield part.row(store[int(places[place])], index)
        finally:
            store.close()


def open_source(args: BatchArgs, *, spool: Path, compat: bool = False) -> BatchSource:
    """The rows that a batch's arguments name.

    Args:
        spool: the file in which standard input, or a named pipe, is kept, so that the job can be started again; other
            temporary files are beside it.
        compat: whether what LLaMA-Factory's scripts alone do to rows is done; see
            `quire.batch.inputs.convert`.

    Raises:
        ConfigError: a file or data set cannot be used, or two arguments contradict each other.
    """
    batch, data = args.batch, args.infer.data
    if batch.eval_dataset and batch.val_size:
        raise ConfigError("val_size takes a part of dataset, and not of eval_dataset.")
    if batch.input is not None:
        path = Path(batch.input).expanduser()
        is_standard = batch.input == STANDARD_INPUT
        if is_standard or path.is_fifo():
            pipe = None if is_standard else path
            keep_stream(spool, pipe, overwrite=batch.overwrite_output_dir)
            path = spool
        parts = [_plain_part(args, input_file(path, kind="json"), batch.input, compat)]
    else:
        model = args.infer.model
        names = batch.eval_dataset or data.dataset or ()
        found = read_data_sets(
            names, data.dataset_dir, cache_dir=model.cache_dir, token=model.hub_token()
        )
        parts = [
            _plain_part(args, one, str(one.path), compat)
            if isinstance(one, InputFile)
            else _set_part(args, one, compat)
            for one in found
        ]
    return BatchSource(
        parts,
        spool.parent,
        mix=batch.mix_strategy,
        shares=batch.interleave_probs,
        val_size=batch.val_size,
        seed=DEFAULT_SEED if batch.seed is None else batch.seed,
    )


def open_file(path: Path, args: BatchArgs, *, name: str | None = None) -> BatchSource:
    """The rows of one plain file, such as a batch file that a client has sent.

    Raises:
        ConfigError: the file cannot be used.
    """
    part = _plain_part(args, input_file(path, kind="json"), name or str(path), False)
    return BatchSource([part], path.parent)


def _scores(args: BatchArgs) -> bool:
    return args.infer.finetuning.stage == "rm"


def _plain_part(args: BatchArgs, file: InputFile, name: str, compat: bool) -> Part:
    data = args.infer.data
    return Part(
        name=name,
        places=[file],
        converter=PlainConverter(file.path, data.media_dir, pairs=_scores(args), compat=compat),
        limit=args.batch.max_line_bytes,
        max_samples=data.max_samples,
        id_columns=_id_columns(args),
        description={"name": name, "kind": file.kind, **_choices(args, compat)},
    )


def _choices(args: BatchArgs, compat: bool) -> dict[str, Any]:
    """What the arguments decide about the rows of each part."""
    data = args.infer.data
    return {
        "id_columns": list(_id_columns(args)),
        "pairs": _scores(args),
        "max_samples": data.max_samples,
        "media_dir": data.media_dir,
        "compat": compat,
    }


def _set_part(args: BatchArgs, data_set: DataSet, compat: bool) -> Part:
    data, pairs = args.infer.data, _scores(args)
    if pairs != data_set.ranking and (pairs or compat):
        wanted = "pairs of answers (ranking: true)" if pairs else "no pairs (ranking: false)"
        raise ConfigError(
            f"The data set {data_set.name!r} does not fit stage {args.infer.finetuning.stage}, which "
            f"needs {wanted}."
        )
    places: list[Rows] = list(data_set.files)
    slices = WHOLE
    if data_set.hub is not None:
        places = [HubRows(data_set.hub, data_set.split, *_hub_access(args, data_set))]
    else:
        slices = read_split(data_set.split, data_set.name)
    media = MediaPaths(data.media_dir, data_set.media_folder)
    described = asdict(data_set)
    described["files"] = [str(file.path) for file in data_set.files]
    del described["media_folder"]
    return Part(
        name=data_set.name,
        places=places,
        converter=RowConverter(data_set, media, pairs=pairs, compat=compat),
        limit=args.batch.max_line_bytes,
        slices=slices,
        num_samples=data_set.num_samples,
        max_samples=data.max_samples,
        id_columns=_id_columns(args),
        named_columns=_named(data_set),
        is_table=any(file.kind in _TABLES for file in data_set.files),
        description={**described, **_choices(args, compat)},
    )


def _named(data_set: DataSet) -> tuple[str, ...]:
    if data_set.named_columns is None:
        return ()
    names = asdict(data_set.named_columns)
    if data_set.formatting == "alpaca":
        del names["messages"]
    else:
        del names["prompt"], names["query"], names["response"], names["history"]
    return tuple(name for name in names.values() if name is not None)


def _id_columns(args: BatchArgs) -> tuple[str, ...]:
    name = args.batch.id_column
    return ID_COLUMNS if name is None else (name,) if name else ()


def _hub_access(args: BatchArgs, data_set: DataSet) -> tuple[str | None, str | None]:
    """The folder of downloads and the token, of the set's own hub."""
    model = args.infer.model
    if data_set.hub is not None and data_set.hub.kind == "modelscope":
        token = model.ms_hub_token
        return model.cache_dir, None if token is None else token.get_secret_value()
    return model.cache_dir, model.hub_token()
