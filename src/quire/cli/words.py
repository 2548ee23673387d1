"""What the words of a command line say: which model, with which arguments, and for which requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from quire.errors import ConfigError, nearest

# Reading arguments takes pydantic, for which `quire --help` does not wait: functions import it.

if TYPE_CHECKING:
    from quire.chat import ChatModel

Words = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
"""All words of a command that are none of its own options."""
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
"""An option of a command that takes no value."""
Value = Annotated[str | None, Parameter(show_default=False)]
"""An option of a command that takes one."""

MakeModel: TypeAlias = "Callable[[Mapping[str, Any]], ChatModel]"


@dataclass(frozen=True)
class Start:
    """What a command line asks for.

    `options` are a request's own (such as `min_p` or `seed`), which no configuration holds.
    """

    arguments: Mapping[str, Any]
    options: Mapping[str, Any]
    is_demo: bool

    @property
    def name(self) -> str:
        """What the model is called to the user."""
        return "the demo model" if self.is_demo else str(self.arguments["model_name_or_path"])


def read_start(words: Sequence[str]) -> Start:
    """Read the words; where they name no model, it is the demo model.

    Raises:
        ConfigError: the words make no sense.
    """
    from quire.arguments import FIELDS, read_assignments, read_words, split_source
    from quire.options import REQUEST_OPTIONS

    source, rest = split_source(words)
    values = read_assignments(rest)
    options = {key: values.pop(key) for key in list(values) if key in REQUEST_OPTIONS - set(FIELDS)}
    arguments = {**read_words([source] if source else []), **values}
    is_demo = arguments.get("model_name_or_path") is None
    if is_demo:
        from quire.demo import demo_model_path

        arguments["model_name_or_path"] = str(demo_model_path())
    return Start(arguments, options, is_demo)


def load_model(arguments: Mapping[str, Any]) -> ChatModel:
    """Make the real ChatModel."""
    from quire.chat import ChatModel

    return ChatModel(arguments)


def read_integer(name: str, text: str, least: int) -> int:
    """The integer that an option of a command was given.

    Raises:
        ConfigError: it is none, or below `least`.
    """
    # int() refuses thousands of digits with an error of its own; nine are enough for any count.
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) < least:
        raise ConfigError(f"{name} must be an integer of at least {least}, not {text!r}.")
    return int(text)


def refuse_misspelt_options(keys: Iterable[str], options: Iterable[str]) -> None:
    """Raise ConfigError for a key that is no argument, but nearest to one of a command's own options.

    `--stream 8` reads like an argument named `stream`; without this the error would offer the nearest
    argument, and the option meant would stay unsaid.
    """
    from quire.arguments import FIELDS

    own = [name.replace("-", "_") for name in options]
    for key in keys:
        near = nearest(key, own)
        if key not in FIELDS and near and near == nearest(key, [*own, *FIELDS]):
            offer = near.replace(" '", " '--").replace("_", "-")
            raise ConfigError(f"Unknown option '--{key.replace('_', '-')}'{offer}")
