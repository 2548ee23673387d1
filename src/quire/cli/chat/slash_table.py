"""What a slash command is, what it may do, and the tables that commands are put in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from quire.cli.chat.attachments import Attachment
from quire.cli.chat.chat_info import ChatInfo
from quire.cli.chat.keeping import Keeping
from quire.cli.chat.session import Session


class Chat(Protocol):
    """What a command may do with the chat that it is given in."""

    session: Session
    show_stats: bool
    hides_thoughts: bool
    keeping: Keeping | None

    @property
    def info(self) -> ChatInfo: ...
    @property
    def width(self) -> int: ...

    def say(self, text: str) -> None: ...
    def answer(self, *, continues: bool = False) -> None: ...
    def ask(self, label: str) -> str | None: ...
    def edit(self, label: str, text: str) -> str | None: ...
    def attach(self, attached: Sequence[Attachment]) -> None: ...
    def copy(self, text: str) -> str: ...
    def show_history(self) -> None: ...
    def change_model(self, words: Sequence[str]) -> None: ...


class Leave(Exception):
    """The user leaves the chat."""


@dataclass(frozen=True)
class SlashCommand:
    """A command by its name.

    `usage` is what follows the name. For completion, `words` are what may follow, each with its
    meaning, and `takes_path` says whether a path may.
    """

    name: str
    usage: str
    help: str
    run: Callable[[Chat, str], None]
    words: Mapping[str, str]
    takes_path: bool


NO_WORDS: Mapping[str, str] = {}
OFF: Mapping[str, str] = {"off": ""}
ON_OR_OFF: Mapping[str, str] = {"on": "", "off": ""}


class CommandTable(dict[str, SlashCommand]):
    """Commands by their names, in the order in which they are listed."""

    def command(
        self,
        name: str,
        usage: str,
        text: str,
        *,
        words: Mapping[str, str] = NO_WORDS,
        takes_path: bool = False,
    ) -> Callable[[Callable[[Chat, str], None]], Callable[[Chat, str], None]]:
        """Put the function that follows into the table."""

        def register(run: Callable[[Chat, str], None]) -> Callable[[Chat, str], None]:
            self[name] = SlashCommand(name, usage, text, run, words, takes_path)
            return run

        return register
