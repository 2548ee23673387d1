"""Putting a text into the user's clipboard: by a program of the system, or by the terminal itself."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from quire.cli.terminal import is_terminal
from quire.errors import ConfigError

_LONGEST_ESCAPE = 70_000
"""Characters of base64 that terminals take in one command; xterm's buffer is the smallest known."""
_PATIENCE = 5.0
"""Seconds for a program."""


@dataclass(frozen=True)
class _Program:
    """A program that takes the text on its input; there where a variable is set."""

    words: Sequence[str]
    variable: str = ""
    encoding: str = "utf-8"


_PROGRAMS = (
    _Program(
        ("tmux", "load-buffer", "-w", "-"), "TMUX"
    ),  # which hands nothing of ours on by itself
    _Program(("wl-copy",), "WAYLAND_DISPLAY"),
    _Program(("xclip", "-selection", "clipboard"), "DISPLAY"),
    _Program(("xsel", "--clipboard", "--input"), "DISPLAY"),
    _Program(("pbcopy",)),
    _Program(("clip.exe",), encoding="utf-16"),  # Windows, and Linux in it
)


def copy_text(text: str, terminal: IO[str]) -> str:
    """Copy a text; return by what, in words.

    Raises:
        ConfigError: no program is there for it, and the terminal is none that could.
    """
    for program in _PROGRAMS:
        if _is_usable(program) and _run(program, text):
            return f"by {program.words[0]}"
    encoded = base64.b64encode(text.encode("utf-8", "replace")).decode()
    if not is_terminal(terminal) or os.environ.get("TERM", "dumb") in ("dumb", "linux"):
        raise ConfigError("Nothing here copies: install wl-copy or xclip, or /save the answer.")
    if len(encoded) > _LONGEST_ESCAPE:
        raise ConfigError("That is too long for the terminal to copy: /save writes it to a file.")
    # OSC 52. No terminal says whether it has obeyed.
    terminal.write(f"\x1b]52;c;{encoded}\x07")
    terminal.flush()
    return "by the terminal, if it allows that (OSC 52)"


def _is_usable(program: _Program) -> bool:
    # From another machine, its own clipboard is no use; that of a display or of tmux is this person's.
    is_far = "SSH_CONNECTION" in os.environ and not program.variable
    is_there = not program.variable or bool(os.environ.get(program.variable))
    return is_there and not is_far and shutil.which(program.words[0]) is not None


def _run(program: _Program, text: str) -> bool:
    try:
        done = subprocess.run(
            program.words,
            input=text.encode(program.encoding, "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
