"""The version stands in `quire.__version__`; the changelog and the compatibility package follow it."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

from quire import __version__

ROOT = Path(__file__).parents[1]
COMPAT = ROOT / "compat" / "llamafactory"


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def test_both_distributions_read_it_from_their_package() -> None:
    paths: list[Path] = []
    for folder in (ROOT, COMPAT):
        content = project(folder)
        assert content["project"]["dynamic"] == ["version"]
        paths.append(folder / content["tool"]["hatch"]["version"]["path"])
    versions = [re.findall(r'^__version__ = "(.+)"$', path.read_text(), re.M) for path in paths]
    assert versions == [[__version__]] * 2


def test_the_compatibility_package_asks_for_this_version() -> None:
    assert project(COMPAT)["project"]["dependencies"] == [f"quire-llm>={__version__}"]


def test_the_changelog_ends_with_this_release() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings[0] == "[Unreleased]"
    releases = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\S+)", heading) for heading in headings[1:]]
    found = [(match[1], date.fromisoformat(match[2])) for match in releases if match]
    assert len(found) == len(headings) - 1
    assert found[0][0] == __version__
    assert found == sorted(found, key=lambda one: (one[1], one[0].split(".")), reverse=True)
