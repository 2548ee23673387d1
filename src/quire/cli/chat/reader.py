"""Lines from the user: several at once, with history and completion (prompt_toolkit)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_selection, is_searching
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.processors import TabsProcessor
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import is_dumb_terminal

from quire.cli.chat.colours import PROMPT_STYLES
from quire.cli.chat.editor import edit_text, find_editor
from quire.cli.chat.folded_texts import FoldedProcessor, FoldedTexts
from quire.cli.chat.ground import Ground
from quire.cli.chat.slash_commands import COMMANDS
from quire.cli.chat.slash_table import SlashCommand
from quire.cli.terminal import MARKS, note, state_folder
from quire.errors import ConfigError

_NAMED_END = re.compile(r"(?<!\S)@(\S*)\Z")
"""The file that is being named before the cursor."""


class Reader(Protocol):
    """Asks the user, who may change `text`. Ctrl-C raises KeyboardInterrupt, Ctrl-D EOFError."""

    def read(self, label: str, text: str = "") -> str: ...
    def edit(self, label: str, text: str) -> str: ...


class CommandCompleter(Completer):
    """Completes slash commands, what follows them (words, each with its meaning, and paths), and @PATH."""

    def __init__(self, commands: Mapping[str, SlashCommand]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        before = document.text_before_cursor
        if named := _NAMED_END.search(before):
            for one in self._paths.get_completions(
                Document(named[1], len(named[1])), complete_event
            ):
                if " " not in one.text:  # it would not be read as one word
                    yield one
            return
        if not _is_command(before):
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


def offers_words(before: str) -> bool:
    """Whether words are offered while this is typed: only then room is taken for their menu."""
    return bool(_NAMED_END.search(before)) or _is_command(before)


def _is_command(before: str) -> bool:
    return before.startswith("/") and not before.startswith("//") and "\n" not in before


def key_bindings(folded: FoldedTexts) -> KeyBindings:
    """Enter sends; Alt-Enter, or a backslash before Enter, begins a new line.

    So does Enter after three quotation marks that nothing has closed yet. A long text that is pasted is
    folded; the editor shows it whole.
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

    @bindings.add(Keys.BracketedPaste)
    def _(event: KeyPressEvent) -> None:
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        # A dumb terminal shows characters as they are, so that nothing can stand for another there.
        event.current_buffer.insert_text(text if is_dumb_terminal() else folded.paste(text))

    @bindings.add("c-x", "c-e")
    @bindings.add("c-g", filter=~is_searching & ~has_selection)
    async def _(event: KeyPressEvent) -> None:
        # prompt_toolkit's own binding sends the text as soon as the editor ends.
        buffer = event.current_buffer
        whole = folded.unfold(buffer.text)
        try:
            changed = await run_in_terminal(lambda: edit_text(whole), in_executor=True)
        except ConfigError as error:
            message = str(error)
            await run_in_terminal(lambda: note(message))
            return
        if changed != whole:
            text = folded.fold_again(changed)
            buffer.document = Document(text, len(text))

    return bindings


def open_history(folded: FoldedTexts) -> History:
    """The history in a file that its owner alone may read; in memory where none can be written.

    The file has every text whole, and the prompt folded.
    """
    try:
        path = state_folder() / "chat_history"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        path.chmod(0o600)
        if path.stat().st_size > _MOST_HISTORY:
            _shorten(path)
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(str(path), folded)


_MOST_HISTORY = 8 * 2**20
"""Bytes of the history, which is read whole at each start. Beyond them the older half goes."""


def _shorten(path: Path) -> None:
    """Leave out the older half of a history."""
    content = path.read_bytes()
    begin = content.find(
        b"\n# ", len(content) - _MOST_HISTORY // 2
    )  # an entry begins with its time
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content[begin:] if begin >= 0 else b"")
    os.replace(temporary, path)


class _KeptHistory(FileHistory):
    """A file of lines. Where one cannot be written after all, such as on a full disk, it is not."""

    def __init__(self, path: str, folded: FoldedTexts) -> None:
        super().__init__(path)
        self._folded = folded

    def load_history_strings(self) -> Iterable[str]:
        return [self._folded.fold(text) for text in super().load_history_strings()]

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(self._folded.unfold(string))


_LABELS: Mapping[Ground, str] = {
    "dark": "<ansigreen><b>{}</b></ansigreen> ",
    "light": "<ansiblue><b>{}</b></ansiblue> ",
    "unknown": "<b>{}</b> ",
}
_NO_CHARACTERS = re.compile("[\ud800-\udfff]")
"""What bytes become that are no UTF-8."""


_MENU_ROWS = 8
"""Rows below the prompt for the words that are offered."""


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
        self._folded = FoldedTexts()
        self._session: PromptSession[Any] = PromptSession(
            multiline=True,
            key_bindings=key_bindings(self._folded),
            history=history if history is not None else open_history(self._folded),
            completer=CommandCompleter(COMMANDS),
            complete_while_typing=Condition(self._offers_words),
            enable_suspend=True,
            input_processors=[
                FoldedProcessor(self._folded),
                TabsProcessor(tabstop=8, char1=" ", char2=" "),
            ],
            style=Style.from_dict(dict(PROMPT_STYLES[ground])),
            prompt_continuation=lambda width, line, wrapped: " " * width,
            input=input,
            output=output,
        )
        self._session.app.before_render += lambda app: self._make_room(app.output.get_size().rows)
        if typed:
            keys: list[KeyPress] = []
            Vt100Parser(keys.append).feed_and_flush(typed)
            store_typeahead(self._session.input, keys)

    def _offers_words(self) -> bool:
        return offers_words(self._session.default_buffer.document.text_before_cursor)

    def _make_room(self, rows: int) -> None:
        """Leave the menu of words half of a low window, which it would else have no room in at all."""
        self._session.reserve_space_for_menu = min(_MENU_ROWS, rows // 2)

    def read(self, label: str, text: str = "") -> str:
        typed = self._session.prompt(HTML(self._label).format(label), default=text)
        return _NO_CHARACTERS.sub("\ufffd", self._folded.unfold(typed))

    def edit(self, label: str, text: str) -> str:
        """Have the text changed in an editor, or at the prompt where none is there.

        Raises:
            ConfigError: the editor cannot be run, or ended with an error.
        """
        return self.read(label, text) if find_editor() is None else edit_text(text)
