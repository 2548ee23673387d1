"""Changing a text in the user's editor."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from quire.cli.chat.files import read_text
from quire.cli.terminal import with_echo
from quire.errors import ConfigError

_USUAL = ("editor", "nano", "vim", "vi")
"""The editors that are looked for where none was chosen; the first is Debian's name for that of the system."""
_USUAL_ON_WINDOWS = ("notepad",)
NO_EDITOR = "No editor was found: set $VISUAL or $EDITOR to the command of yours."


def find_editor() -> str | None:
    """The command of the editor: the chosen one, or a usual one that is there; None if there is none."""
    if chosen := os.environ.get("VISUAL") or os.environ.get("EDITOR"):
        return chosen
    usual = _USUAL_ON_WINDOWS if os.name == "nt" else _USUAL
    return next((name for name in usual if shutil.which(name)), None)


def edit_text(text: str) -> str:
    """Have the text changed in the user's editor.

    Raises:
        ConfigError: there is none, it cannot be run, or it ended with an error.
    """
    command = find_editor()
    if command is None:
        raise ConfigError(NO_EDITOR)
    return edit_in(command, text)


def edit_in(command: str, text: str) -> str:
    """Have the text changed in an editor.

    Raises:
        ConfigError: the editor cannot be run, or ended with an error.
    """
    handle, name = tempfile.mkstemp(suffix=".md")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        with with_echo(), subprocess.Popen([*_words(command), name]) as process:
            code = _wait(process)
        if code:
            raise ConfigError(f"The editor {command!r} ended with {code}; nothing was changed.")
        return read_text(Path(name)).removesuffix("\n")
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"The editor {command!r} cannot be run: {why}. $VISUAL or $EDITOR names another."
        ) from None
    finally:
        os.unlink(name)


def _words(command: str) -> list[str]:
    """A command's words; on Windows a backslash stands between folders."""
    if os.name != "nt":
        return shlex.split(command)
    return [word.strip('"') for word in shlex.split(command, posix=False)]


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the editor; a Ctrl-C in it is meant for it alone."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
