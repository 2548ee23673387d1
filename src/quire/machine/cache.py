"""The folder in which quire keeps what it made on this machine: compiled kernels, rounded weights."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """`QUIRE_CACHE_DIR`, else `quire` under `XDG_CACHE_HOME` or `~/.cache`."""
    chosen = os.environ.get("QUIRE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "quire"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file of the cache folder, whole or not at all.

    `write` fills a temporary file beside it, which then takes its name: several first starts may do
    this at once, and one may be killed. The folder is made for its owner alone.

    Raises:
        OSError: the folder cannot be written. So does whatever `write` raises, and then nothing is
            left behind.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
