"""The scripts of `quire completion`: the words of the command line, as tables in a shell's language.

The vocabulary comes from the tree of commands, the fields of the arguments, and the table of request
options; what a shell does with it stands in `quire.bash`, `quire.zsh` and `quire.fish`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from quire.arguments import FIELDS
from quire.arguments.base import is_secret, value_types
from quire.cli.batch import BATCH_COMMANDS
from quire.cli.bench import AGAINST
from quire.cli.convert import KEYS as CONVERT_KEYS
from quire.cli.convert import TYPES
from quire.cli.deploy import KINDS
from quire.cli.hub import KEYS as HUB_KEYS
from quire.deploy.target import MultiNode
from quire.errors import ConfigError, nearest
from quire.options import OPTIONS, REQUEST_OPTIONS, Flag
from quire.template.registry import template_names

if TYPE_CHECKING:
    from cyclopts import App
    from pydantic.fields import FieldInfo

SHELLS = ("bash", "zsh", "fish")
FILES = ":files"
"""Among the values of a key, or the words at a position: any file or folder."""
FLAG = ":flag"
"""As the value of an option: it takes none."""

_BOOLEANS = ("true", "false")
_DEMO_MODELS = ("demo-see", "demo-hear")
_WITH_REQUEST_OPTIONS = ("chat", "bench", "batch")
_FILE_ENDINGS = ("_path", "_file", "_folder", "_dir", "_root", "_config")
_VALUES_OF_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "against": (FILES,),
    "config": (FILES,),
    "diff": template_names(),
    "file": (FILES,),
    "json": (FILES,),
    "multi_node": get_args(MultiNode),
    "overwrite": _BOOLEANS,
    "plot": (FILES,),
    "schema": (FILES,),
    "template": template_names(),
    "text": (FILES,),
    "tools": (FILES,),
    "type": TYPES,
}

Rows = Iterable[tuple[str, Iterable[str]]]


def completion_script(app: App, shell: str) -> str:
    """The script that makes a shell complete quire's words; it never runs quire.

    Raises:
        ConfigError: the shell is not known.
    """
    if shell not in SHELLS:
        known = nearest(shell, SHELLS) or f"; there are {', '.join(SHELLS)}."
        raise ConfigError(f"Nothing completes for the shell {shell!r}{known}")
    table = _fish_table if shell == "fish" else _posix_table
    own = files("quire.cli.completion").joinpath(f"quire.{shell}").read_text(encoding="utf-8")
    tables = "\n".join(_tables(read_vocabulary(app), table))
    return own.replace("# TABLES\n", f"{tables}\n")


# --- the words ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommandWords:
    """What may follow a command.

    `positions` are the words that may stand first, second and so on; `keys` may stand as `key=value`
    and `--key value`; `options` have their two dashes.
    """

    name: str
    summary: str
    positions: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True)
class CompletionWords:
    """All commands, and what each key or option takes, where that is known."""

    commands: tuple[CommandWords, ...]
    values: Mapping[str, tuple[str, ...]]


def read_vocabulary(app: App) -> CompletionWords:
    """All words of the command line."""
    fields = {**FIELDS, **_server_fields(), **_batch_fields()}
    values = {one.name: _BOOLEANS for one in OPTIONS if isinstance(one.type, Flag)}
    values |= {key: known for key, field in fields.items() if (known := _values(key, field))}
    values |= _VALUES_OF_OPTIONS
    commands: list[CommandWords] = []
    for name in app:
        if name.startswith("-"):
            continue
        options: list[str] = []
        for argument in app[name].assemble_argument_collection():
            dashed = [word for word in argument.names if word.startswith("--")]
            options += dashed
            if argument.hint is bool:
                values |= {word[2:].replace("-", "_"): (FLAG,) for word in dashed}
        commands.append(_command(name, app[name].help, options))
    return CompletionWords(tuple(commands), values)


def _command(name: str, text: str, options: list[str]) -> CommandWords:
    summary = text.strip().splitlines()[0]
    if name == "completion":
        return CommandWords(name, summary, (SHELLS,), (), tuple(options))
    if name == "demo":
        return CommandWords(name, summary, (), (), tuple(options))
    if name in HUB_KEYS:
        # Names are the hub's; the script runs nothing that would list those of the cache.
        positions = {"pull": ((FILES,),), "show": ((FILES, *_DEMO_MODELS),)}.get(name, ())
        return CommandWords(name, summary, positions, HUB_KEYS[name], tuple(options))
    if name == "convert":
        return CommandWords(name, summary, ((FILES,), (FILES,)), CONVERT_KEYS, tuple(options))
    positions: tuple[tuple[str, ...], ...] = ((FILES, *_DEMO_MODELS),)
    if name == "deploy":
        positions = (KINDS, (FILES,))
    if name == "batch":
        positions = ((FILES, *BATCH_COMMANDS), (FILES,))
    own = {option[2:].replace("-", "_") for option in options}
    # A secret belongs in the environment: a command line is seen by every user of the machine.
    keys = {key for key, field in _fields_of(name).items() if not is_secret(field)}
    if name in _WITH_REQUEST_OPTIONS:
        keys |= REQUEST_OPTIONS
    anywhere = [AGAINST, "--config"] if name == "bench" else ["--config"]
    return CommandWords(name, summary, positions, tuple(sorted(keys - own)), (*options, *anywhere))


def _fields_of(command: str) -> dict[str, FieldInfo]:
    if command in ("serve", "api", "webchat"):
        return {**FIELDS, **_server_fields()}
    return {**FIELDS, **(_batch_fields() if command == "batch" else {})}


def _server_fields() -> dict[str, FieldInfo]:
    from quire.server.arguments import ServerArguments

    return dict(ServerArguments.model_fields)


def _batch_fields() -> dict[str, FieldInfo]:
    from quire.batch.arguments import BatchArguments

    return dict(BatchArguments.model_fields)


def _values(key: str, field: FieldInfo) -> tuple[str, ...]:
    taken = list(value_types(field.annotation))
    choices = [str(one) for kind in taken if get_origin(kind) is Literal for one in get_args(kind)]
    if choices:
        return tuple(choices)
    if taken == [bool]:
        return _BOOLEANS
    return (FILES,) if key.endswith(_FILE_ENDINGS) else ()


# --- the tables --------------------------------------------------------------------------------------


def _tables(words: CompletionWords, table: Callable[[str, Rows], str]) -> Iterator[str]:
    """Functions that print the words for their first argument, one to a line."""
    yield table("_quire_commands", [("", (command.name for command in words.commands))])
    yield table("_quire_summary", [(one.name, [one.summary]) for one in words.commands])
    yield table("_quire_options", [(one.name, one.options) for one in words.commands])
    yield table("_quire_keys", [(one.name, one.keys) for one in words.commands])
    positions = [
        (f"{one.name} {position}", offered)
        for one in words.commands
        for position, offered in enumerate(one.positions, 1)
    ]
    yield table("_quire_position", positions)
    yield table("_quire_values", words.values.items())


def _joined(rows: Rows) -> dict[tuple[str, ...], list[str]]:
    """The keys of each list of words: rows of equal words become one, and the script stays short."""
    keys: dict[tuple[str, ...], list[str]] = {}
    for key, words in rows:
        keys.setdefault(tuple(words), []).append(key)
    return {words: same for words, same in keys.items() if words}


def _posix_table(name: str, rows: Rows) -> str:
    lines = [f"{name}() {{", "  case $1 in"]
    for words, keys in _joined(rows).items():
        pattern = "|".join(shlex.quote(key) for key in keys)
        lines.append(f"    {pattern}) printf '%s\\n' {' '.join(map(shlex.quote, words))} ;;")
    return "\n".join([*lines, "  esac", "}", ""])


def _fish_table(name: str, rows: Rows) -> str:
    lines = [f"function {name}", '  switch "$argv[1]"']
    for words, keys in _joined(rows).items():
        lines.append(f"    case {' '.join(map(_fish_quoted, keys))}")
        lines.append(f"      printf '%s\\n' {' '.join(map(_fish_quoted, words))}")
    return "\n".join([*lines, "  end", "end", ""])


def _fish_quoted(word: str) -> str:
    text = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
