"""What GitHub reads, which cannot be run here: its form, and the names in it that are ours."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FORMS = sorted(path for path in GITHUB.glob("ISSUE_TEMPLATE/*.yml") if path.stem != "config")
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_its_parts(path: Path) -> None:
    form = read(path)
    assert set(form) <= {"name", "description", "title", "labels", "body"}
    assert form["name"]
    assert form["description"]
    names = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(names) == len(set(names)) > 0
    for part in form["body"]:
        attributes = part["attributes"]
        assert part["type"] in ("markdown", "input", "textarea", "dropdown", "checkboxes")
        assert attributes["value" if part["type"] == "markdown" else "label"]
        assert part["type"] != "dropdown" or len(attributes["options"]) > 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_asks_for_little_and_names_what_there_is(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    for job in jobs.values():
        assert job["timeout-minutes"]
        assert job.get("needs", next(iter(jobs))) in jobs
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", step.get("uses", "a/b@c"))
            for program in re.findall(r"^\.[\w./]+", step.get("run", ""), re.M):
                assert (ROOT / program).is_file()


def test_the_pythons_that_are_tested_are_those_that_are_named() -> None:
    tested = read(GITHUB / "workflows" / "ci.yml")["jobs"]["fast"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [
        word.rpartition(" ")[2] for word in project["classifiers"] if ":: Python :: 3." in word
    ]
    assert tested == named
    assert project["requires-python"] == f">={tested[0]}"
