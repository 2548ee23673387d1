"""The slash commands of `quire chat`: one function each, and a table of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from quire.arguments import GeneratingArguments, parse_scalar
from quire.cli.chat.attachments import labels, read_files, read_sources
from quire.cli.chat.files import json_text
from quire.cli.chat.markdown_parser import code_blocks
from quire.cli.chat.remarks import two_columns
from quire.cli.chat.session import SETTINGS
from quire.cli.chat.slash_kept import KEPT
from quire.cli.chat.slash_table import OFF, ON_OR_OFF, Chat, CommandTable, Leave, SlashCommand
from quire.cli.chat.text_files import TextFile, size_of
from quire.errors import RequestError, nearest
from quire.media.placement import KINDS, Kind
from quire.messages import read_tools
from quire.options import OPTIONS, OPTIONS_BY_NAME, Option

_TABLE, _LAST = CommandTable(), CommandTable()
_SETTINGS: Mapping[str, str] = {
    one.name: one.meaning
    for one in sorted(OPTIONS, key=lambda one: one.name)
    if one.name in SETTINGS
}


def is_command(line: str) -> bool:
    """Whether a line is a command's, be it a misspelt one.

    Several lines that begin with a slash are a text that was pasted, unless they name a command.
    """
    return line.startswith("/") and ("\n" not in line or line.split(maxsplit=1)[0] in COMMANDS)


def run_command(chat: Chat, line: str) -> None:
    """Run a line that begins with a slash.

    Raises:
        Leave: the user leaves.
        RequestError, ConfigError: the command cannot be carried out.
    """
    name, _, argument = line.partition(" ")
    name = name.rstrip()
    command = COMMANDS.get(name)
    if command is None:
        raise RequestError(
            f"No command {name}{nearest(name, COMMANDS)} (/help lists them; begin with // to send a slash)"
        )
    command.run(chat, argument.strip())


@_TABLE.command("/help", "[COMMAND|SETTING]", "this list, or more on one of them", words=_SETTINGS)
def _help(chat: Chat, argument: str) -> None:
    command = COMMANDS.get(f"/{argument.removeprefix('/')}")
    if not argument:
        chat.say(_help_on_all(chat.width))
    elif argument in ("keys", "shortcuts"):
        chat.say("\n".join(_KEYS))
    elif command is not None:
        lines = [f"{command.name} {command.usage}  {command.help}"]
        if command.name == "/set":
            lines += [_help_on_setting(OPTIONS_BY_NAME[name]) for name in _SETTINGS]
        chat.say("\n".join(lines))
    elif argument in SETTINGS:
        chat.say(_help_on_setting(OPTIONS_BY_NAME[argument]))
    else:
        known = [*(name.removeprefix("/") for name in COMMANDS), *SETTINGS]
        raise RequestError(f"No command and no setting {argument!r}{nearest(argument, known)}")


def _help_on_setting(option: Option) -> str:
    is_nothing = option.default in (None, (), {})
    default = "" if is_nothing else f", {_json(option.default)} by default"
    return f"{option.name}: {option.type}{default}. {option.meaning}"


def _help_on_all(width: int) -> str:
    rows = {f"{one.name} {one.usage}".rstrip(): one.help for one in COMMANDS.values()}
    return "\n".join([two_columns(rows, width), "", *_KEYS])


_KEYS = (
    "Enter sends; Alt-Enter, or \\ at the line's end, begins a new line. // sends a slash.",
    '""" begins several lines, and """ ends them; Ctrl-X Ctrl-E opens the editor.',
    "A file dropped on the terminal, or named as @PATH, is attached; in `...` its path is text.",
    "Ctrl-C stops an answer; Ctrl-D leaves.",
)


@_TABLE.command("/system", "[TEXT|off]", "the system message; without text, show it")
def _system(chat: Chat, argument: str) -> None:
    if argument:
        chat.session.system = None if argument == "off" else argument
    system = chat.session.system
    chat.say(
        f"System message: {system}" if system is not None else "No system message of your own."
    )


@_TABLE.command("/clear", "", "forget the conversation, keep the settings")
def _clear(chat: Chat, argument: str) -> None:
    dropped = labels(chat.session.attached)
    chat.session.clear()
    kept = ""
    if chat.keeping is not None:
        kept = "; /resume goes back to the last" if chat.keeping.chat else ""
        chat.keeping.begin_anew()
    chat.say(f"The conversation begins anew{f', without {dropped}' if dropped else ''}{kept}.")


def _attaching(kind: Kind) -> Callable[[Chat, str], None]:
    def run(chat: Chat, argument: str) -> None:
        attached = chat.session.attached
        if argument == "off":
            chat.session.attached = [
                one for one in attached if isinstance(one, TextFile) or one.kind != kind
            ]
        elif argument:
            chat.attach(read_sources(kind, argument))
            return
        _say_what_is_attached(chat)

    return run


def _say_what_is_attached(chat: Chat) -> None:
    left = labels(chat.session.attached)
    chat.say(f"Attached: {left}." if left else "Nothing is attached.")


@_TABLE.command(
    "/file",
    "[PATH ...|off]",
    "send files of any kind with the next message; a pattern takes several",
    words=OFF,
    takes_path=True,
)
def _file(chat: Chat, argument: str) -> None:
    if argument and argument != "off":
        chat.attach(read_files(argument))
        return
    if argument:
        chat.session.attached = []
    _say_what_is_attached(chat)


_PHRASES: dict[Kind, str] = {"image": "an image", "video": "a video", "audio": "a sound"}

for _kind in KINDS:
    _TABLE.command(
        f"/{_kind}",
        "[PATH|URL|off]",
        f"send {_PHRASES[_kind]} with the next message",
        words=OFF,
        takes_path=True,
    )(_attaching(_kind))


@_TABLE.command(
    "/set", "[NAME VALUE]", "a sampling setting; without a name, show all", words=_SETTINGS
)
def _set(chat: Chat, argument: str) -> None:
    name, value = _name_and_value(argument)
    if value is not None:
        typed = None if value in ("default", "none", "null") else parse_scalar(value)
        chat.session.set(name, typed)
    rows = _settings(chat)
    if name and name not in rows:
        raise RequestError(
            f"{name} is not set{'' if name in SETTINGS else nearest(name, SETTINGS)}"
        )
    chosen = {name: rows[name]} if name else rows
    chat.say(two_columns(chosen, chat.width, between=" = "))


def _name_and_value(argument: str) -> tuple[str, str | None]:
    first, space, rest = argument.partition(" ")
    name, equals, value = first.partition("=")
    if equals:
        return name.strip(), (value + space + rest).strip()
    rest = rest.strip().removeprefix("=").strip()
    return name.strip(), rest or None


CONFIGURABLE = frozenset(GeneratingArguments.model_fields)
"""What /set shows whether or not it was given."""


def _settings(chat: Chat) -> dict[str, str]:
    """Each setting that has a value, and where the value comes from."""
    session, model = chat.session, chat.info.generation_config
    shown: dict[str, str] = {}
    for source, values in (
        ("default", {one.name: one.default for one in OPTIONS if one.name in CONFIGURABLE}),
        (
            "from the model",
            {one.name: model.get(one.from_model) for one in OPTIONS if one.from_model},
        ),
        ("configured", session.configured),
        ("set here", session.settings),
    ):
        shown |= {
            key: f"{_json(value)}  ({source})" for key, value in values.items() if value is not None
        }
    return shown


@_TABLE.command("/retry", "", "answer the last question again")
def _retry(chat: Chat, argument: str) -> None:
    if not chat.session.retry():
        raise RequestError("There is no question to answer again")
    chat.answer()


@_TABLE.command("/continue", "", "go on with the last answer, or with a thought that was cut")
def _continue(chat: Chat, argument: str) -> None:
    if not chat.session.reopen():
        raise RequestError("There is no answer to go on with")
    chat.answer(continues=True)


@_TABLE.command(
    "/edit",
    "[question]",
    "change the last answer, or the last question and ask it again",
    words={"question": "the last question instead of the answer"},
)
def _edit(chat: Chat, argument: str) -> None:
    if argument not in ("", "question"):
        raise RequestError(f"/edit takes nothing or question, not {argument!r}")
    session = chat.session
    before = session.question if argument else session.answer
    if before is None:
        raise RequestError(f"There is no {argument or 'answer'} of text to change")
    text = chat.edit(f"{argument or 'answer'}>", before)
    if text is None or text == before:
        chat.say("Nothing was changed.")
        return
    if argument:
        session.change_question(text)
        chat.answer()
    else:
        session.change_answer(text)
        chat.say("The answer was changed; /continue goes on with it.")


@_TABLE.command(
    "/copy",
    "[code]",
    "the last answer into the clipboard, or its last block of code",
    words={"code": "the last block of code alone"},
)
def _copy(chat: Chat, argument: str) -> None:
    if argument not in ("", "code"):
        raise RequestError(f"/copy takes nothing or code, not {argument!r}")
    text = chat.session.last_text
    if not text:
        raise RequestError("There is no answer to copy")
    if argument:
        blocks = code_blocks(text)
        if not blocks:
            raise RequestError("The last answer has no block of code")
        text = blocks[-1]
    chat.say(f"Copied {size_of(text)} {chat.copy(text)}.")


@_TABLE.command(
    "/tools",
    "[FILE|JSON|off]",
    "the tools that the model may call",
    words=OFF,
    takes_path=True,
)
def _tools(chat: Chat, argument: str) -> None:
    if argument == "off":
        chat.session.tools = []
    elif argument:
        chat.session.tools = [dict(tool) for tool in read_tools(json_text(argument))]
    names = [str(tool.get("function", tool)["name"]) for tool in chat.session.tools]
    chat.say(f"Tools: {', '.join(names)}." if names else "No tools.")


_THINK: Mapping[str, str] = {
    "on": "the model thinks first",
    "off": "it does not",
    "low": "a little, where the model knows of that",
    "medium": "",
    "high": "",
    "hide": "its thoughts are not shown",
    "show": "they are",
}


@_TABLE.command(
    "/think",
    "[on|off|high|hide]",
    "whether a model thinks first, how much (low, medium, high), and whether that is shown",
    words=_THINK,
)
def _think(chat: Chat, argument: str) -> None:
    if argument and argument not in _THINK:
        raise RequestError(f"/think takes {', '.join(_THINK)}, not {argument!r}")
    session = chat.session
    if argument in ("on", "off"):
        session.enable_thinking = argument == "on"
        if argument == "off":
            session.set("reasoning_effort", None)
    elif argument in ("hide", "show"):
        chat.hides_thoughts = argument == "hide"
    elif argument:
        session.set("reasoning_effort", argument)
        session.enable_thinking = True
    state = {None: "as configured", True: "on", False: "off"}[session.enable_thinking]
    effort = session.settings.get("reasoning_effort")
    words = [state, f"{effort} effort" if effort else "", "hidden" * chat.hides_thoughts]
    chat.say(f"Thinking: {', '.join(filter(None, words))}.")


@_TABLE.command("/stats", "[on|off]", "tokens a second and time to first token", words=ON_OR_OFF)
def _stats(chat: Chat, argument: str) -> None:
    chat.show_stats = _on_or_off(argument, "/stats") if argument else not chat.show_stats
    chat.say(f"Figures after each answer: {'on' if chat.show_stats else 'off'}.")


@_LAST.command("/info", "", "the model, the engine, and what is kept of this conversation")
def _info(chat: Chat, argument: str) -> None:
    rows = {**chat.info.rows(), "conversation": _conversation(chat)}
    chat.say(two_columns(rows, chat.width))


def _conversation(chat: Chat) -> str:
    count = len(chat.session.turns)
    kept = "" if chat.keeping is None else f", {chat.keeping.state()}"
    return f"{count} message{'' if count == 1 else 's'}{kept}"


@_LAST.command("/exit", "", "leave (as Ctrl-D does)")
def _exit(chat: Chat, argument: str) -> None:
    raise Leave


def _on_or_off(argument: str, name: str) -> bool:
    if argument not in ("on", "off"):
        raise RequestError(f"{name} takes on or off, not {argument!r}")
    return argument == "on"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


COMMANDS: Mapping[str, SlashCommand] = {**_TABLE, **KEPT, **_LAST}
