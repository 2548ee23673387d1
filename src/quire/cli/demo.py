"""`quire demo`: a scripted conversation with the demo model, and what to do next."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from quire import __version__
from quire.cli.answer import Answer, total
from quire.cli.chat import TerminalChat
from quire.cli.demo_batch import ask_at_once
from quire.cli.model import MakeModel
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

NEXT = """\
What to do next
  make chat             chat with this demo model yourself (or: quire chat)
  quire chat demo-see   show pictures to a model that sees (demo-hear: sounds)
  quire chat FOLDER     chat with a model of yours, in Hugging Face's format
  quire prompt FOLDER   see what is sent to it
  From Python:
    from quire import ChatModel
    with ChatModel({"model_name_or_path": "FOLDER"}) as model:
        for text in model.stream_chat([{"role": "user", "content": "Hello!"}]):
            print(text, end="", flush=True)"""


class ScriptedReader:
    """Types what the script says, as if a user did."""

    def __init__(self, console: Console, tool_result: str) -> None:
        self._console = console
        self._tool_result = tool_result

    def type(self, label: str, line: str) -> str:
        self._console.print(Text.assemble((f"{label} ", "bold green"), (line, "bold")))
        return line

    def read(self, label: str) -> str:
        """The chat asks for nothing but a tool's result."""
        return self.type(label, self._tool_result)


def run_demo(make_model: MakeModel, console: Console | None = None) -> None:
    """Load the demo model, converse, and tell the figures.

    Raises:
        QuireError: the model cannot be loaded, or an answer failed.
    """
    console = console or Console(highlight=False)
    before = time.monotonic()
    with make_model({"model_name_or_path": str(demo_model_path())}) as model:
        ready = process_age() or time.monotonic() - before
        Demo(model, console).run(ready)


class Demo:
    """The script. All is shown as `quire chat` shows it."""

    def __init__(self, model: ChatModel, console: Console) -> None:
        self.model, self.console = model, console
        self._reader = ScriptedReader(console, json.dumps(WEATHER))

    def run(self, ready: float) -> None:
        """Show all of it. `ready`: seconds that it took until the model was there."""
        engine = self.model.engine
        self._title(
            f"quire {__version__} · the demo model · {engine.name}, "
            f"{engine.info.context_length:,} tokens of context"
        )
        self.console.print()
        alone = self._converse("A conversation, streamed", DEMO_CONVERSATION, [])
        alone += self._converse("A tool, offered and called", [WEATHER_QUESTION], [WEATHER_TOOL])
        self._section(f"{len(QUESTIONS)} questions at once, in one batch")
        together, seconds = ask_at_once(self.model, QUESTIONS, OPTIONS, self.console)
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
    """Seconds since this process began; None where the system does not tell."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks = int(fields[19])  # `starttime`, the 22nd field, in clock ticks since boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
