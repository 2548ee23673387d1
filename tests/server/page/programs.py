"""The browsers that the page is tested in."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class BrowserKind:
    """A browser by its names, and the variable that names another program of it."""

    name: str
    package: str
    variable: str
    programs: tuple[str, ...]


CHROMIUM = BrowserKind(
    name="Chromium or Chrome",
    package="chromium",
    variable="QUIRE_TEST_BROWSER",
    programs=("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
)
FIREFOX = BrowserKind(
    name="Firefox",
    package="firefox-esr",
    variable="QUIRE_TEST_FIREFOX",
    programs=("firefox-esr", "firefox"),
)


def browser_program(kind: BrowserKind) -> str:
    """Where a browser is; a missing one fails the tests."""
    named = os.environ.get(kind.variable)
    found = named or next(filter(None, map(shutil.which, kind.programs)), None)
    if found is None:
        pytest.fail(
            f"The chat page is tested in {kind.name}, which is not here: install the package "
            f"{kind.package}, or set {kind.variable} to the program.",
            pytrace=False,
        )
    return found
