"""`quire demo`: a scripted conversation with the demo model or another, and what to do next."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from quire import __version__
from quire.characters import harmless
from quire.cli.chat.answer import Answer, total
from quire.cli.chat.colours import chat_console
from quire.cli.chat.ground import ask_ground
from quire.cli.chat.terminal_chat import TerminalChat
from quire.cli.signals import Suspension
from quire.cli.terminal import can_redraw, show_log
from quire.cli.words import MakeModel
from quire.demo import DEMO_CONVERSATION, demo_model_path

if TYPE_CHECKING:
    from quire.chat import ChatModel

OPTIONS = {"temperature": 0, "max_new_tokens": 160}
"""Greedy, so that every run shows the same; bounded, so that no run is long."""

WEATHER_TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "Look up the weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "City name"}},
        "required": ["city"],
    },
}
WEATHER_QUESTION = "What is the weather in Lisbon?"
WEATHER = {"temp": 24, "unit": "C", "sky": "sunny"}
"""What the made-up tool answers."""

QUESTIONS = (
    "What is 31 + 47?",
    "What is quire?",
    "What is 90 - 35?",
    "Give me a JSON object with city Oslo and count 3.",
    "What is prefix caching?",
    "Who are you?",
    "What is 8 + 64?",
    "What is continuous batching?",
)

GENERAL_CONVERSATION = ("What is the capital of France?", "Tell me one thing to see there.")
GENERAL_QUESTIONS = (
    "What is the capital of France?",
    "Name three colors.",
    "In which year did the Second World War end?",
    "What is the opposite of hot?",
    "What is water made of?",
    "How many days has a week?",
    "What is the capital of Japan?",
    "Write a short poem about the sea.",
)
"""What any model is asked."""

NEXT = """\
What to do next
  make chat             chat with this demo model yourself (or: quire chat)
  quire chat demo-see   show pictures to a model that sees (demo-hear: sounds)
  quire chat FOLDER     chat with a model of yours: a folder, or a GGUF file
  quire prompt FOLDER   see what is sent to it
  From Python:
    from quire import ChatModel
    with ChatModel({"model_name_or_path": "FOLDER"}) as model:
        for text in model.stream_chat([{"role": "user", "content": "Hello!"}]):
            print(text, end="", flush=True)"""


class ScriptedReader:
    """A Reader that types what the script says, as if a user did."""

    def __init__(self, console: Console, tool_result: str) -> None:
        self._console = console
        self._tool_result = tool_result

    def type(self, label: str, line: str) -> str:
        self._console.print(Text.assemble((f"{label} ", "chat.you"), (line, "bold")))
        return line

    def read(self, label: str, text: str = "") -> str:
        """Type the tool's result: the chat itself asks for nothing else."""
        return self.type(label, self._tool_result)

    def edit(self, label: str, text: str) -> str:
        """Leave the text as it is: no script edits one."""
        return text


def run_demo(
    make_model: MakeModel, console: Console | None = None, name: str | None = None
) -> None:
    """Load the demo model, or the one of a name, converse, and show the figures.

    Raises:
        QuireError: the model cannot be loaded, or an answer failed.
    """
    show_log(logging.WARNING)
    console = console or chat_console(ask_ground()[0])
    before = time.monotonic()
    with make_model({"model_name_or_path": name or str(demo_model_path())}) as model:
        ready = process_age() or time.monotonic() - before
        Demo(model, console, name).run(ready)


