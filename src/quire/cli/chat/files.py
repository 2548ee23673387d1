"""Paths as people type them, and the files behind them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from quire.errors import ConfigError

_QUOTED = r"""'[^']*'|"(?:[^"\\]|\\.)*+\""""
SHELL_WORD = rf"""(?:{_QUOTED}|\\.|[^\s'"\\])++(?!\S)"""
"""A word as a shell reads it: with blanks in it where they are quoted or escaped."""
_ESCAPE = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*+)"|\\(.)""", re.DOTALL)
_ESCAPE_IN_QUOTES = re.compile(r"""\\(["\\$`])""")


def unquoted(word: str) -> str:
    """A word of a shell without its quotation marks and backslashes."""
    return _ESCAPE.sub(_plain, word)


def _plain(match: re.Match[str]) -> str:
    single, double, escaped = match.groups()
    if double is not None:
        return _ESCAPE_IN_QUOTES.sub(r"\1", double)
    return escaped if single is None else single


def local_path(name: str) -> str | None:
    """A path or a file:// address as a path; None for an address of another machine."""
    if name[:7].lower() != "file://":
        return os.path.expanduser(name)
    host, _, path = name[7:].partition("/")
    return unquote(f"/{path}") if host in ("", "localhost") else None


def shell_words(argument: str) -> list[str]:
    """The words of a line as a shell reads them; one path with blanks that is there is one word."""
    if _exists(os.path.expanduser(argument)):
        return [argument]
    words = re.findall(rf"(?<!\S){SHELL_WORD}", argument, re.DOTALL)
    # What stands between the words can only be a quotation mark without its end.
    if "".join(argument.split()) != "".join("".join(words).split()):
        return argument.split()
    return [unquoted(word) for word in words]


def path_of(argument: str) -> Path:
    """The one path that follows a command: as it is, with its blanks, or as a shell would want it.

    Raises:
        ConfigError: it is the address of another machine.
    """
    argument = argument.strip()
    typed = os.path.expanduser(argument)
    if not _exists(typed) and re.fullmatch(SHELL_WORD, argument, re.DOTALL):
        argument = unquoted(argument)
    path = local_path(argument)
    if path is None:
        raise ConfigError(f"{argument} is no file of this machine.")
    return Path(path)


def is_file(path: str) -> bool:
    """Whether there is a plain file of this name; no name is an error."""
    try:
        return os.path.isfile(path)
    except ValueError:  # a zero byte
        return False


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a zero byte
        return False


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: it cannot be read, or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot read {path}: {getattr(error, 'strerror', None) or error}."
        ) from None


def json_text(argument: str) -> str:
    """JSON that was typed, or that stands in the file of this path."""
    argument = argument.strip()
    return argument if argument[:1] in ("[", "{") else read_text(path_of(argument))


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigError(f"Cannot write {path}: {error.strerror}.") from None
