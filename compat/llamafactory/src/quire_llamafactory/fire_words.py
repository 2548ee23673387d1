"""Words of a command line as python-fire reads them for a function, checked as fire never does.

`--name value`, `--name=value`, `-n value` where one option alone begins with that letter, `--name` and
`--noname` for true and false, `-` for `_`, and values by their place. Fire guesses a value's type from
its text; here the option says it, so that a text may be `2024` or `a, b`, and `false` is no true text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from quire.arguments import parse_scalar
from quire.errors import ConfigError, nearest

Kind: TypeAlias = Literal["text", "names", "integer", "number", "flag", "dictionary"]

_FLAG = re.compile(r"--|-[a-zA-Z]")
_HELP = ("--help", "-h")
_TRUE, _FALSE = ("true", "1"), ("false", "0")


@dataclass(frozen=True, slots=True)
class FireOption:
    """One option, which may be given by its place too."""

    name: str
    kind: Kind
    default: Any
    meaning: str
    optional: bool = False
    """Whether it may be None."""


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether the words ask for help, in the form `-- --help` too."""
    return any(word in _HELP for word in words)


def read_fire_words(
    words: Sequence[str], options: Sequence[FireOption], explain: Callable[[str], str | None]
) -> dict[str, Any]:
    """The values of the options that the words give; of an option given twice the last.

    Args:
        explain: says of an unknown option what became of it, or None.

    Raises:
        ConfigError: the words make no sense.
    """
    known = {option.name: option for option in options}
    named, placed = _split(words, known, explain)
    left = [name for name in known if name not in named]
    if len(placed) > len(left):
        raise ConfigError(f"{placed[len(left)]!r} is more than the command takes; see --help.")
    texts: dict[str, str | bool] = {**named, **dict(zip(left, placed, strict=False))}
    return {name: _value(known[name], text) for name, text in texts.items()}


def _split(
    words: Sequence[str],
    known: Mapping[str, FireOption],
    explain: Callable[[str], str | None],
) -> tuple[dict[str, str | bool], list[str]]:
    """The options that are named, with the text of each or what it is for none; all other words."""
    named: dict[str, str | bool] = {}
    placed: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-", "--"):
            raise ConfigError(f"{word!r} and what follows it are fire's own, and have no use here.")
        if not _FLAG.match(word):
            placed.append(word)
            continue
        name, equals, text = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        has_value = bool(equals) or bool(rest and not _FLAG.match(rest[0]))
        if not has_value and name not in known and name.removeprefix("no") in known:
            named[name.removeprefix("no")] = False
            continue
        name = _full_name(name, known, explain)
        named[name] = (text if equals else rest.pop(0)) if has_value else True
    return named, placed


def _full_name(
    name: str, known: Mapping[str, FireOption], explain: Callable[[str], str | None]
) -> str:
    if name in known:
        return name
    beginning = [one for one in known if len(name) == 1 and one.startswith(name)]
    if len(beginning) == 1:
        return beginning[0]
    if beginning:
        raise ConfigError(f"-{name} may be any of {', '.join(beginning)}: write the whole name.")
    raise ConfigError(explain(name) or f"Unknown option '--{name}'{nearest(name, known)}.")


# --- values --------------------------------------------------------------------------------------


def _value(option: FireOption, text: str | bool) -> Any:
    if option.kind == "flag":
        return _flag(option, text)
    if isinstance(text, bool):
        raise ConfigError(f"--{option.name} needs a value.")
    if text == "None":
        if option.optional:
            return None
        raise ConfigError(f"--{option.name} cannot be None.")
    if option.kind == "text":
        return _text(text)
    if option.kind == "names":
        return _names(text)
    if option.kind == "dictionary":
        return _dictionary(option, text)
    return _number(option, text)


def _flag(option: FireOption, text: str | bool) -> bool | None:
    if isinstance(text, bool):
        return text
    if text == "None" and option.optional:
        return None
    if text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    raise ConfigError(f"--{option.name} must be True or False, not {text!r}.")


def _number(option: FireOption, text: str) -> int | float:
    wanted = "an integer" if option.kind == "integer" else "a number"
    value = _literal(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"--{option.name} must be {wanted}, not {text!r}.")
    if option.kind == "number":
        return float(value)
    if value != value or value in (float("inf"), float("-inf")) or value != int(value):
        raise ConfigError(f"--{option.name} must be {wanted}, not {text!r}.")
    return int(value)


def _text(text: str) -> str:
    """A text as it is; one in quotes of Python's, which the shell has left, without them."""
    value = _literal(text) if text[:1] in ("'", '"') else None
    return value if isinstance(value, str) else text


def _names(text: str) -> str:
    """Names with commas between them; a list or a tuple of Python's, too."""
    if text[:1] + text[-1:] in ("[]", "()"):
        return ",".join(_text(part.strip()) for part in text[1:-1].split(",") if part.strip())
    return _text(text)


def _dictionary(option: FireOption, text: str) -> Any:
    """A dictionary in JSON, in Python's or in YAML's form; a text that has no braces as it is."""
    text = _text(text.strip())
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        value = _literal(text)
    value = value if isinstance(value, dict) else parse_scalar(text)
    if not isinstance(value, dict):
        raise ConfigError(f"--{option.name} must be a dictionary, not {text!r}.")
    return value


def _literal(text: str) -> Any:
    """The value of a literal of Python's; None for any other text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
