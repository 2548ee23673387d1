"""The words of a command line: `config.yaml key=value --key value --key=value --flag`.

The file may also be given by `--config config.yaml`, anywhere among the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from quire.arguments.base import SUFFIXES, Arguments, parse_scalar, read_mapping, value_types
from quire.arguments.groups import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    ModelArguments,
)
from quire.errors import ConfigError

GROUPS: tuple[type[Arguments], ...] = (
    ModelArguments,
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
)
FIELDS: Mapping[str, FieldInfo] = {
    key: field for group in GROUPS for key, field in group.model_fields.items()
}
_ASSIGNMENT = re.compile(r"[A-Za-z_][\w-]*=")
_BOOLEANS = frozenset({"true", "false", "yes", "no", "on", "off"})


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """Read a command line's words into keys and values; later ones win.

    The first word may be a YAML or JSON file, or the model's folder or name; a file may be given as
    `--config FILE` too. Values are typed as YAML scalars where the argument is not text.

    Raises:
        ConfigError: a word that is none of these, a missing value, or a file that cannot be read.
    """
    source, rest = split_source(words)
    return {**(_read_source(source) if source else {}), **read_assignments(rest)}


def read_assignments(words: Sequence[str]) -> dict[str, Any]:
    """Read the words after the first: `key=value`, `--key value`, `--key=value`, `--flag`.

    Raises:
        ConfigError: a word that is none of these, or a missing value.
    """
    return {key: value for key, value, _ in _assignments(words)}


def _assignments(words: Sequence[str]) -> Iterator[tuple[str, Any, list[str]]]:
    """Each key with its value and the words that it was read from."""
    rest = list(words)
    while rest:
        before = list(rest)
        key, value = _take(rest)
        yield key, value, before[: len(before) - len(rest)]


def split_bare_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line's words into those that name no argument, and the others.

    Raises:
        ConfigError: a value is missing, or a word begins like an option and is none.
    """
    rest, bare, others = list(words), list[str](), list[str]()
    while rest:
        if not rest[0].startswith("-") and not _ASSIGNMENT.match(rest[0]):
            bare.append(rest.pop(0))
            continue
        before = list(rest)
        _take(rest)
        others += before[: len(before) - len(rest)]
    return bare, others


def split_source(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split off the file of `--config`, or the first word if it is a file or a model.

    With both, a first word that is a model becomes one of the words that win over the file.

    Raises:
        ConfigError: two files, `--config` without a file, or a word that makes no sense.
    """
    first, rest = _split_first(words)
    configs: list[Any] = []
    others: list[str] = []
    for key, value, read in _assignments(rest):
        if key == "config":
            configs.append(value)
        else:
            others += read
    if not configs:
        return first, rest
    config = _checked_config(configs)
    if first is None:
        return config, others
    if _is_file(first):
        raise ConfigError(f"There are two configurations, {first} and {config}: give one.")
    return config, [f"model_name_or_path={first}", *others]


def _split_first(words: Sequence[str]) -> tuple[str | None, list[str]]:
    if words and words[0] and not words[0].startswith("-") and not _ASSIGNMENT.match(words[0]):
        return words[0], list(words[1:])
    return None, list(words)


def _checked_config(values: Sequence[Any]) -> str:
    if len(values) > 1:
        raise ConfigError(f"--config stands once, not with {' and with '.join(map(str, values))}.")
    (value,) = values
    if not isinstance(value, str) or not _is_file(value):
        text = f", not {value!r}" if isinstance(value, str) else ""
        raise ConfigError(f"--config needs a YAML or JSON file{text}.")
    return value


def _is_file(word: str) -> bool:
    return word.lower().endswith(SUFFIXES)


def _read_source(word: str) -> dict[str, Any]:
    if _is_file(word):
        return read_mapping(Path(word))
    return {"model_name_or_path": word}


def _take(rest: list[str]) -> tuple[str, Any]:
    """Take one key and its value from the front of `rest`."""
    word = rest.pop(0)
    dashed = word.startswith("--")
    key, equals, text = word.removeprefix("--").partition("=")
    key = key.replace("-", "_")
    if not key.isidentifier() or not (dashed or equals):
        raise ConfigError(f"{word!r} is neither key=value nor --key value.")
    if equals:
        return key, typed(key, text)
    if _is_flag(key, rest):
        return _flag(key)
    if not rest or rest[0].startswith("--"):
        raise ConfigError(f"--{key} needs a value.")
    return key, typed(key, rest.pop(0))


def _is_flag(key: str, rest: Sequence[str]) -> bool:
    following = rest[0] if rest else "--"
    if key in FIELDS:
        return _is_boolean(key) and following.lower() not in _BOOLEANS
    if _negated(key):
        return True
    return following.startswith("--") or _ASSIGNMENT.match(following) is not None


def _flag(key: str) -> tuple[str, bool]:
    positive = _negated(key)
    return (positive, False) if positive and key not in FIELDS else (key, True)


def _negated(key: str) -> str | None:
    """The boolean argument that `--no_key` turns off."""
    positive = key.removeprefix("no_")
    return positive if positive != key and positive in FIELDS and _is_boolean(positive) else None


def typed(key: str, text: str) -> Any:
    """Give a word's text the type of argument `key`."""
    if key not in FIELDS:
        return text if text == "-" else parse_scalar(text)  # `-` is standard input, not a YAML list
    if _types_of(key) <= {bool, int, float}:
        return parse_scalar(text)
    return None if text == "null" else text


def _is_boolean(key: str) -> bool:
    return _types_of(key) == {bool}


def _types_of(key: str) -> set[Any]:
    return set(value_types(FIELDS[key].annotation))
