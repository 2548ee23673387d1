"""From the vocabulary to a shell's script: tables as functions, and the shell's own part, a file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING

from quire.cli.completion.vocabulary import SHELLS, Vocabulary, read_vocabulary
from quire.errors import ConfigError, nearest

if TYPE_CHECKING:
    from cyclopts import App

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


def _tables(words: Vocabulary, table: Callable[[str, Rows], str]) -> Iterator[str]:
    """Functions that print the words for their first argument, one to a line."""
    yield table("_quire_commands", [("", (command.name for command in words.commands))])
    yield table("_quire_summary", [(one.name, [one.summary]) for one in words.commands])
    yield table("_quire_options", [(one.name, one.options) for one in words.commands])
    yield table("_quire_keys", [(one.name, one.keys) for one in words.commands])
    places = [
        (f"{one.name} {place}", found)
        for one in words.commands
        for place, found in enumerate(one.places, 1)
    ]
    yield table("_quire_place", places)
    yield table("_quire_values", words.values.items())


def _joined(rows: Rows) -> dict[tuple[str, ...], list[str]]:
    """Rows of equal words become one."""
    found: dict[tuple[str, ...], list[str]] = {}
    for key, words in rows:
        found.setdefault(tuple(words), []).append(key)
    return {words: keys for words, keys in found.items() if words}


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
