"""The slash commands for what outlives a chat: files, kept conversations, and the model."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from quire.cli.chat.chat_store import KeptChat
from quire.cli.chat.files import path_of, read_text, shell_words, write_whole
from quire.cli.chat.keeping import Keeping
from quire.cli.chat.saved_markdown import MARK, to_markdown
from quire.cli.chat.slash_table import ON_OR_OFF, Chat, CommandTable
from quire.errors import ConfigError, RequestError

KEPT = CommandTable()
_MARKDOWN = (".md", ".markdown")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MODEL = 20
"""The most columns of a model's name in a list."""
_WIDE = 60
"""Columns from which on a list has room for the models."""


@KEPT.command("/resume", "[NUMBER|WORDS]", "go on with a kept conversation; without a number, list")
def _resume(chat: Chat, argument: str) -> None:
    keeping = _keeping(chat)
    number = int(argument) if re.fullmatch(r"\d{1,9}", argument) else _chosen(chat, argument)
    if number is None:
        chat.say("Nothing was changed.")
        return
    kept = keeping.go_on(number, chat.session)
    chat.show_history()
    answered = "" if kept.model == keeping.model else f"; it was answered by {kept.model} until now"
    chat.say(f"Going on with {number}, {len(chat.session.turns)} messages{answered}.")


def _chosen(chat: Chat, wanted: str) -> int | None:
    """The number of one conversation of those that hold the words; None if the user takes none."""
    found = _keeping(chat).store.list(wanted)
    if not found:
        raise RequestError(
            f"No kept conversation holds {wanted!r}" if wanted else "No conversation is kept yet"
        )
    if wanted and len(found) == 1:
        return found[0].number
    chat.say("\n".join(chat_rows(found, chat.width, time.time())))
    answer = (chat.ask("number>") or "").strip()
    if answer and not re.fullmatch(r"\d{1,9}", answer):
        raise RequestError(f"{answer!r} is no number; /resume WORDS finds conversations")
    return int(answer) if answer else None


def chat_rows(chats: Sequence[KeptChat], width: int, now: float) -> list[str]:
    """A line for each: its number, when it was changed, its title; its model where there is room."""
    numbers = max(len(str(chat.number)) for chat in chats)
    whens = [_when(chat.changed, now) for chat in chats]
    when_width = max(map(len, whens))
    models = [set_cell_size(chat.model, _MODEL).rstrip() for chat in chats]
    beside = max(map(cell_len, models)) + 2 if width >= _WIDE and len(set(models)) > 1 else 0
    room = max(width - 1 - numbers - 2 - when_width - 2 - beside, 8)
    room = min(room, max(cell_len(chat.title) for chat in chats))
    lines: list[str] = []
    for chat, when, model in zip(chats, whens, models, strict=True):
        title = Text(chat.title)
        title.truncate(room, overflow="ellipsis", pad=bool(beside))
        line = f"{chat.number:>{numbers}}  {when:<{when_width}}  {title.plain}"
        lines.append(f"{line}  {model}" if beside else line)
    return lines


def _when(changed: float, now: float) -> str:
    """The time of a day that is today's, the day of this year, or the month of another."""
    then, today = time.localtime(changed), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    month = _MONTHS[then.tm_mon - 1]
    return f"{month} {then.tm_mday}" if then.tm_year == today.tm_year else f"{month} {then.tm_year}"


@KEPT.command(
    "/save", "FILE", "write the conversation: Markdown in FILE.md, else JSON", takes_path=True
)
def _save(chat: Chat, argument: str) -> None:
    if not argument:
        raise RequestError("Which file? /save FILE.md for people, /save FILE.json for /load")
    path = path_of(argument)
    if path.suffix.lower() in _MARKDOWN:
        if path.exists() and not read_text(path).startswith(MARK):
            raise ConfigError(f"{path} is there and was not saved here: choose another name.")
        write_whole(path, to_markdown(chat.session, chat.info.name))
    else:
        chat.session.save(path)
    chat.say(f"Saved {len(chat.session.turns)} messages to {path}.")


@KEPT.command(
    "/load", "FILE", "go on with a conversation that /save wrote as JSON", takes_path=True
)
def _load(chat: Chat, argument: str) -> None:
    if not argument:
        raise RequestError("Which file? /load FILE; /resume lists the kept conversations")
    path = path_of(argument)
    if path.is_dir():
        raise RequestError(f"{path} is a folder: /model {argument} changes the model")
    if not path.exists():
        raise RequestError(
            f"No such file: {path}; /model NAME changes the model, /resume goes on with what is kept"
        )
    chat.session.load(path)
    if chat.keeping is not None:
        chat.keeping.begin_anew()
    chat.show_history()
    chat.say(f"Loaded {len(chat.session.turns)} messages from {path}.")


@KEPT.command(
    "/keep", "[on|off]", "whether conversations are kept on this machine", words=ON_OR_OFF
)
def _keep(chat: Chat, argument: str) -> None:
    keeping = _keeping(chat)
    if argument not in ("", "on", "off"):
        raise RequestError(f"/keep takes on or off, not {argument!r}")
    if argument:
        keeping.on = False  # also where the choice cannot be written
        keeping.store.choose(argument == "on")
        keeping.on = argument == "on"
    left = ""
    if not keeping.on and keeping.chat is not None:
        left = f" What was kept until now stays as {keeping.chat.number}; /forget deletes it."
    elif keeping.on:
        left = " quire chat -c goes on with the last, /keep off keeps none, /forget deletes."
    chat.say(f"This conversation is {keeping.state()}.{left}")


@KEPT.command("/forget", "[NUMBER|all]", "delete this conversation, another, or all that are kept")
def _forget(chat: Chat, argument: str) -> None:
    keeping = _keeping(chat)
    this = keeping.chat
    if argument == "all":
        if (chat.ask("delete all that are kept? yes>") or "").strip() != "yes":
            chat.say("Nothing was changed.")
            return
        count = keeping.store.forget()
        chat.say(f"Deleted {count} conversation{'' if count == 1 else 's'}.")
    elif argument and not re.fullmatch(r"\d{1,9}", argument):
        raise RequestError(f"/forget takes a number or all, not {argument!r}; /resume lists them")
    elif not argument and this is None:
        raise RequestError("This conversation is not kept")
    else:
        number = int(argument) if argument else getattr(this, "number", 0)
        if not keeping.store.forget(number):
            raise RequestError(f"No conversation has the number {number}")
        chat.say(f"Deleted conversation {number}.")
        if this is None or number != this.number:
            return
    if this is not None:
        chat.session.clear()
        keeping.begin_anew()
        chat.say("The conversation begins anew.")


@KEPT.command(
    "/model", "[NAME]", "which model answers; with a name, another goes on", takes_path=True
)
def _model(chat: Chat, argument: str) -> None:
    if argument:
        chat.change_model(shell_words(argument))
    chat.say(f"{chat.info.line()} answers.")


def _keeping(chat: Chat) -> Keeping:
    if chat.keeping is None:
        raise RequestError("No conversations are kept here")
    return chat.keeping
