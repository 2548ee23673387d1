"""A person at a real terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

PATIENCE = 120.0
"""Seconds in which what is waited for must appear; only a failing test waits so long."""
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|.)")
CTRL_C, CTRL_D = "\x03", "\x04"


class Person:
    """Sits at a terminal of 80 by 24, types, and reads what appears."""

    def __init__(self, command: Sequence[str], tmp_path: Path, **environment: str) -> None:
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.slave = slave
        environment = {
            **{key: value for key, value in os.environ.items() if key != "NO_COLOR"},
            "TERM": "xterm-256color",
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            **environment,
        }
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=_sit_down,
        )
        self.raw = ""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def sees(self, pattern: str, seconds: float = PATIENCE) -> str:
        """Wait until `pattern` appears in what is new; return all that came before and with it."""
        seen = self._sees(pattern, seconds)
        assert seen is not None, f"no {pattern!r} in {self._text()[self._seen :][-500:]!r}"
        return seen

    def insists(self, text: str, pattern: str) -> None:
        """Type a line again and again, until `pattern` appears: a Ctrl-C may swallow one."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.type(f"{text}\r")
            if self._sees(pattern, 5.0) is not None:
                return
        self.sees(pattern, 0.0)

    def _sees(self, pattern: str, seconds: float) -> str | None:
        end = time.monotonic() + seconds
        while True:
            new = self._text()[self._seen :]
            if match := re.search(pattern, new):
                self._seen += match.end()
                return new[: match.end()]
            if time.monotonic() >= end:
                return None
            if select.select([self._master], [], [], 0.1)[0]:
                data = os.read(self._master, 65536).decode(errors="replace")
                self.raw += data
                if "\x1b[c" in data:  # ... and what it is
                    self.type("\x1b[?62c")
                if "\x1b[6n" in data:  # a terminal says where its cursor is when asked
                    self.type("\x1b[1;1R")

    def _text(self) -> str:
        """All that came, without commands; one that came in part is left for later."""
        whole = re.sub(r"\x1b[^A-Za-z]*\Z", "", self.raw)
        return ESCAPES.sub("", whole).replace("\r", "")

    def leaves(self) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(PATIENCE)

    def hang_up(self) -> None:
        """Close the terminal's window."""
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._master >= 0:
            os.close(self._master)
        os.close(self.slave)


def _sit_down() -> None:
    """In the new process: make the terminal its own, with a Ctrl-C that means something.

    Whoever runs the tests in the background may have them ignore SIGINT, which processes inherit.
    """
    ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
