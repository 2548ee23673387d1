"""Data sets by name: `dataset_info.json` in LLaMA-Factory's words, and files and hubs that it names."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from quire.batch.inputs.files import InputFile, files_of_folder, input_file
from quire.errors import ConfigError, nearest, sentence
from quire.json_files import read_json_object
from quire.weights.hub import modelscope

logger = logging.getLogger("quire")

Formatting: TypeAlias = Literal["alpaca", "sharegpt", "openai"]
INFO_FILE = "dataset_info.json"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; None where no column does."""

    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = None
    messages: str | None = "conversations"
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    kto_tag: str | None = None


@dataclass(frozen=True, slots=True)
class MessageTags:
    """The keys of a message, and the words for its roles; None where a set has no such role."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str | None = "human"
    assistant_tag: str | None = "gpt"
    observation_tag: str | None = "observation"
    function_tag: str | None = "function_call"
    system_tag: str | None = "system"


@dataclass(frozen=True, slots=True)
class Hub:
    """A data set on a hub."""

    kind: Literal["huggingface", "modelscope"]
    repo: str
    subset: str | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One named data set: where its rows are, and what their columns mean.

    Attributes:
        files: of a local set, in their order; empty for one of a hub.
        named_columns: the columns that its entry names itself; None where it names none.
        named_tags: whether its entry names tags.
        media_folder: where relative paths of its media are looked for where no media_dir is given.
    """

    name: str
    files: tuple[InputFile, ...] = ()
    hub: Hub | None = None
    formatting: Formatting = "alpaca"
    ranking: bool = False
    split: str = "train"
    num_samples: int | None = None
    columns: Columns = field(default_factory=Columns)
    named_columns: Columns | None = None
    tags: MessageTags = field(default_factory=MessageTags)
    named_tags: bool = False
    media_folder: Path | None = None


_SOURCES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name")
_KNOWN = (
    *_SOURCES,
    "formatting",
    "ranking",
    "subset",
    "split",
    "folder",
    "num_samples",
    "columns",
    "tags",
)


def read_data_sets(
    names: Sequence[str],
    dataset_dir: str | Mapping[str, Any],
    *,
    cache_dir: str | None = None,
    token: str | None = None,
) -> list[DataSet | InputFile]:
    """The data sets of these names, each once, in their order.

    A name without an entry that is the path of a file stands for that file, whose rows say
    themselves what they are.

    Args:
        dataset_dir: the folder of `dataset_info.json`; or its content; or `ONLINE`, where names are
            a hub's; or `REMOTE:repo`, a repository of data sets that holds the file.
        cache_dir: where downloads are kept.
        token: for what is not public.

    Raises:
        ConfigError: a name is unknown, or an entry cannot be used.
    """
    if dataset_dir == "ONLINE":
        kind = "modelscope" if modelscope.is_chosen() else "huggingface"
        return [DataSet(name=name, hub=Hub(kind, name)) for name in dict.fromkeys(names)]
    book = _Book(dataset_dir, cache_dir, token)
    return [book.find(name) for name in dict.fromkeys(names)]


class _Book:
    """The entries of `dataset_info.json`, wherever it is."""

    def __init__(
        self, dataset_dir: str | Mapping[str, Any], cache_dir: str | None, token: str | None
    ) -> None:
        self._cache_dir, self._token = cache_dir, token
        self._remote = ""
        self._folder = Path()
        self.place = "dataset_dir"
        if isinstance(dataset_dir, Mapping):
            self._entries: Mapping[str, Any] | None = dataset_dir
        elif dataset_dir.startswith("REMOTE:"):
            self._remote = dataset_dir.removeprefix("REMOTE:").strip()
            self.place = f"{INFO_FILE} of {self._remote}"
            self._entries = _read_info(self._download(INFO_FILE))
        else:
            self._folder = Path(os.path.expanduser(dataset_dir))
            path = self._folder / INFO_FILE
            self.place = str(path)
            self._entries = _read_info(path) if path.exists() else None

    def find(self, name: str) -> DataSet | InputFile:
        """The data set of a name, or the file whose path it is."""
        entries = self._entries or {}
        if name in entries:
            entry = entries[name]
            if not isinstance(entry, Mapping):
                raise ConfigError(f"{self.place}: the entry of {name!r} must be an object.")
            return _InfoEntry(name, entry, self.place).data_set(self)
        for path in (Path(os.path.expanduser(name)), self._folder / name):
            if path.is_file():
                return input_file(path)
        if self._entries is None:
            raise ConfigError(
                f"There is no {self.place}, and no file {name!r}: dataset_dir is the folder that "
                f"holds {INFO_FILE}; a file of rows alone is given by its path."
            )
        found = nearest(name, entries)
        known = "" if found else f"; it has {', '.join(sorted(entries)[:20]) or 'none'}"
        raise ConfigError(
            sentence(
                f"There is no data set {name!r} in {self.place}, and no such file{found}{known}"
            )
        )

    def files(self, name: str, file_name: str) -> tuple[InputFile, ...]:
        if self._remote:
            return (input_file(self._download(file_name)),)
        path = self._folder / os.path.expanduser(file_name)
        if path.is_dir():
            return files_of_folder(path)
        if not path.exists():
            raise ConfigError(f"There is no file {path}, which {self.place} names for {name!r}.")
        return (input_file(path),)

    @property
    def media_folder(self) -> Path:
        return self._folder

    def _download(self, file_name: str) -> Path:
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(
                self._remote,
                file_name,
                repo_type="dataset",
                cache_dir=self._cache_dir,
                token=self._token,
            )
        except Exception as error:  # its own, requests', the disk's
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"Cannot fetch {file_name} of {self._remote}: {reason.rstrip('.')}."
            ) from None
        return Path(path)


