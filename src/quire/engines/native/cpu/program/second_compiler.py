"""A second process that compiles kernels beside the first: llvmlite lets one thread at a time into LLVM.

It begins with the last of the names that it is given, the first process with the first, until they meet.
It tells what it begins and what it has made: a line with a name and a number of bytes, 0 where it begins,
and then so many bytes. Whatever happens to it, the first process compiles what is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from quire.machine.cpus import default_threads

FEWEST = 5
"""Kernels for which a second process pays: it takes half a second to start."""


class SecondCompiler:
    """The process, as the first one sees it."""

    def __init__(self, names: Sequence[str]) -> None:
        """Start it.

        Raises:
            OSError: no process can be started.
        """
        self._begun: set[str] = set()
        self._codes: dict[str, bytes] = {}
        self._is_over = False
        self._changed = threading.Condition()
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._reader = threading.Thread(
            target=self._read, name="quire-second-compiler", daemon=True
        )
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(OSError, ValueError, MemoryError):
            while line := self._process.stdout.readline():
                name, size = line.decode().split()
                code = self._process.stdout.read(int(size))
                with self._changed:
                    self._begun.add(name)
                    if len(code) == int(size) > 0:
                        self._codes[name] = code
                    self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def has_begun(self, name: str) -> bool:
        """Whether it compiles a kernel, or has."""
        with self._changed:
            return name in self._begun

    def code(self, name: str) -> bytes | None:
        """What it has made of a kernel that it began, once that is there; None if it failed."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._codes or self._is_over)
            return self._codes.get(name)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def second_compiler(names: Sequence[str]) -> SecondCompiler | None:
    """One for these kernels, if it pays and can be had."""
    # Of a program that holds Python inside, the executable is that program.
    is_python = Path(sys.executable or "").name.startswith("python")
    if len(names) < FEWEST or default_threads() < 2 or not is_python:
        return None
    try:
        return SecondCompiler(names)
    except OSError:
        return None


def main(names: Sequence[str]) -> None:
    """Compile from the last name to the first, and write what comes of it."""
    from quire.engines.native.cpu.program.machine_code import compile_kernel

    def tell(name: str, code: bytes) -> None:
        sys.stdout.buffer.write(f"{name} {len(code)}\n".encode() + code)
        sys.stdout.buffer.flush()

    for name in reversed(names):
        tell(name, b"")
        tell(name, compile_kernel(name))


if __name__ == "__main__":
    main(sys.argv[1:])
