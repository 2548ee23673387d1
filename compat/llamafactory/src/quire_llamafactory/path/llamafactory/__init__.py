"""LLaMA-Factory's chat stack on quire: the names that its users import, and no more."""

from __future__ import annotations

import importlib
from typing import Any

from quire_llamafactory import check_alone
from quire_llamafactory.absent import ABSENT, AbsentFinder, missing

from quire import __version__

check_alone()
AbsentFinder.install()

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    # `from llamafactory import data` asks here first, and gets the finder's error.
    if f"llamafactory.{name}" in ABSENT:
        return importlib.import_module(f"llamafactory.{name}")
    raise missing(__name__, name)
