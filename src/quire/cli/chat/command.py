"""The command `quire chat`: with a person at the terminal, or as a filter."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TextIO

from quire import __version__
from quire.cli.hub import fetch_models
from quire.cli.terminal import (
    Harmless,
    harmless,
    is_terminal,
    no_echo,
    note,
    read_message_text,
    show_log,
)
from quire.cli.words import MakeModel, Start, read_start
from quire.errors import UnsupportedOptionError

if TYPE_CHECKING:
    from rich.console import Console

    from quire.chat import ChatModel


def run_chat(words: Sequence[str], make_model: MakeModel) -> None:
    """Chat until the user leaves, or answer what is piped in.

    Raises:
        QuireError: the words make no sense, the model cannot be loaded, or the one answer failed.
    """
    interactive = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    show_log(logging.INFO if interactive else logging.WARNING)
    start = read_start(words)
    if interactive:
        chat_in_terminal(start, make_model)
        return
    if is_terminal(sys.stdin):
        note("Type the message; Ctrl-D ends it.")
    text = read_message_text(sys.stdin)
    if start.is_demo:
        note("No model was named: quire's small demo model answers.")
    with make_model(start.arguments) as model:
        run_filter(model, text, sys.stdout, start.options)


def chat_in_terminal(start: Start, make_model: MakeModel) -> None:
    """Load the model and chat until the user leaves."""
    # A filter draws nothing and asks nobody, so it does not wait for rich and prompt_toolkit.
    from rich.console import Console
    from rich.status import Status
    from rich.text import Text

    from quire.cli.chat.reader import TerminalReader
    from quire.cli.chat.terminal_chat import TerminalChat

    name = "the demo model" if start.is_demo else str(start.arguments["model_name_or_path"])
    errors = Console(file=sys.stderr)
    with no_echo():
        fetch_models(start.arguments)
        with Status(Text(f"Loading {harmless(name)} ..."), console=errors):
            model = make_model(start.arguments)
    console = Console(highlight=False)
    with model:
        greet(console, name, model, is_demo=start.is_demo)
        TerminalChat(model, console, TerminalReader(), start.options).run()


def greet(console: Console, name: str, model: ChatModel, *, is_demo: bool = False) -> None:
    """Say what answers here, and how to go on."""
    from rich.text import Text

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


def run_filter(model: ChatModel, text: str, output: TextIO, options: Mapping[str, Any]) -> None:
    """Write the answer to `text` as it streams, and nothing else.

    Raises:
        UnsupportedOptionError: several answers are asked for.
        QuireError: the request was refused, or the engine failed.
    """
    if options.get("n", options.get("num_return_sequences", 1)) != 1:
        raise UnsupportedOptionError(
            "A filter writes one answer: leave out n and num_return_sequences."
        )
    safe = Harmless() if is_terminal(output) else None
    last = ""
    with closing(model.stream([{"role": "user", "content": text}], **options)) as deltas:
        for delta in deltas:
            piece = safe.add(delta.content) if safe else delta.content
            if piece:
                output.write(piece)
                output.flush()
                last = piece
    rest = (safe.flush() if safe else "") + ("" if last.endswith("\n") else "\n")
    output.write(rest)
    output.flush()
