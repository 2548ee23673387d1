"""What signals do to a chat: Ctrl-Z and its end, a terminal that is closed, and what must not be broken off."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from quire.cli.terminal import is_terminal, same_modes

Handler = Callable[[int, FrameType | None], object]


class Suspension:
    """Tells whether the process was suspended since it was last asked.

    Others have then written to the terminal, so that nothing that stands there can be drawn over.
    """

    count = 0
    """How often this process was suspended: a signal knows of nothing smaller."""

    def __init__(self) -> None:
        self._known = self.count

    def has_been(self) -> bool:
        """Whether there was one."""
        before, self._known = self._known, Suspension.count
        return before != self._known


@contextmanager
def handled(handlers: Mapping[signal.Signals, Handler]) -> Generator[None]:
    """Have these handlers take signals, and then those that did before."""
    before = {number: signal.signal(number, take) for number, take in handlers.items()}
    try:
        yield
    finally:
        for number, take in before.items():
            signal.signal(number, take)


@contextmanager
def closed_terminal(heed: Callable[[], None]) -> Generator[None]:
    """Call `heed` if the terminal is closed, or the process is told to end; it may raise."""
    if not hasattr(signal, "SIGHUP") or not _takes_signals():
        yield
        return

    def take(number: int, frame: object) -> None:
        heed()

    with handled({signal.SIGHUP: take, signal.SIGTERM: take}):
        yield


@contextmanager
def unbroken() -> Generator[None]:
    """Do something to its end: Ctrl-C, or the end of the terminal, is heeded behind it."""
    if not _takes_signals():
        yield
        return
    came: list[tuple[Handler, int, FrameType | None]] = []
    before: dict[signal.Signals, Handler] = {}

    def hold(number: int, frame: FrameType | None) -> None:
        came.append((before[signal.Signals(number)], number, frame))

    for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        handler = signal.getsignal(number)
        if callable(handler):  # what the system itself does breaks nothing off half-way
            before[number] = handler
    with handled(dict.fromkeys(before, hold)):
        yield
    for handler, number, frame in came[:1]:
        handler(number, frame)


@contextmanager
def suspendable() -> Generator[None]:
    """Hand the terminal over in order when the program is suspended (Ctrl-Z), and take it back after."""
    if not hasattr(signal, "SIGTSTP") or not _takes_signals():
        yield
        return

    def suspend(number: int, frame: object) -> None:
        with same_modes():
            _show_cursor()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)  # it goes on here once it is continued
        Suspension.count += 1
        signal.signal(signal.SIGTSTP, suspend)

    if signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN:  # whoever started it wants no suspending
        yield
        return
    with handled({signal.SIGTSTP: suspend}):
        yield


def _takes_signals() -> bool:
    return threading.current_thread() is threading.main_thread()


def _show_cursor() -> None:
    # Past Python's buffer, in which another thread may write: nothing but this stands in between.
    if is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb":
        with suppress(OSError, ValueError):
            os.write(sys.stdout.fileno(), b"\x1b[?25h")