class Demo:
    """The scripted conversation, shown as `quire chat` shows one."""

    def __init__(self, model: ChatModel, console: Console, name: str | None = None) -> None:
        """`name`: of a model that is not the demo model, and is asked what any model may be asked."""
        self.model, self.console, self._name = model, console, name
        self._reader = ScriptedReader(console, json.dumps(WEATHER))

    def run(self, ready: float) -> None:
        """Show the whole script. `ready` is how many seconds it took to load the model."""
        engine = self.model.engine
        shown = "the demo model" if self._name is None else Path(self._name).name
        self._title(
            f"quire {__version__} · {shown} · {engine.name}, "
            f"{engine.info.context_length:,} tokens of context"
        )
        self.console.print()
        lines, questions = DEMO_CONVERSATION, QUESTIONS
        if self._name is not None:
            lines, questions = GENERAL_CONVERSATION, GENERAL_QUESTIONS
        alone = self._converse("A conversation, streamed", lines, [])
        if self._name is None:
            tools = [WEATHER_TOOL]
            alone += self._converse("A tool, offered and called", [WEATHER_QUESTION], tools)
        self._section(f"{len(questions)} questions at once, in one batch")
        together, seconds = ask_at_once(self.model, questions, OPTIONS, self.console)
        self.console.print()
        self.console.print(Text(figures(ready, alone, together, seconds), style="bold"))
        self.console.print()
        self.console.print(Text(NEXT), soft_wrap=True)

    def _converse(
        self, title: str, lines: Sequence[str], tools: list[dict[str, Any]]
    ) -> list[Answer]:
        self._section(title)
        chat = TerminalChat(self.model, self.console, self._reader, OPTIONS)
        chat.session.tools = tools
        for line in lines:
            chat.take(self._reader.type(">", line))
        return chat.answers

    def _title(self, text: str) -> None:
        self.console.print(Text(text, style="bold"), soft_wrap=True)

    def _section(self, title: str) -> None:
        self.console.print(Text(f"── {title} ──\n", style="dim"), soft_wrap=True)


def figures(
    ready: float, alone: Sequence[Answer], together: Sequence[Answer], seconds: float
) -> str:
    """One line of figures; `seconds` is how long the answers of `together` took in all."""
    tokens, writing = total(alone)
    count, _ = total(together)
    return (
        f"Ready in {ready:.1f} s · {tokens + count} tokens · {_rate(tokens - len(alone), writing)} "
        f"alone, {_rate(count, seconds)} {len(together)} at once"
    )


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:,.0f} tokens/s" if seconds > 0 and tokens > 0 else "-"


def process_age() -> float | None:
    """Seconds since this process began; None where the system does not say."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks = int(fields[19])  # `starttime`, the 22nd field, in clock ticks since boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


# --- several questions at once ---------------------------------------------------------------------


def ask_at_once(
    model: ChatModel, questions: Sequence[str], options: Mapping[str, Any], console: Console
) -> tuple[list[Answer], float]:
    """Ask all questions in the same moment; return the answers, and the seconds that they took."""
    answers = [Answer() for _ in questions]
    live = (
        Live(console=console, auto_refresh=False, transient=True) if can_redraw(console) else None
    )

    suspension = Suspension()

    def show() -> None:
        if live is not None:
            if suspension.has_been():  # rich goes up as many rows as it has drawn
                console.file.write("\n" * (len(questions) - 1))
            live.update(_lines(questions, answers, console.width), refresh=True)

    with live or nullcontext():
        seconds = asyncio.run(_ask_all(model, questions, options, answers, show))
    console.print(_lines(questions, answers, console.width), soft_wrap=True)
    return answers, seconds


async def _ask_all(
    model: ChatModel,
    questions: Sequence[str],
    options: Mapping[str, Any],
    answers: Sequence[Answer],
    show: Callable[[], None],
) -> float:
    start = time.monotonic()
    asking = asyncio.gather(
        *(
            _ask(model, question, options, answer)
            for question, answer in zip(questions, answers, strict=True)
        )
    )
    while not asking.done():
        show()
        await asyncio.wait([asking], timeout=1 / 15)
    await asking
    return max(answer.last_at for answer in answers) - start


async def _ask(model: ChatModel, question: str, options: Mapping[str, Any], answer: Answer) -> None:
    answer.asked_at = time.monotonic()
    stream = model.astream([{"role": "user", "content": question}], **options)
    async with aclosing(stream) as deltas:
        async for delta in deltas:
            answer.add(delta, time.monotonic())


def _lines(questions: Sequence[str], answers: Sequence[Answer], width: int) -> Text:
    """One line for each question; what is too long for the window is cut."""
    column = min(max(map(len, questions)), width * 2 // 5)
    lines: list[Text] = []
    for question, answer in zip(questions, answers, strict=True):
        asked = Text(question, style="chat.you")
        asked.truncate(column, overflow="ellipsis", pad=True)
        written = Text(harmless(" ".join((answer.content or answer.reasoning).split())))
        written.truncate(max(width - column - 2, 1), overflow="ellipsis")
        lines.append(Text.assemble(asked, "  ", written))
    return Text("\n").join(lines)
