"""Draw docs/terminal.svg, the README's picture: a real chat with the demo model.

Run from the repository's root: `python docs/make_terminal_picture.py`.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT
from rich.terminal_theme import DIMMED_MONOKAI

from quire.chat import ChatModel
from quire.cli.chat.chat_info import ChatInfo
from quire.cli.chat.colours import chat_console
from quire.cli.chat.command import greet
from quire.cli.chat.terminal_chat import TerminalChat
from quire.cli.demo import ScriptedReader
from quire.demo import demo_model_path

PICTURE = Path(__file__).parent / "terminal.svg"
LINES = (
    "Hello! Who are you?",
    "What is PagedAttention?",
    "What is 17 + 25?",
    "/stats on",
    "How do I stream an answer?",
    "/set temperature 0.2",
)


def main() -> None:
    """Chat, and write the picture."""
    # A dumb terminal is drawn on once, so that the record holds each line once.
    console = chat_console(
        "dark",
        file=io.StringIO(),
        record=True,
        force_terminal=True,
        color_system="truecolor",
        width=92,
        _environ={"TERM": "dumb"},
    )
    reader = ScriptedReader(console, tool_result="")
    with ChatModel({"model_name_or_path": str(demo_model_path())}) as model:
        greet(console, ChatInfo("the demo model", model))
        chat = TerminalChat(model, console, reader, {"temperature": 0})
        for line in LINES:
            chat.take(reader.type(">", line))
    picture = console.export_svg(
        title="quire chat",
        theme=DIMMED_MONOKAI,
        code_format=_without_fonts(CONSOLE_SVG_FORMAT),
        unique_id="terminal",
    )
    PICTURE.write_text(picture, encoding="utf-8")
    print(f"{PICTURE.name}: {len(picture) // 1000} kB")


def _without_fonts(svg: str) -> str:
    """Fetch nothing from elsewhere: the reader's own monospaced font does."""
    return re.sub(r"@font-face \{\{.*?\}\}", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    main()
