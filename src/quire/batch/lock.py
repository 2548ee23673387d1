"""One process works on a job: a lock in its folder, with a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from quire.errors import BatchError, JobRunningError

NAME = "lock"
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
        import fcntl

        self._path = folder / NAME
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise BatchError(f"{folder} cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        os.pwrite(self._file, json.dumps(said).encode().ljust(256) + b"\n", 0)

    def close(self) -> None:
        """Let go of the lock. May be called twice."""
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1


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