def _read_info(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except ValueError as error:
        raise ConfigError(f"Cannot read {path}: {str(error).rstrip('.')}.") from None


class _InfoEntry:
    """One entry of `dataset_info.json`, read and checked."""

    def __init__(self, name: str, entry: Mapping[str, Any], place: str) -> None:
        self._name, self._entry = name, entry
        self._where = f"{place}, {name!r}"

    def data_set(self, book: _Book) -> DataSet:
        unknown = [key for key in self._entry if key not in _KNOWN]
        if unknown:
            logger.warning("%s: keys without effect: %s.", self._where, ", ".join(unknown))
        hub = self._hub()
        files = () if hub is not None else self._files(book)
        named_columns = None
        if self._entry.get("columns") is not None:
            named_columns = cast(Columns, self._block("columns", Columns, dict(_NO_COLUMNS)))
        tags, has_tags = MessageTags(), self._entry.get("tags") is not None
        if has_tags:
            tags = cast(MessageTags, self._block("tags", MessageTags, dict(_NO_TAGS)))
        return DataSet(
            name=self._name,
            files=files,
            hub=hub,
            formatting=self._formatting(),
            ranking=self._ranking(),
            split=self._text("split") or "train",
            num_samples=self._count(),
            columns=named_columns or Columns(),
            named_columns=named_columns,
            tags=tags,
            named_tags=has_tags,
            media_folder=book.media_folder if files else None,
        )

    def _fault(self, text: str) -> ConfigError:
        return ConfigError(f"{self._where}: {text}")

    def _hub(self) -> Hub | None:
        """The hub's repository; a hub comes before any file, as in LLaMA-Factory."""
        hf, ms = self._text("hf_hub_url"), self._text("ms_hub_url")
        subset, folder = self._text("subset"), self._text("folder")
        if ms and (modelscope.is_chosen() or not hf):
            return Hub("modelscope", ms, subset, folder)
        if hf:
            return Hub("huggingface", hf, subset, folder)
        if self._text("om_hub_url"):
            raise self._fault(
                "om_hub_url alone (Modelers) is not supported: download the files, and name them "
                "as file_name."
            )
        return None

    def _files(self, book: _Book) -> tuple[InputFile, ...]:
        if self._entry.get("script_url") is not None:
            raise self._fault(
                "script_url is refused, since it runs code of the data set: convert the set to "
                "JSON lines or Parquet, and name these files as file_name."
            )
        if self._entry.get("cloud_file_name") is not None:
            raise self._fault(
                "cloud_file_name (s3, gcs) is not supported: download the files, and name them as "
                "file_name."
            )
        file_name = self._text("file_name")
        if not file_name:
            raise self._fault(f"it names no rows: give one of {', '.join(_SOURCES)}.")
        return book.files(self._name, file_name)

    def _text(self, key: str) -> str | None:
        value = self._entry.get(key)
        if value is not None and not isinstance(value, str):
            raise self._fault(f"{key} must be text, not {value!r}.")
        return value

    def _formatting(self) -> Formatting:
        value = self._entry.get("formatting", "alpaca")
        if value not in ("alpaca", "sharegpt", "openai"):
            known = ("alpaca", "sharegpt", "openai")
            raise self._fault(
                sentence(
                    f"formatting is one of {', '.join(known)}, not {value!r}"
                    f"{nearest(str(value), known)}"
                )
            )
        return value

    def _ranking(self) -> bool:
        value = self._entry.get("ranking", False)
        if not isinstance(value, bool):
            raise self._fault(f"ranking must be true or false, not {value!r}.")
        return value

    def _count(self) -> int | None:
        value = self._entry.get("num_samples")
        if value is not None and (type(value) is not int or value < 1):
            raise self._fault(f"num_samples must be an integer of at least 1, not {value!r}.")
        return value

    def _block(self, key: str, kind: type, absent: dict[str, Any]) -> Columns | MessageTags:
        """Columns or tags: where the block is there, what it does not name is None."""
        given = self._entry[key]
        if not isinstance(given, Mapping):
            raise self._fault(f"{key} must be an object.")
        known = [one.name for one in fields(kind)]
        for name, value in given.items():
            if name not in known:
                raise self._fault(sentence(f"{key} has no {name!r}{nearest(str(name), known)}"))
            if value is not None and not isinstance(value, str):
                raise self._fault(f"{key}: {name} must be text, not {value!r}.")
        named = {name: value for name, value in given.items() if value is not None}
        return kind(**{**absent, **named})


_NO_COLUMNS: Mapping[str, None] = dict.fromkeys(one.name for one in fields(Columns))
_NO_TAGS: Mapping[str, str | None] = {
    # A message without keys of its own cannot be read at all, so these keep their defaults.
    one.name: None
    for one in fields(MessageTags)
    if one.name not in ("role_tag", "content_tag")
}
