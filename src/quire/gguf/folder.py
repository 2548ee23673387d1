"""A GGUF file as a model's folder: what other readers look for is written down, weights stay in the file.

The folder lies among the system's temporary files, is this process's own and goes with it. It has
config.json, the tokenizer's files, the chat templates and the ends of answers, all made of the file's
header, and `gguf.json`, which says where the weights are and what else is set for the model.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quire.errors import ModelError
from quire.gguf.config.reading import config_of
from quire.gguf.reader import GgufFile, StringList
from quire.gguf.weights import GgufSource, open_files
from quire.json_files import read_json_object
from quire.machine.cache import file_state, keep, key_of, read_kept
from quire.weights.folder import GGUF_SOURCE, is_gguf_folder

logger = logging.getLogger("quire")

_PREFIX = "quire-gguf-"
_ABANDONED = 24 * 3600.0  # seconds
_CONTROL = (3, 4)  # of a vocabulary: control tokens, and those that a user has defined
_folders: dict[tuple[Path, tuple[int, ...], str], Path] = {}
"""The folders that this process has made, by the file and its state, and what was added."""
_unread: dict[Path, tuple[list[GgufFile], GgufSource]] = {}
"""The open files of these folders until somebody reads their weights, most often soon after."""


def gguf_file_of(folder: Path) -> Path:
    """The first file of the model whose folder this is."""
    return Path(str(read_json_object(folder / GGUF_SOURCE)["file"]))


def open_source(folder: Path) -> GgufSource:
    """The weights of a folder that `make_folder` has made.

    Raises:
        ModelError: the file has changed since, or its tensors do not fit.
    """
    path = gguf_file_of(folder)
    files, source = _unread.pop(folder, ((), None))
    if source is not None and all(file.is_current() for file in files):
        return source
    files = open_files(path)
    if read_json_object(folder / GGUF_SOURCE)["header"] != _header_key(files):
        raise ModelError(f"{path} was replaced by another file while it was opened: try again")
    return GgufSource(files, read_json_object(folder / "config.json"))


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What is set beside a model's file, where a user sets nothing else."""

    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of requests, by their names in `generation_config.json`."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    system: str = ""
    """The system message."""
    context_length: int | None = None
    """In tokens."""


_NONE = ModelDefaults()


def make_folder(path: Path, defaults: ModelDefaults = _NONE) -> Path:
    """The folder of the model in a GGUF file, or in the several files that `path` is the first of.

    Raises:
        ModelNotFoundError: the file, or a part of the model, is missing.
        ModelError: the file cannot be read, or the native engine does not run what is in it.
    """
    path = path.absolute()  # links stay: a hub's cache calls the parts of a model by their content
    added = json.dumps(asdict(defaults))
    try:
        state = (path, file_state(path.stat()), added)
    except OSError:
        state = (path, (), added)
    if state not in _folders or not is_gguf_folder(_folders[state]):
        _folders[state] = _make(path, defaults)
    return _folders[state]


def _make(path: Path, defaults: ModelDefaults) -> Path:
    files = open_files(path)
    config = config_of(files)
    source = GgufSource(files, config)
    if source.left_aside:
        logger.warning(
            "%s holds %d tensors that do not belong to a model of text (such as %s): they are left "
            "aside.",
            path, len(source.left_aside), source.left_aside[0],
        )  # fmt: skip
    key = _header_key(files)
    tokenizer = _tokenizer(files[0], key)
    for note in tokenizer.notes:
        logger.warning("%s: %s", path, note)
    ends, stop = _stop_tokens(files[0], defaults.stop)
    generation: dict[str, Any] = {
        **defaults.options,
        **({"stop_strings": stop} if stop else {}),
        "eos_token_id": list(dict.fromkeys((*tokenizer.end_ids, *ends))),
        **({"suppress_tokens": tokenizer.suppressed} if tokenizer.suppressed else {}),
    }
    _remove_abandoned()
    place = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    atexit.register(_remove, place, os.getpid())
    folder = place / path.name
    folder.mkdir()
    source_file = {
        "file": str(path),
        "header": key,
        "system": defaults.system,
        "context_length": defaults.context_length,
    }
    (folder / "tokenizer.json").write_bytes(tokenizer.tokenizer_json)
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer.config),
        ("generation_config.json", generation),
        (GGUF_SOURCE, source_file),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    _unread[folder] = files, source
    return folder


def _stop_tokens(file: GgufFile, stop: Sequence[str]) -> tuple[list[int], list[str]]:
    """The ids of stop texts that are control tokens of the vocabulary, and the other texts."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    if not stop or not isinstance(tokens, StringList) or not isinstance(kinds, np.ndarray):
        return [], list(stop)
    wanted = {text.encode(): text for text in stop}
    found = {
        wanted[token]: number
        for number, (token, kind) in enumerate(zip(tokens, kinds.tolist(), strict=False))
        if token in wanted and kind in _CONTROL
    }
    return list(found.values()), [text for text in stop if text not in found]


def _remove(place: Path, owner: int) -> None:
    """Remove a folder at its process's end; a forked child leaves it to its parent."""
    if os.getpid() == owner:
        shutil.rmtree(place, ignore_errors=True)


def _remove_abandoned() -> None:
    """Remove the folders of this user's processes that were killed, a day later.

    Not at once: a process of another container, which may share the place, is not seen from here.
    """
    if not hasattr(os, "geteuid"):  # where a signal of 0 would end a process
        return
    for place in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            state = place.lstat()
            owner = int(place.name.removeprefix(_PREFIX).partition("-")[0])
            if state.st_uid == os.geteuid() and time.time() - state.st_mtime > _ABANDONED:
                try:
                    os.kill(owner, 0)
                except ProcessLookupError:
                    shutil.rmtree(place, ignore_errors=True)


def _header_key(files: Sequence[GgufFile]) -> str:
    """A name for everything in the files but their weights."""
    return key_of([hashlib.sha256(file.header()).hexdigest() for file in files])


# ---- the tokenizer, which takes a second to make


@dataclass(frozen=True, slots=True)
class _Kept:
    """A `GgufTokenizer` as it is kept."""

    tokenizer_json: bytes
    config: dict[str, Any]
    end_ids: list[int]
    suppressed: list[int]
    notes: list[str]


def _tokenizer(file: GgufFile, header: str) -> _Kept:
    """The tokenizer of a file: kept from an earlier start, or made now."""
    here = Path(__file__)
    code = [path.read_bytes() for path in (here, *sorted(here.parent.glob("*token*.py")))]
    key = key_of(header, code)
    # Two files, so that the large one is nothing but what is written down.
    names = f"tokenizer-{key}.json", f"tokenizer-{key}-facts.json"
    content, facts = map(read_kept, names)
    if content is not None and facts is not None:
        return _Kept(bytes(content), **json.loads(bytes(facts)))
    # Here and not above: a tokenizer that is kept needs nothing that makes one.
    from quire.gguf.tokenizer import read_tokenizer

    made = read_tokenizer(file.metadata, str(file.path))
    known: dict[str, Any] = {
        "config": made.config,
        "end_ids": list(made.end_ids),
        "suppressed": list(made.suppressed),
        "notes": list(made.notes),
    }
    for name, kept in zip(names, (made.tokenizer_json, json.dumps(known).encode()), strict=True):
        keep(name, lambda target, kept=kept: target.write_bytes(kept), "tokenizers")
    return _Kept(made.tokenizer_json, **known)
