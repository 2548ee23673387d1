"""Lines for a shell: comments, variables and commands, which it reads back exactly."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from quire.errors import ConfigError

SERVER_PORT = 8000
RAY_PORT = 6379
_WIDTH = 100


def comment(text: str) -> str:
    """A sentence as `#` lines; nothing in it can end the comment."""
    # Whatever a shell or YAML takes for the end of a line is not printable, and becomes a blank.
    shown = "".join(char if char.isprintable() else " " for char in text)
    lines = textwrap.wrap(
        " ".join(shown.split()),
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) or "#"


def comments(sentences: Iterable[str]) -> str:
    """Each sentence as a comment of its own."""
    return "\n".join(comment(sentence) for sentence in sentences)


def shown(line: str) -> str:
    """A command to be read in a comment, on one line of its own."""
    return f"#     {line}"


def exports(environment: Mapping[str, str]) -> str:
    """`export` lines for the variables of a command."""
    return "\n".join(f"export {name}={quoted(value)}" for name, value in environment.items())


def command(words: Sequence[str], options: Sequence[Sequence[str]]) -> str:
    """A command and its options, on one line where it is short, else an option a line."""
    parts = [" ".join(map(quoted, part)) for part in (words, *options)]
    line = " ".join(parts)
    return line if len(line) <= _WIDTH else " \\\n  ".join(parts)


def quoted(word: str) -> str:
    """A word as a POSIX shell takes it.

    Raises:
        ConfigError: it holds a character that a terminal might obey.
    """
    if not word.isprintable():
        raise ConfigError(f"{word!r} holds a control character, which no command line should.")
    return shlex.quote(word)


def ray_cluster_commands(address: str) -> list[tuple[str, str]]:
    """The commands that join nodes into a Ray cluster, each after a sentence that says where.

    Args:
        address: the first node's, as the others reach it.
    """
    return [
        (
            "On the first node. Ray asks for no password: keep its ports on a network of your own.",
            command(["ray", "start", "--head", f"--port={RAY_PORT}"], []),
        ),
        (
            f"On each other node; {address} is the first node's address:",
            command(["ray", "start", f"--address={address}:{RAY_PORT}"], []),
        ),
    ]
