"""The command `quire chat`: with a person at the terminal, or as a filter."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import Parameter

from quire import __version__
from quire.characters import harmless
from quire.cli.hub import fetch_models
from quire.cli.terminal import (
    is_terminal,
    no_echo,
    note,
    read_message_text,
    read_piped_text,
    show_log,
)
from quire.cli.words import Flag, MakeModel, Start, Value, read_start
from quire.errors import ConfigError, MessageError

# `quire --help` waits for none of what a chat needs: functions import it.

if TYPE_CHECKING:
    from rich.console import Console

    from quire.chat import ChatModel


@Parameter(name="*")
@dataclass(frozen=True)
class ChatOptions:
    """The command's own options, as they were given."""

    prompt: Annotated[
        str | None,
        Parameter(name=["--prompt", "-p"], show_default=False, allow_leading_hyphen=True),
    ] = None
    """The prompt, as the word in quotes is: answer it and end."""
    json: Flag = False
    """Write the answer as one JSON object: its text, thought, calls, end and tokens."""
    schema: Value = None
    """A JSON schema, or a file with one, that the answer follows."""
    tools: Value = None
    """The tools that the model may call, as JSON or a file; calls are written as JSON lines."""


def run_chat(words: Sequence[str], options: ChatOptions, make_model: MakeModel) -> int:
    """Chat until the user leaves, or answer a prompt and what is piped in. Return the exit code.

    Raises:
        QuireError: the words make no sense, the model cannot be loaded, or the one answer failed.
    """
    prompt, words = _split_prompt(words, options.prompt)
    answers_once = prompt is not None or not (is_terminal(sys.stdin) and is_terminal(sys.stdout))
    show_log(logging.WARNING if answers_once else logging.INFO)
    if answers_once:
        return _answer_once(read_start(words), options, prompt, make_model)
    if options.json or options.schema is not None:
        raise ConfigError("--json and --schema are for one answer: give a prompt, or pipe it in.")
    chat_in_terminal(read_start(words), options, make_model)
    return 0


def _answer_once(
    start: Start, options: ChatOptions, prompt: str | None, make_model: MakeModel
) -> int:
    from quire.cli.chat.one_answer import Form, write_answer
    from quire.cli.chat.session import Session

    session = Session(tools=_tools(options))
    form = Form.read(options.json, options.schema, calls=bool(session.tools))
    session.add_user(_read_question(prompt, sys.stdin))
    if start.is_demo:
        note("No model was named: quire's small demo model answers.")
    with make_model(start.arguments) as model:
        return write_answer(model, session, sys.stdout, start.options, form)


def _tools(options: ChatOptions) -> list[dict[str, Any]]:
    from quire.cli.chat.files import json_text
    from quire.messages import read_tools

    return [dict(tool) for tool in read_tools(json_text(options.tools))] if options.tools else []


def _split_prompt(words: Sequence[str], given: str | None) -> tuple[str | None, list[str]]:
    """The prompt among the words, and the others."""
    from quire.arguments import split_bare_words

    bare, others = split_bare_words(words)
    source = bare.pop(0) if bare and bare[0] == words[0] else None
    # No model and no file of a configuration has blanks in its name, unless it lies here.
    if source is not None and len(source.split()) > 1 and not Path(source).expanduser().exists():
        bare, source = [source, *bare], None
    prompts = [*bare, *([] if given is None else [given])]
    if len(prompts) > 1:
        listed = " and ".join(map(repr, prompts))
        raise ConfigError(
            f"There are several prompts, {listed}: one stands in quotes, arguments are key=value."
        )
    return (prompts[0] if prompts else None), ([] if source is None else [source]) + others


def _read_question(prompt: str | None, source: TextIO) -> str:
    """What was piped in, and the prompt below it."""
    if prompt is None:
        if is_terminal(source):
            note("Type the message; Ctrl-D ends it.")
        return read_message_text(source)
    piped = "" if is_terminal(source) else read_piped_text(source)
    if not (prompt.strip() or piped.strip()):
        raise MessageError("The prompt is empty.")
    return "\n\n".join(text for text in (piped, prompt) if text.strip())


def chat_in_terminal(start: Start, options: ChatOptions, make_model: MakeModel) -> None:
    """Load the model and chat until the user leaves."""
    # A filter draws nothing and asks nobody, so it does not wait for rich and prompt_toolkit.
    from rich.console import Console
    from rich.status import Status
    from rich.text import Text

    from quire.cli.chat.reader import TerminalReader
    from quire.cli.chat.terminal_chat import TerminalChat

    tools = _tools(options)
    name = "the demo model" if start.is_demo else str(start.arguments["model_name_or_path"])
    errors = Console(file=sys.stderr)
    with no_echo():
        fetch_models(start.arguments)
        with Status(Text(f"Loading {harmless(name)} ..."), console=errors):
            model = make_model(start.arguments)
    console = Console(highlight=False)
    with model:
        greet(console, name, model, is_demo=start.is_demo)
        chat = TerminalChat(model, console, TerminalReader(), start.options)
        chat.session.tools = tools
        chat.run()


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
