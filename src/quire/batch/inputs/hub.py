"""Data sets of a hub, read by its own library, which is imported when one is named."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quire.batch.inputs.columnar import plain_values
from quire.batch.inputs.dataset_info import Hub
from quire.batch.inputs.records import InputRecord
from quire.batch.rows import SeeChunk
from quire.errors import ConfigError

_ROWS = 64


@dataclass(slots=True)
class HubRows:
    """The rows of one set, which is downloaded at the first use."""

    hub: Hub
    split: str
    cache_dir: str | None = None
    token: str | None = None
    _data: Any = None

    def records(self, limit: int, see_chunk: SeeChunk | None = None) -> Iterator[InputRecord]:
        """The rows, as bytes and values: pictures and sounds are not decoded here.

        Raises:
            ConfigError: the set cannot be had, or the hub's library is not installed.
        """
        del limit  # these rows are on the disk, in a form that has no lines
        data = self._loaded().with_format("arrow")
        for number, table in enumerate(data.iter(batch_size=_ROWS)):
            rows = [plain_values(row) for row in table.to_pylist()]
            if see_chunk is not None:
                digest = hashlib.sha256(repr(rows).encode("utf-8", "surrogatepass")).digest()
                see_chunk(f"{self.hub.kind}:{self.hub.repo}", number, digest)
            yield from map(InputRecord, rows)

    def count(self) -> int | None:
        """How many rows there are, once the set is loaded."""
        return None if self._data is None else len(self._data)

    def _loaded(self) -> Any:
        if self._data is None:
            load = self._modelscope if self.hub.kind == "modelscope" else self._huggingface
            try:
                self._data = load()
            except ConfigError:
                raise
            except Exception as error:  # the network's, the hub's, the library's
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise ConfigError(
                    f"Cannot load the data set {self.hub.repo}: {reason.rstrip('.')}."
                ) from None
        return self._data

    def _huggingface(self) -> Any:
        return _library("datasets", self.hub.repo).load_dataset(
            path=self.hub.repo,
            name=self.hub.subset,
            data_dir=self.hub.folder,
            split=self.split,
            cache_dir=self.cache_dir,
            token=self.token,
        )

    def _modelscope(self) -> Any:
        library = _library("modelscope", self.hub.repo)
        data = library.MsDataset.load(
            dataset_name=self.hub.repo,
            subset_name=self.hub.subset,
            data_dir=self.hub.folder,
            split=self.split,
            cache_dir=self.cache_dir,
            token=self.token,
        )
        return data.to_hf_dataset() if hasattr(data, "to_hf_dataset") else data


def _library(name: str, repo: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        extra = "datasets" if name == "datasets" else "modelscope datasets"
        raise ConfigError(
            f"The data set {repo} is on a hub, for which {name} is needed: pip install {extra}. Files "
            "that are downloaded already are given as file_name, or by their path."
        ) from None
