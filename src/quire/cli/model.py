"""From a command line's words to a model, and to the options of its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from quire.chat import ChatModel

MakeModel: TypeAlias = "Callable[[Mapping[str, Any]], ChatModel]"


@dataclass(frozen=True)
class Start:
    """What a command line asks for.

    `options` are a request's own (such as `min_p` or `seed`), which no configuration holds.
    """

    arguments: Mapping[str, Any]
    options: Mapping[str, Any]
    is_demo: bool


def read_start(words: Sequence[str]) -> Start:
    """Read the words; without a model's name it is the demo model.

    Raises:
        ConfigError: the words make no sense.
    """
    # Here, not above: reading arguments takes pydantic, which `quire --help` need not wait for.
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
    """Make the real ChatModel; imported here, so that `--help` needs no engine."""
    from quire.chat import ChatModel

    return ChatModel(arguments)
