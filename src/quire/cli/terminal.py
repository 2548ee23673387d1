"""What the commands share: harmless text, the standard streams, errors in one line, the log."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from quire.characters import harmless
from quire.errors import (
    ConfigError,
    EngineBusyError,
    MessageError,
    QuireError,
    RequestError,
    RequestTimeoutError,
)
from quire.machine.folders import user_folder

if TYPE_CHECKING:
    from rich.console import Console

MARKS = '"' * 3
"""What begins and ends several lines at a prompt."""
_OUTPUT_ERRORS = frozenset(
    {errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS}
)


class Harmless:
    """`harmless` over a stream: a CR LF that comes in two pieces is one line break."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, text: str) -> str:
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        return harmless(text[: len(text) - len(self._held)])

    def flush(self) -> str:
        held, self._held = self._held, ""
        return harmless(held)


def is_terminal(stream: IO[str]) -> bool:
    """Whether a person sits at the other end, and not a pipe or a file."""
    return not stream.closed and stream.isatty()


def has_colour(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that shows colours (https://no-color.org is heeded)."""
    return (
        is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def can_redraw(console: Console) -> bool:
    """Whether what stands on the console's terminal can be drawn over."""
    return console.is_terminal and not console.is_dumb_terminal


def read_message_text(stream: TextIO) -> str:
    """Read all of the input as one message.

    Raises:
        MessageError: it is empty, or no UTF-8 text.
    """
    text = read_piped_text(stream)
    if not text.strip():
        raise MessageError(
            "The input is empty: pipe in a message, give a prompt, or run quire chat in a terminal."
        )
    return text


def read_piped_text(stream: TextIO) -> str:
    """Read all of the input, without its last line break.

    Raises:
        MessageError: it is no UTF-8 text.
    """
    try:
        text = stream.read()
        text.encode()  # bytes that are no text may have come as lone surrogates
    except UnicodeError:
        raise MessageError(
            "The input is no UTF-8 text: --file FILE takes pictures, PDFs and other encodings."
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def no_echo() -> AbstractContextManager[None]:
    """Keep what is typed meanwhile off the screen; it waits for the next prompt."""
    return _echo(False)


def with_echo() -> AbstractContextManager[None]:
    """Show what is typed meanwhile, as another program may expect it."""
    return _echo(True)


def _stdin_modes() -> tuple[int, list[Any] | None]:
    """The file number of the standard input, and the modes of its terminal; None if it is none."""
    import termios

    try:
        number = sys.stdin.fileno()
        return number, termios.tcgetattr(number)
    except (OSError, ValueError, termios.error):
        return -1, None


@contextmanager
def same_modes() -> Generator[None]:
    """Give the terminal the modes back that it had, if this process is the one that uses it again."""
    import termios

    number, before = _stdin_modes()
    yield
    if before is None:
        return
    with suppress(OSError, termios.error):
        if os.tcgetpgrp(number) == os.getpgrp():
            termios.tcsetattr(number, termios.TCSADRAIN, before)


@contextmanager
def _echo(wanted: bool) -> Generator[None]:
    try:
        import termios
    except ImportError:  # not a POSIX system
        yield
        return
    number, before = _stdin_modes()
    if before is None:
        yield
        return
    flags = before[3] | termios.ECHO if wanted else before[3] & ~termios.ECHO
    termios.tcsetattr(number, termios.TCSADRAIN, [*before[:3], flags, *before[4:]])
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal may have been closed
            termios.tcsetattr(number, termios.TCSADRAIN, before)


def report_error(text: str) -> None:
    """Write one line, red on a terminal, to the standard error."""
    _write_aside("quire: " + " ".join(harmless(text).split()), "31")


def note(text: str) -> None:
    """Write a remark to the standard error, where it is no part of the output."""
    _write_aside(harmless(text), "2")


def _write_aside(line: str, colour: str) -> None:
    if has_colour(sys.stderr):
        line = f"\x1b[{colour}m{line}\x1b[0m"
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:  # where even errors cannot be written there is nowhere to say so
        with suppress(OSError):
            end_quietly(sys.stderr)


class StderrHandler(logging.Handler):
    """Writes the log to what `sys.stderr` is at that moment: a live display may stand in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        # One line without the traceback: a person at a terminal gets no use of that.
        note(f"quire: {record.getMessage()}")


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
    """The folder for what is the user's own, such as the history: `$XDG_STATE_HOME/quire`.

    Raises:
        OSError: there is none, since this user has no home.
    """
    return user_folder("XDG_STATE_HOME", "~/.local/state")


def open_standard_streams() -> None:
    """Open those of the three standard streams with which the process was started closed.

    Python has None for them, and the next file or socket would get their number. An input that is
    closed is empty, and errors are dropped; what is written to the output fails, as on any output
    that cannot be written.
    """
    # In the order of their numbers: a file gets the lowest that is free.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            flags = os.O_WRONLY if name == "stderr" else os.O_RDONLY
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


def is_of_output(error: OSError) -> bool:
    """Whether an error is of writing to a stream: the disk is full, or nothing can be written there."""
    return error.filename is None and error.errno in _OUTPUT_ERRORS


def end_quietly(stream: TextIO | None = None) -> None:
    """Write nothing more to a stream, the output's if none is given.

    Not even at exit, where what could not be written is tried again, and a failure would become the
    program's exit code.
    """
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), (stream or sys.stdout).fileno())


def run_command(run: Callable[[], int]) -> int:
    """Run a command, say in one line what has ended it, and return its exit code.

    0 is done, 1 that the engine or the model failed, 2 that the arguments or the request are wrong,
    4 that it may be tried again later, 130 that it was stopped by Ctrl-C. A command has codes of its
    own besides.
    """
    open_standard_streams()
    _write_any_text()
    try:
        code = run()
        sys.stdout.flush()
        return code
    except QuireError as error:
        report_error(str(error))
        return _exit_code_of(error)
    except BrokenPipeError:
        end_quietly()
        return 0
    except OSError as error:
        if not is_of_output(error):
            report_error(told_fault(error))
            return 1
        end_quietly()
        report_error(f"The output cannot be written: {error.strerror}.")
        return 1
    except MemoryError:
        report_error("There is not enough memory for this.")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    except Exception as error:
        report_error(told_fault(error))
        return 1


def told_fault(error: Exception) -> str:
    """A fault of quire's own in one line; where it happened is written to a file that the line names."""
    line = f"{type(error).__name__}: {error}".rstrip(": ")
    line = f"{line}{'' if line.endswith('.') else '.'}"
    try:
        path = state_folder() / "last_fault.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        written = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(written, "w", encoding="utf-8", errors="replace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return f"{line} This is a fault in quire."
    return f"{line} This is a fault in quire; {path} says where."


def _exit_code_of(error: QuireError) -> int:
    if isinstance(error, (ConfigError, RequestError)):
        return 2
    return 4 if isinstance(error, (EngineBusyError, RequestTimeoutError)) else 1


def _write_any_text() -> None:
    """Write `?` for what the terminal's encoding lacks, where Python would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
