"""The line that stands while nothing is shown yet."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from quire.cli.chat.waiting import AnswerProgress, Waiting
from quire.engines.seam import EngineLoad, EngineState
from quire.outputs import Delta, ThoughtPart
from tests.cli.screen import Screen


class Output(io.StringIO):
    """A terminal's file that wakes who waits for something written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Condition()

    def write(self, text: str, /) -> int:
        with self.written:
            self.written.notify_all()
            return super().write(text)

    def wait_for(self, text: str) -> None:
        with self.written:
            assert self.written.wait_for(lambda: text in self.getvalue(), 60)


def terminal(output: io.StringIO, **options: Any) -> Console:
    options = {"width": 40, "height": 10, "force_terminal": True, "_environ": {}, **options}
    return Console(file=output, highlight=False, **options)


def screen_of(output: io.StringIO) -> str:
    screen = Screen(40, 10)
    screen.feed(output.getvalue())
    return screen.text


def ticking(*seconds: float) -> Callable[[], float]:
    """A clock that shows these, and then the last one for ever."""
    left = list(seconds)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_what_is_quick_shows_nothing() -> None:
    output = Output()
    with Waiting(terminal(output), lambda: "Reading ...", delay=60):
        pass
    assert output.getvalue() == ""


def test_the_line_says_for_how_long_and_leaves_no_trace() -> None:
    output = Output()
    console = terminal(output)
    console.print("> a question")
    waiting = Waiting(console, lambda: "Reading ...", delay=0, clock=ticking(0, 0.5, 2.5))
    waiting.start()
    output.wait_for("Reading ... 2 s")
    assert screen_of(output) == "> a question\nReading ... 2 s"
    waiting.stop()
    waiting.stop()
    console.print("An answer.")
    assert screen_of(output) == "> a question\nAn answer."
    assert output.getvalue().count("\x1b[?25l") == output.getvalue().count("\x1b[?25h") == 1


def test_the_line_is_drawn_where_its_words_change_alone() -> None:
    output = Output()
    words = iter(["10 %"] * 3 + ["20 %"] * 3 + ["30 %"] * 1000)
    with Waiting(terminal(output), lambda: next(words), delay=0, clock=ticking(0)):
        output.wait_for("30 %")
    assert output.getvalue().count("10 %") == output.getvalue().count("20 %") == 1


def test_a_line_that_is_too_long_is_cut() -> None:
    output = Output()
    with Waiting(terminal(output, width=12), lambda: "Loading 你好你好你好 ...", delay=0):
        output.wait_for("…")
        assert screen_of(output) == "Loading 你…"


@pytest.mark.parametrize("options", [{"force_terminal": False}, {"_environ": {"TERM": "dumb"}}])
def test_pipes_and_dumb_terminals_get_no_line(options: dict[str, Any]) -> None:
    output = Output()
    with Waiting(terminal(output, **options), lambda: "Reading ...", delay=0):
        time.sleep(0.05)
    assert output.getvalue() == ""


def test_a_terminal_that_is_closed_meanwhile_ends_it() -> None:
    output = Output()
    waiting = Waiting(terminal(output), lambda: "Reading ...", delay=0, clock=ticking(0))
    waiting.start()
    output.wait_for("Reading")
    output.close()
    waiting.stop()


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (None, "Reading the prompt ..."),
        (EngineLoad(running=1, waiting=0), "Reading the prompt ..."),
        (EngineLoad(1, 0, prefilling=8192), "Reading 8,192 tokens ..."),
        (EngineLoad(1, 0, prefilling=8192, prefilled=2048), "Reading 8,192 tokens ... 25 %"),
    ],
)
def test_how_far_the_prompt_is_read(load: EngineLoad | None, text: str) -> None:
    engine: Any = SimpleNamespace(state=EngineState(load))
    assert str(AnswerProgress(engine)) == text


def test_what_is_written_and_not_shown() -> None:
    engine: Any = SimpleNamespace(state=EngineState())
    progress = AnswerProgress(engine)
    progress.add(Delta(text="Hm", token_ids=(1, 2), parts=(ThoughtPart("Hm"),)))
    assert str(progress) == "Thinking ... 2 tokens"
    progress.add(Delta(token_ids=(3,)))
    assert str(progress) == "Writing ... 3 tokens"
