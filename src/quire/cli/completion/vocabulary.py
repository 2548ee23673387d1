"""The words that quire's command line takes: commands, options, keys and their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from quire.arguments import FIELDS
from quire.arguments.base import is_secret, value_types
from quire.cli.bench import AGAINST
from quire.cli.deploy import KINDS
from quire.deploy.target import MultiNode
from quire.options import REQUEST_OPTIONS
from quire.template.registry import template_names

if TYPE_CHECKING:
    from cyclopts import App
    from pydantic.fields import FieldInfo

SHELLS = ("bash", "zsh", "fish")
FILES = ":files"
"""Among the values of a key, or the words of a place: any file or folder."""
FLAG = ":flag"
"""As the value of an option: it takes none."""

_DEMO_MODELS = ("demo-see", "demo-hear")
_WITH_OPTIONS_OF_REQUESTS = ("chat", "bench")
_FILE_ENDINGS = ("_path", "_file", "_folder", "_dir", "_root", "_config")
_VALUES_OF_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "against": (FILES,),
    "config": (FILES,),
    "diff": template_names(),
    "json": (FILES,),
    "multi_node": get_args(MultiNode),
    "plot": (FILES,),
    "text": (FILES,),
}


@dataclass(frozen=True)
class Command:
    """What may follow a command.

    `places` are the words that may stand first, second and so on; `keys` may stand as `key=value` and
    `--key value`; `options` have their two dashes.
    """

    name: str
    summary: str
    places: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """All commands, and what each key or option takes, where that is known."""

    commands: tuple[Command, ...]
    values: Mapping[str, tuple[str, ...]]


def read_vocabulary(app: App) -> Vocabulary:
    """All words, from the tree of commands and from the fields of the arguments."""
    fields = {**FIELDS, **_server_fields()}
    values = {key: found for key, field in fields.items() if (found := _values(key, field))}
    values |= {"enable_thinking": ("true", "false"), "preserve_thinking": ("true", "false")}
    values |= {"template": template_names(), **_VALUES_OF_OPTIONS}
    commands: list[Command] = []
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
    return Vocabulary(tuple(commands), values)


def _command(name: str, text: str, options: list[str]) -> Command:
    summary = text.strip().splitlines()[0]
    anywhere = [AGAINST] if name == "bench" else []
    if name == "completion":
        return Command(name, summary, (SHELLS,), (), tuple(options))
    if name == "demo":
        return Command(name, summary, (), (), tuple(options))
    places: tuple[tuple[str, ...], ...] = ((FILES, *_DEMO_MODELS),)
    if name == "deploy":
        places = (KINDS, (FILES,))
    own = {option[2:].replace("-", "_") for option in options}
    # A secret belongs in the environment: a command line is seen by every user of the machine.
    keys = {key for key, field in _fields_of(name).items() if not is_secret(field)}
    if name in _WITH_OPTIONS_OF_REQUESTS:
        keys |= REQUEST_OPTIONS
    return Command(
        name, summary, places, tuple(sorted(keys - own)), (*options, *anywhere, "--config")
    )


def _fields_of(command: str) -> dict[str, FieldInfo]:
    serves = command in ("serve", "api", "webchat")
    return {**FIELDS, **(_server_fields() if serves else {})}


def _server_fields() -> dict[str, FieldInfo]:
    from quire.server.arguments import ServerArguments

    return dict(ServerArguments.model_fields)


def _values(key: str, field: FieldInfo) -> tuple[str, ...]:
    taken = list(value_types(field.annotation))
    choices = [str(one) for kind in taken if get_origin(kind) is Literal for one in get_args(kind)]
    if choices:
        return tuple(choices)
    if taken == [bool]:
        return ("true", "false")
    return (FILES,) if key.endswith(_FILE_ENDINGS) else ()
