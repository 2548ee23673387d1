"""All named formats against the reference's renderings, element by element."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire.messages import read_conversation
from quire.template.registry import get_template, template_names
from quire.template.template import elements_to_json

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "prompt_formats.json").read_text(encoding="utf-8")
)
CASES = [(name, key) for name, entry in GOLDEN["templates"].items() for key in entry["prompts"]]


def test_every_template_is_there_and_no_other() -> None:
    assert set(template_names()) == set(GOLDEN["templates"])
    assert len(CASES) == 894


@pytest.mark.parametrize(("name", "key"), CASES, ids=[f"{name}-{key}" for name, key in CASES])
def test_prompt(name: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, _, think = key.partition("/think=")
    made = GOLDEN["scenarios"][scenario]
    conversation = read_conversation(made["messages"], made["system"], made["tools"])
    elements = get_template(name, None).render(conversation, enable_thinking=think != "off")
    assert _dateless(elements_to_json(elements)) == _dateless(
        GOLDEN["templates"][name]["prompts"][key]
    )


@pytest.mark.parametrize("name", list(GOLDEN["templates"]))
def test_properties(name: str) -> None:
    expected, template = GOLDEN["templates"][name], get_template(name, None)
    assert template.default_system == expected["default_system"]
    assert list(template.stop_words) == expected["stop_words"]
    assert list(template.thought_words) == expected["thought_words"]
    assert template.efficient_eos == expected["efficient_eos"]
    assert template.replace_eos == expected["replace_eos"]
    assert template.reasoning == expected["reasoning"]
    assert template.media_family == expected["media_family"]
    assert template.media_tokens == expected["media_tokens"]


def _dateless(elements: list[Any]) -> list[Any]:
    """Llama 3's list of tools begins with the date of the day."""
    import re

    return [
        re.sub(r"Today Date: .{11}", "Today Date: .", element)
        if isinstance(element, str)
        else element
        for element in elements
    ]
