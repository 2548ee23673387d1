"""One process works on a job: a lock in its folder, with a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from quire.errors import BatchError, JobRunningError
from quire.machine.files import flags_of

NAME = "lock"
_LOCKED_BYTE = 1 << 30
PATIENCE = 60.0  # seconds without a heartbeat after which a process on another host counts as dead


class JobLock:
    """Held from its making to `close`; the kernel lets go of it where the process is killed.

    The kernel's locks of one host may not be seen by another on a shared file system: there the
    heartbeat counts.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            JobRunningError: another process has it.
            BatchError: the folder cannot be written.
        """
        self._path = folder / NAME
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | flags_of("O_CLOEXEC"), 0o644)
        except OSError as error:
            raise BatchError(f"{folder} cannot be written: {error.strerror}.") from None
        try:
            _lock(self._file)
        except OSError:
            holder = read_holder(folder) or {}
            os.close(self._file)
            raise self._running(holder) from None
        holder = read_holder(folder)
        if holder and holder.get("host") != socket.gethostname() and _age(holder) < PATIENCE:
            os.close(self._file)
            raise self._running(holder)
        try:
            self.beat()
        except OSError as error:
            os.close(self._file)
            raise BatchError(f"{self._path} cannot be written: {error.strerror}.") from None

    def _running(self, holder: dict[str, Any]) -> JobRunningError:
        who = f"process {holder.get('pid', '?')} on {holder.get('host', 'another host')}"
        return JobRunningError(
            f"This batch is running already: {who} works in {self._path.parent}. Wait for it, end it, "
            "or choose another save_name."
        )

    def beat(self) -> None:
        """Say that this process still works on the job."""
        said = {"host": socket.gethostname(), "pid": os.getpid(), "heartbeat": time.time()}
        os.lseek(self._file, 0, os.SEEK_SET)  # Windows cannot write to a place at once
        os.write(self._file, json.dumps(said).encode().ljust(256) + b"\n")

    def close(self) -> None:
        """Let go of the lock. May be called twice."""
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1


def _lock(file: int) -> None:
    """Lock an open file, or raise OSError where another process has."""
    try:
        import fcntl
    except ImportError:
        _lock_on_windows(file)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_on_windows(file: int) -> None:
    """Lock one byte far behind the content, which others could not read if it were locked."""
    windows: Any = import_module("msvcrt")
    os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
    windows.locking(file, windows.LK_NBLCK, 1)
    os.lseek(file, 0, os.SEEK_SET)


def read_holder(folder: Path) -> dict[str, Any] | None:
    """What the process said that holds the lock, or that held it when it was killed."""
    try:
        said = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _age(holder: dict[str, Any]) -> float:
    beat = holder.get("heartbeat")
    return time.time() - beat if isinstance(beat, (int, float)) else PATIENCE
