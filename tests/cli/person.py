"""A person at a real terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

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
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.raw = ""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def pauses(self, seconds: float = 0.3) -> None:
        """Wait until nothing has come for a while."""
        while select.select([self._master], [], [], seconds)[0]:
            self.raw += os.read(self._master, 65536).decode(errors="replace")

    def sees(self, pattern: str, seconds: float = 10.0) -> str:
        """Wait until `pattern` appears in what is new; return all that came before and with it."""
        end = time.monotonic() + seconds
        while True:
            new = self._text()[self._seen :]
            if match := re.search(pattern, new):
                self._seen += match.end()
                return new[: match.end()]
            assert time.monotonic() < end, f"no {pattern!r} in {new[-500:]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                data = os.read(self._master, 65536).decode(errors="replace")
                self.raw += data
                if "\x1b[6n" in data:  # a terminal tells where its cursor is when asked
                    self.type("\x1b[1;1R")

    def _text(self) -> str:
        """All that came, without commands; one that came in part is left for later."""
        whole = re.sub(r"\x1b[^A-Za-z]*\Z", "", self.raw)
        return ESCAPES.sub("", whole).replace("\r", "")

    def leaves(self) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)
