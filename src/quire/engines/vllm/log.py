"""vLLM's log goes into a file, from which quire reads its progress and the causes of failures.

Where the user has set one of vLLM's own logging variables, nothing is redirected.
"""

from __future__ import annotations

import atexit
import functools
import getpass
import json
import logging
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import spawn
from pathlib import Path

_OWN_SETTINGS = (
    "VLLM_CONFIGURE_LOGGING",
    "VLLM_LOGGING_CONFIG_PATH",
    "VLLM_LOGGING_LEVEL",
)

_PHASES = (
    ("Initializing a V1 LLM engine", "the engine's process runs"),
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "the weights are loaded"),
    ("Compiling a graph", "compiling"),
    ("Warming up model", "compiling and warming up"),
    ("KV cache size", "the KV cache is allocated"),
    ("Capturing CUDA graph", "capturing CUDA graphs"),
    ("Graph capturing finished", "CUDA graphs are captured"),
)
"""Phrases of vLLM's log, in the order in which they come, and what a user reads for each."""

_MAX_SHEBANG = 120
"""Characters of a `#!` line that every Linux reads; older kernels cut it at 127."""

_MAX_SOCKET_FOLDER = 107 - 37
"""Bytes of the folder of vLLM's sockets: Linux takes 107 for a socket's path, and its name is a UUID."""

_CAUSE = re.compile(r"(?:^|\s)([A-Za-z_.]*(?:Error|Exception|Interrupt)): (.+)")


def log_file() -> Path | None:
    """The log file of this process's engines; None where the user has set vLLM's own variables.

    It is deleted when the process exits, unless `keep` was called. A forked child has another.
    """
    return _log_file_of(os.getpid())


@functools.cache
def _log_file_of(process: int) -> Path | None:
    if any(os.environ.get(name) for name in _OWN_SETTINGS):
        return None
    folder = _folder_of(process)
    settings = folder / "logging.json"
    settings.write_text(json.dumps(_settings(folder / "vllm.log")), encoding="utf-8")
    return folder / "vllm.log"


@functools.cache
def _folder_of(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="quire-vllm-"))
    atexit.register(_delete, folder, process)
    return folder


def home_environment() -> dict[str, str]:
    """What vLLM and torch need of a user whose folders are not as they expect.

    They keep files below `~/.cache` and ask for the user's name, and fail without a home that can be
    written, or without a name; so the cache is a folder of this process, deleted with the log. And
    vLLM's processes meet at sockets in the folder for temporary files, where a batch system often has
    a long path and a socket's name must be short.
    """
    variables: dict[str, str] = {}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "vllm"
    if "VLLM_CACHE_ROOT" not in os.environ and not _can_be_written(cache):
        variables["VLLM_CACHE_ROOT"] = str(_folder_of(os.getpid()) / "cache")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        variables["LOGNAME"] = f"user-{os.getuid()}"
    if len(os.fsencode(tempfile.gettempdir())) > _MAX_SOCKET_FOLDER:
        variables["VLLM_RPC_BASE_PATH"] = "/tmp"
    return variables


def _can_be_written(folder: Path) -> bool:
    """Whether files can be written in a folder, or it can be made."""
    if not folder.is_absolute():  # a `~` for which there is no home
        return False
    nearest = next(one for one in (folder, *folder.parents) if one.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def logging_environment() -> dict[str, str]:
    """The variables that make vLLM and its processes write to `log_file`."""
    path = log_file()
    if path is None:
        return {}
    return {"VLLM_LOGGING_CONFIG_PATH": str(path.parent / "logging.json")}


@contextmanager
def children_write_to_log() -> Generator[None]:
    """Redirect what the processes started inside print into the log: warnings, crashes, C++ output.

    They would inherit standard output, which may be a file that an answer is being written to.
    `multiprocessing` offers no way to redirect a child's output, but it lets us choose its
    interpreter: a wrapper that points both streams at the log and then runs Python.
    """
    path = log_file()
    wrapper = None if path is None else _wrapper(path)
    if wrapper is None:
        yield
        return
    before = spawn.get_executable()
    multiprocessing.set_executable(str(wrapper))
    try:
        yield
    finally:
        multiprocessing.set_executable(before)


def _wrapper(path: Path) -> Path | None:
    """Write the wrapper around Python; None where its path does not fit into a `#!` line."""
    shebang = f"#!{sys.executable} -IS"
    if len(shebang) > _MAX_SHEBANG or " " in sys.executable:
        return None
    wrapper = path.parent / "python"
    wrapper.write_text(
        f"{shebang}\n"
        "import os, sys\n"
        f"log = os.open({str(path)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)\n"
        "os.dup2(log, 1), os.dup2(log, 2), os.close(log)\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n",
        encoding="utf-8",
    )
    wrapper.chmod(0o700)
    return wrapper


def quiet_until_configured() -> None:
    """Silence the warnings that vLLM logs while it is imported, before it reads its log settings."""
    if log_file() is not None:
        vllm_logger = logging.getLogger("vllm")
        vllm_logger.addHandler(logging.NullHandler())
        vllm_logger.propagate = False


def _settings(path: Path) -> dict[str, object]:
    line = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": line}},
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": str(path), "formatter": "line"}
        },
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }


_kept: set[Path] = set()


def keep() -> Path | None:
    """Keep the log file after the process exits, for the user to read; return its path."""
    path = log_file()
    if path is None or not path.is_file():
        return None
    _kept.add(path.parent)
    return path


def hint() -> str:
    """The log's path as the end of an error text; the log is then kept."""
    path = keep()
    return "" if path is None else f" Its log: {path}"


def _delete(folder: Path, process: int) -> None:
    if folder not in _kept and os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


class LogReader:
    """Reads what was written to the log since this object was made."""

    def __init__(self) -> None:
        self._path = log_file()
        self._start = self._position = _size(self._path)
        self._reported: set[str] = set()

    def phases(self) -> list[str]:
        """The phases of the start that have begun since the last call, each reported once."""
        text, self._position = _read(self._path, self._position)
        new = [words for mark, words in _PHASES if mark in text and words not in self._reported]
        self._reported.update(new)
        return new

    def cause(self) -> str | None:
        """The first error in the log, as `Name: text`; later ones are its consequences."""
        text, _ = _read(self._path, self._start)
        for line in text[max(0, text.find(" ERROR ")) :].splitlines():
            match = _CAUSE.search(line)
            if match is not None:
                return f"{match[1]}: {match[2].strip()}"
        return None


def _size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.is_file() else 0


def _read(path: Path | None, position: int) -> tuple[str, int]:
    """The text from byte `position` on, and the position of its end."""
    if path is None or not path.is_file():
        return "", position
    with path.open("rb") as file:
        file.seek(position)
        content = file.read()
    return content.decode("utf-8", "replace"), position + len(content)
