"""Where quire keeps what is a user's own: the folder of a kind, which an environment variable may name."""

from __future__ import annotations

import os
from pathlib import Path


def in_home(path: str) -> Path:
    """The path, with this user's home for `~`.

    Raises:
        OSError: this user has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no HOME, and no entry of this user in the system's list
        raise FileNotFoundError("this user has no home folder") from None


def user_folder(variable: str, default: str) -> Path:
    """`quire` in the folder that an environment variable names, else in the default one.

    Raises:
        OSError: there is none, since this user has no home.
    """
    return in_home(os.environ.get(variable) or default) / "quire"
