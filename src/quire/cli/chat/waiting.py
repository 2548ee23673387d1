"""The line that stands where nothing is shown yet: what is waited for, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from quire.cli.foreground import ForegroundLive
from quire.cli.terminal import can_redraw
from quire.outputs import ThoughtPart

if TYPE_CHECKING:
    from quire.chat import BaseEngine, ChatDelta

_DELAY = 0.3
"""Seconds before the line appears: what is quicker needs none, and a line for a moment is a flicker."""
_INTERVAL = 0.2


class Waiting:
    """Shows a line until it is stopped, and then takes it away without a trace.

    Only on a terminal whose lines can be drawn over. The line is drawn again where its words have
    changed, which is once a second at most times: nothing turns or blinks.
    """

    def __init__(
        self,
        console: Console,
        say: Callable[[], str],
        *,
        delay: float = _DELAY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`say` gives what is waited for, in a thread of its own; the seconds are added to it."""
        self._console, self._say, self._delay, self._clock = console, say, delay, clock
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to wait."""
        if not can_redraw(self._console):
            return
        self._thread = threading.Thread(target=self._show, name="quire-waiting", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take the line away. It is gone when this returns; may be called twice."""
        self._ended.set()
        # Not forgotten before it is over: Ctrl-C may break the wait off, and `stop` is called again.
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _show(self) -> None:
        begun = self._clock()
        if self._ended.wait(self._delay):
            return
        # The terminal may be closed meanwhile: then there is nothing to take away.
        with (
            suppress(OSError, ValueError),
            ForegroundLive(console=self._console, auto_refresh=False, transient=True) as live,
        ):
            shown = ""
            while not self._ended.is_set():
                line = self._line(self._clock() - begun)
                if line != shown:
                    live.start()
                    live.update(self._text(line), refresh=True)
                    shown = line
                self._ended.wait(_INTERVAL)

    def _line(self, seconds: float) -> str:
        said = self._say()
        if seconds < 1:
            return said
        return f"{said}{'' if said.endswith('...') else ','} {int(seconds)} s"

    def _text(self, line: str) -> Text:
        text = Text(line, style="chat.remark")
        # The last column stays free: some terminals wrap as soon as it is written.
        text.truncate(max(self._console.width - 1, 1), overflow="ellipsis")
        return text


class AnswerProgress:
    """What an answer is at, in words, as long as nothing of it is shown."""

    def __init__(self, engine: BaseEngine) -> None:
        self._engine = engine
        self._tokens = 0
        self._writes: str | None = None

    def add(self, delta: ChatDelta) -> None:
        """Note what has come, though it may not be shown."""
        self._tokens += len(delta.token_ids)
        thinks = any(isinstance(part, ThoughtPart) for part in delta.parts or ())
        self._writes = "Thinking" if thinks else "Writing"

    def __str__(self) -> str:
        if self._writes is not None:
            return f"{self._writes} ...{f' {self._tokens:,} tokens' if self._tokens else ''}"
        load = self._engine.state.load
        if load is None or not load.prefilling:
            return "Reading the prompt ..."
        done = f" {100 * load.prefilled // load.prefilling} %" if load.prefilled else ""
        return f"Reading {load.prefilling:,} tokens ...{done}"
