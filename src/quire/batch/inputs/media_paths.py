"""Media that rows name: a path becomes that of the file, looked for where the data set keeps its media."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quire.batch.inputs.records import RowFault, kind_of

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


class MediaPaths:
    """Resolves the media of rows.

    Where `media_dir` is given, files outside of it are refused. Otherwise they are looked for in the
    data set's own folder, then as they are written.
    """

    def __init__(self, media_dir: str | None, folder: Path | None) -> None:
        self._only = None if media_dir is None else Path(os.path.expanduser(media_dir)).resolve()
        self._folder = self._only or folder

    def column(self, name: str, value: Any) -> list[Any] | None:
        """The media in a column: a single one is a list of one; None and an empty list are none.

        Raises:
            RowFault: one of them is not there, or outside of `media_dir`.
        """
        if value is None:
            return None
        values = value if isinstance(value, list) else [value]
        return [self._medium(name, one) for one in values] or None

    def _medium(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return self._path(name, value)
        if isinstance(value, list):  # a video as its frames
            return [self._medium(name, frame) for frame in value]
        if isinstance(value, Mapping):
            return self._structure(name, value)
        if isinstance(value, bytes):
            return value
        raise RowFault(
            f"The column {name!r} holds {kind_of(value)} where a medium's path or bytes belong.",
            "invalid_media",
        )

    def _structure(self, name: str, value: Mapping[str, Any]) -> Any:
        """The form of `datasets`, `{"bytes", "path"}`: the bytes, or else the file."""
        content, path = value.get("bytes"), value.get("path")
        if content is None and isinstance(path, str):
            return self._path(name, path)
        return {"bytes": content} if isinstance(content, bytes) else dict(value)

    def _path(self, name: str, value: str) -> str:
        if _ADDRESS.match(value) and not value.startswith("file:"):  # https:, data:
            return value
        if not value or "\0" in value:
            raise RowFault(f"The column {name!r} names an empty path.", "invalid_media")
        given = Path(os.path.expanduser(value.removeprefix("file://")))
        places = [self._folder / given] if self._folder is not None else []
        if self._only is None:
            places.append(given)
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            looked = " and ".join(str(place) for place in places)
            raise RowFault(
                f"There is no file {value!r}, which the column {name!r} names (looked for at "
                f"{looked}).",
                "media_not_found",
            )
        if self._only is not None and not found.resolve().is_relative_to(self._only):
            raise RowFault(
                f"The file {value!r}, which the column {name!r} names, is outside of media_dir "
                f"({self._only}).",
                "media_not_allowed",
            )
        return str(found)
