"""What the commands share: a model's text made harmless, errors in one line, the log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_HARMLESS: dict[int, str] = {
    # Controls become their visible pictures, so that a reader sees what was there.
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\N{SYMBOL FOR DELETE}",
    # C1 controls; lone surrogates; and marks that make text run backwards, which can hide what a
    # link or a command really says.
    **dict.fromkeys(range(0x80, 0xA0), _REPLACEMENT),
    **dict.fromkeys(range(0xD800, 0xE000), _REPLACEMENT),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), _REPLACEMENT),
    **dict.fromkeys((0x2028, 0x2029), "\n"),
}


def harmless(text: str) -> str:
    """Return `text` with nothing in it that a terminal would obey, but line breaks and tabs."""
    return text.replace("\r\n", "\n").translate(_HARMLESS)


class Harmless:
    """`harmless` over a stream: a line break that comes in two halves stays one."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, text: str) -> str:
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        return harmless(text[: len(text) - len(self._held)])

    def flush(self) -> str:
        held, self._held = self._held, ""
        return harmless(held)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person sits at the other end."""
    return not stream.closed and stream.isatty()


def has_colour(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that shows colours (https://no-color.org is heeded)."""
    return (
        is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def can_redraw(console: Console) -> bool:
    """Whether what stands on the console's terminal can be drawn over."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def no_echo() -> Generator[None]:
    """What is typed meanwhile does not spoil what is drawn; it waits for the next prompt."""
    try:
        import termios
    except ImportError:  # not a POSIX system
        yield
        return
    try:
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (OSError, ValueError, termios.error):  # no terminal
        yield
        return
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(number, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def report_error(text: str) -> None:
    """Write one line, red on a terminal, to the standard error."""
    line = "quire: " + " ".join(harmless(text).split())
    sys.stderr.write(f"\x1b[31m{line}\x1b[0m\n" if has_colour(sys.stderr) else f"{line}\n")
    sys.stderr.flush()


def note(text: str) -> None:
    """Tell something beside the matter, on the standard error."""
    line = harmless(text)
    sys.stderr.write(f"\x1b[2m{line}\x1b[0m\n" if has_colour(sys.stderr) else f"{line}\n")
    sys.stderr.flush()


class StderrHandler(logging.Handler):
    """Writes the log to what `sys.stderr` is at that moment: a live display may stand in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"quire: {record.getMessage()}")  # one line: a traceback is for a program's own log


def show_log(level: int) -> None:
    """Show quire's own log from `level` upwards; other libraries' stay as they are."""
    logger = logging.getLogger("quire")
    logger.handlers = [
        handler for handler in logger.handlers if not isinstance(handler, StderrHandler)
    ]
    logger.addHandler(StderrHandler())
    logger.setLevel(level)
    logger.propagate = False


def state_folder() -> Path:
    """Where quire keeps what is the user's own: `$XDG_STATE_HOME/quire`."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "quire"


def end_quietly() -> None:
    """The reader went away: let nothing more be written, not even at exit."""
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
