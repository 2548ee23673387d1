"""Lines from the user: several at once, with history and completion (prompt_toolkit)."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.layout.processors import TabsProcessor
from prompt_toolkit.output import Output

from quire.cli.chat.files import read_text
from quire.cli.chat.ground import Ground
from quire.cli.chat.slash_commands import COMMANDS
from quire.cli.chat.slash_table import SlashCommand
from quire.cli.terminal import MARKS, state_folder, with_echo
from quire.errors import ConfigError


class Reader(Protocol):
    """Asks the user, who may change `text`. Ctrl-C raises KeyboardInterrupt, Ctrl-D EOFError."""

    def read(self, label: str, text: str = "") -> str: ...
    def edit(self, label: str, text: str) -> str: ...


class CommandCompleter(Completer):
    """Completes slash commands, and what follows them: words, each with its meaning, and paths."""

    def __init__(self, commands: Mapping[str, SlashCommand]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        before = document.text_before_cursor
        if not before.startswith("/") or before.startswith("//") or "\n" in before:
            return
        name, space, argument = before.partition(" ")
        if not space:
            for command in self._commands.values():
                if command.name.startswith(name):
                    yield Completion(command.name, -len(name), display_meta=command.help)
        elif command := self._commands.get(name):
            yield from self._arguments(command, argument, complete_event)

    def _arguments(
        self, command: SlashCommand, argument: str, event: CompleteEvent
    ) -> Iterable[Completion]:
        for word, meaning in command.words.items():
            if word.startswith(argument):
                yield Completion(word, -len(argument), display_meta=meaning)
        if command.takes_path:
            yield from self._paths.get_completions(Document(argument, len(argument)), event)


def key_bindings() -> KeyBindings:
    """Enter sends; Alt-Enter, or a backslash before Enter, begins a new line.

    So does Enter after three quotation marks that nothing has closed yet.
    """
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\":
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif buffer.text.lstrip().startswith(MARKS) and buffer.text.count(MARKS) % 2:
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-x", "c-e")
    def _(event: KeyPressEvent) -> None:
        # prompt_toolkit's own binding sends the text as soon as the editor ends.
        event.current_buffer.open_in_editor()

    return bindings


def open_history() -> History:
    """The history in a file that its owner alone may read; in memory where none can be written."""
    try:
        path = state_folder() / "chat_history"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(str(path))


class _KeptHistory(FileHistory):
    """A file of lines. Where one cannot be written after all, such as on a full disk, it is not."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


_LABELS: Mapping[Ground, str] = {
    "dark": "<ansigreen><b>{}</b></ansigreen> ",
    "light": "<ansiblue><b>{}</b></ansiblue> ",
    "unknown": "<b>{}</b> ",
}


class TerminalReader:
    """The Reader of a real terminal."""

    def __init__(
        self,
        *,
        ground: Ground = "unknown",
        typed: str = "",
        history: History | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        """`typed` came before the first prompt. `input` and `output` stand in for the terminal in tests."""
        self._label = _LABELS[ground]
        self._session: PromptSession[Any] = PromptSession(
            multiline=True,
            key_bindings=key_bindings(),
            history=history if history is not None else open_history(),
            completer=CommandCompleter(COMMANDS),
            complete_while_typing=True,
            input_processors=[TabsProcessor(tabstop=8, char1=" ", char2=" ")],
            tempfile_suffix=".md",
            prompt_continuation=lambda width, line, wrapped: " " * width,
            input=input,
            output=output,
        )
        if typed:
            keys: list[KeyPress] = []
            Vt100Parser(keys.append).feed_and_flush(typed)
            store_typeahead(self._session.input, keys)

    def read(self, label: str, text: str = "") -> str:
        return self._session.prompt(HTML(self._label).format(label), default=text)

    def edit(self, label: str, text: str) -> str:
        """Have the text changed in $VISUAL or $EDITOR, or at the prompt where neither is set.

        Raises:
            ConfigError: the editor cannot be run, or ended with an error.
        """
        command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        return edit_in(command, text) if command else self.read(label, text)


def edit_in(command: str, text: str) -> str:
    """Have the text changed in an editor.

    Raises:
        ConfigError: the editor cannot be run, or ended with an error.
    """
    handle, name = tempfile.mkstemp(suffix=".md")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        with with_echo(), subprocess.Popen([*shlex.split(command), name]) as process:
            code = _wait(process)
        if code:
            raise ConfigError(f"The editor {command!r} ended with {code}; nothing was changed.")
        return read_text(Path(name)).removesuffix("\n")
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"The editor {command!r} cannot be run: {error}.") from None
    finally:
        os.unlink(name)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the editor; a Ctrl-C in it is meant for it alone."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
