"""Whether the terminal's ground is dark or light: from the environment, or asked from the terminal."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from typing import Literal, TypeAlias

from quire.cli.terminal import has_colour, is_terminal

Ground: TypeAlias = Literal["dark", "light", "unknown"]

_QUESTION = b"\x1b]11;?\x1b\\\x1b[c"
"""What the ground's colour is and, since not every terminal answers that, what the terminal is: every
one answers this, so that nobody waits for an answer that does not come."""
_COLOUR = re.compile(
    rb"\x1b\]11;rgba?:([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})"
    rb"(?:/[0-9a-fA-F]{1,4})?(?:\x07|\x1b\\)"
)
_KIND = re.compile(rb"\x1b\[\?[0-9;]*c")
_SILENT = ("dumb", "linux", "vt", "cons", "eterm")
"""How the names of those terminals begin that are not asked, since they would show the question."""


def ground_of_environment() -> Ground:
    """What the environment says of the ground, without a word to the terminal."""
    # rxvt's, Konsole's and others': the numbers of the text's and of the ground's colours.
    last = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    if last.isdigit() and int(last) < 16:
        return "dark" if int(last) < 7 or int(last) == 8 else "light"
    return "dark" if os.environ.get("TERM") == "linux" else "unknown"


def ask_ground(limit: float = 1.0) -> tuple[Ground, str]:
    """The ground, and what was typed while the terminal was asked.

    Args:
        limit: seconds to wait at most, for a terminal that answers nothing at all.
    """
    known = ground_of_environment()
    term = os.environ.get("TERM", "dumb")
    if known != "unknown" or term.startswith(_SILENT) or not has_colour(sys.stdout):
        return known, ""
    if not is_terminal(sys.stdin):
        return known, ""
    try:
        reply = _ask(limit)
    except (ImportError, OSError, ValueError):  # not a POSIX system, or no terminal after all
        return known, ""
    colour = _COLOUR.search(reply)
    typed = _KIND.sub(b"", _COLOUR.sub(b"", reply)).decode("utf-8", "ignore")
    return (known if colour is None else _ground_of(colour)), typed


def _ground_of(colour: re.Match[bytes]) -> Ground:
    red, green, blue = (int(part, 16) / (16 ** len(part) - 1) for part in colour.groups())
    # Rec. 709's weights: a saturated blue is dark, and a yellow is light.
    return "light" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "dark"


def _ask(limit: float) -> bytes:
    """Ask the terminal, and return all that came until it has said what it is."""
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    end = time.monotonic() + limit
    reply = b""
    try:
        # Not TCSAFLUSH, which would throw away what was typed already.
        tty.setcbreak(number, termios.TCSADRAIN)
        os.write(sys.stdout.fileno(), _QUESTION)
        while not _KIND.search(reply) and (left := end - time.monotonic()) > 0:
            if select.select([number], [], [], left)[0]:
                reply += os.read(number, 4096)
    except termios.error as error:
        raise OSError(str(error)) from None
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
    return reply
