"""`python -m quire_llamafactory install | uninstall | status`: the commands in the scripts folder.

They are not the wheel's own: pip would overwrite the real LLaMA-Factory's, whose names they have.
Exit codes: 0 done, 1 refused, 2 the words make no sense.
"""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from quire_llamafactory import first_found, real_package

NAMES = ("llamafactory-cli", "lmf")
_MARK = "# Written by `python -m quire_llamafactory install`."
_USAGE = "Usage: python -m quire_llamafactory install | uninstall | status"


class RefusedError(Exception):
    """Something else is in the way; nothing was changed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three words and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    actions = {"install": install, "uninstall": uninstall, "status": status}
    if words in (["--help"], ["-h"]):
        print(_USAGE)
        return 0
    if len(words) != 1 or words[0] not in actions:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        for line in actions[words[0]](Path(sysconfig.get_path("scripts"))):
            print(line)
    except (RefusedError, OSError) as error:
        print(f"quire_llamafactory: {error}", file=sys.stderr)
        return 1
    return 0


def install(scripts: Path) -> list[str]:
    """Write the commands into `scripts`, all of them or none.

    Raises:
        RefusedError: the real LLaMA-Factory, or a file of another package, is there.
        OSError: the folder cannot be written.
    """
    real = real_package()
    if real:
        raise RefusedError(
            f"`llamafactory` is {real}: its commands keep their names. `pip uninstall "
            "llamafactory` first, or use quire's own command, `quire chat`."
        )
    foreign = [str(scripts / name) for name in NAMES if _owner(scripts / name) == "foreign"]
    if foreign:
        raise RefusedError(f"not quire's, so left as it is: {', '.join(foreign)}.")
    return [_write(scripts / name) for name in NAMES]


def uninstall(scripts: Path) -> list[str]:
    """Remove the commands that `install` wrote, and no others."""
    removed = [scripts / name for name in NAMES if _owner(scripts / name) == "quire"]
    for path in removed:
        path.unlink()
    return [f"Removed {path}." for path in removed] or ["There was nothing to remove."]


def status(scripts: Path) -> list[str]:
    """Say whose `llamafactory` is imported here, and whose the commands are."""
    real = real_package()
    found = "quire's" if first_found() else "not importable: see quire_llamafactory.activate"
    owners = {
        "quire": "quire's",
        "foreign": "another package's",
        "none": "not there; `python -m quire_llamafactory install` makes it",
    }
    commands = [f"{name}: {owners[_owner(scripts / name)]}" for name in NAMES]
    return [f"llamafactory: {f'{real}; it is left as it is' if real else found}", *commands]


def _owner(path: Path) -> str:
    """Whose file this is: `quire`, `foreign`, or `none` where there is none."""
    if not os.path.lexists(path):
        return "none"
    ours = path.is_file() and not path.is_symlink() and _MARK.encode() in path.read_bytes()[:200]
    return "quire" if ours else "foreign"


def _write(path: Path) -> str:
    # A shell script takes a Python whose path has spaces, which a `#!` line does not. `-P` keeps
    # the current folder off sys.path, as it is for any other installed command.
    python = shlex.quote(sys.executable)
    text = f'#!/bin/sh\n{_MARK}\nexec {python} -P -m quire_llamafactory.command "$@"\n'
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    path.chmod(0o755)
    return f"Wrote {path}."


if __name__ == "__main__":
    sys.exit(main())
