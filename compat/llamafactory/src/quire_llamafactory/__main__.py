"""`python -m quire_llamafactory install | uninstall | status`: the commands in the scripts folder.

They are not the wheel's own: pip would overwrite the real LLaMA-Factory's, whose names they have.
With a folder after the word it is about `vllm_infer.py` alone, in that folder: what is started as
`python scripts/vllm_infer.py` then is quire's.
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

SCRIPT = "vllm_infer.py"
NAMES = ("llamafactory-cli", "lmf", SCRIPT)
_MARK = "# Written by `python -m quire_llamafactory install`."
_USAGE = "Usage: python -m quire_llamafactory install | uninstall | status [FOLDER]"


class RefusedError(Exception):
    """Something else is in the way; nothing was changed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three words and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    actions = {"install": install, "uninstall": uninstall, "status": status}
    if words in (["--help"], ["-h"]):
        print(_USAGE)
        return 0
    if len(words) not in (1, 2) or words[0] not in actions or words[-1].startswith("-"):
        print(_USAGE, file=sys.stderr)
        return 2
    own = Path(sysconfig.get_path("scripts"))
    folder, names = (Path(words[1]), (SCRIPT,)) if len(words) == 2 else (own, NAMES)
    try:
        for line in actions[words[0]](folder, names):
            print(line)
    except (RefusedError, OSError) as error:
        print(f"quire_llamafactory: {error}", file=sys.stderr)
        return 1
    return 0


def install(scripts: Path, names: Sequence[str] = NAMES) -> list[str]:
    """Write the commands into `scripts`, all of them or none.

    Raises:
        RefusedError: the real LLaMA-Factory, or a file of another package, is there.
        OSError: the folder cannot be written.
    """
    real = real_package()
    if real and tuple(names) != (SCRIPT,):  # which takes nothing from `llamafactory`
        raise RefusedError(
            f"`llamafactory` is {real}: its commands keep their names. `pip uninstall "
            "llamafactory` first, or use quire's own command, `quire chat`."
        )
    foreign = [str(scripts / name) for name in names if _owner(scripts / name) == "foreign"]
    if foreign:
        raise RefusedError(f"not quire's, so left as it is: {', '.join(foreign)}.")
    return [_write(scripts / name) for name in names]


def uninstall(scripts: Path, names: Sequence[str] = NAMES) -> list[str]:
    """Remove the commands that `install` wrote, and no others."""
    removed = [scripts / name for name in names if _owner(scripts / name) == "quire"]
    for path in removed:
        path.unlink()
    return [f"Removed {path}." for path in removed] or ["There was nothing to remove."]


def status(scripts: Path, names: Sequence[str] = NAMES) -> list[str]:
    """Say whose `llamafactory` is imported here, and whose the commands are."""
    real = real_package()
    found = "quire's" if first_found() else "not importable: see quire_llamafactory.activate"
    owners = {
        "quire": "quire's",
        "foreign": "another package's",
        "none": "not there; `python -m quire_llamafactory install` makes it",
    }
    commands = [f"{name}: {owners[_owner(scripts / name)]}" for name in names]
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
    start = f"{shlex.quote(sys.executable)} -P -m quire_llamafactory"
    text = f'#!/bin/sh\n{_MARK}\nexec {start}.command "$@"\n'
    if path.name == SCRIPT:
        # Python takes the shell's line for a string: `python vllm_infer.py` runs it as well.
        text = (
            f"#!/bin/sh\n{_MARK}\n'''exec' {start}.vllm_infer \"$@\"\n' '''\n"
            "import sys\n\nfrom quire_llamafactory.vllm_infer import main\n\nsys.exit(main())\n"
        )
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    path.chmod(0o755)
    return f"Wrote {path}."


if __name__ == "__main__":
    sys.exit(main())
