"""Setting up `quire chat` on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status
from rich.text import Text

from quire import __version__
from quire.cli.chat import TerminalChat
from quire.cli.model import MakeModel, Start
from quire.cli.reader import TerminalReader
from quire.cli.terminal import harmless, no_echo

if TYPE_CHECKING:
    from quire.chat import ChatModel


def chat_in_terminal(start: Start, make_model: MakeModel) -> None:
    """Load the model and chat until the user leaves."""
    name = "the demo model" if start.is_demo else str(start.arguments["model_name_or_path"])
    errors = Console(file=sys.stderr)
    with no_echo(), Status(Text(f"Loading {harmless(name)} ..."), console=errors):
        model = make_model(start.arguments)
    console = Console(highlight=False)
    with model:
        greet(console, name, model, is_demo=start.is_demo)
        TerminalChat(model, console, TerminalReader(), start.options).run()


def greet(console: Console, name: str, model: ChatModel, *, is_demo: bool = False) -> None:
    """Say what answers here, and how to go on."""
    engine = model.engine
    hints = ["/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves."]
    if is_demo:
        hints.append("No model was named: this is a small one. For yours: quire chat FOLDER")
    console.print(
        Text.assemble(
            (f"quire {__version__}", "bold"),
            f" · {harmless(name)} · {engine.name}, {engine.info.context_length:,} tokens of context",
            ("".join(f"\n{hint}" for hint in hints), "dim"),
        ),
    )
    console.print()
