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
from quire.cli.terminal import harmless

if TYPE_CHECKING:
    from quire.chat import ChatModel


def chat_in_terminal(start: Start, make_model: MakeModel) -> None:
    """Load the model and chat until the user leaves."""
    name = "the demo model" if start.is_demo else str(start.arguments["model_name_or_path"])
    errors = Console(file=sys.stderr)
    with Status(Text(f"Loading {harmless(name)} ..."), console=errors):
        model = make_model(start.arguments)
    console = Console(highlight=False)
    with model:
        _greet(console, name, model)
        TerminalChat(model, console, TerminalReader(), start.options).run()


def _greet(console: Console, name: str, model: ChatModel) -> None:
    engine = model.engine
    console.print(
        Text.assemble(
            (f"quire {__version__}", "bold"),
            f" · {harmless(name)} · {engine.name}, {engine.context_length:,} tokens of context",
            ("\n/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.", "dim"),
        ),
        soft_wrap=True,
    )
