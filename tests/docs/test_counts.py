"""Numbers of formats, families and model types in the pages are those of the code."""

from __future__ import annotations

import re

import pytest

from quire.engines.native.models.registry import DECODERS
from quire.media.families.registry import FAMILIES
from quire.template.registry import template_names
from quire.tools.registry import tool_format_names
from tests.docs.pages import PAGES, Page

COUNTS = {
    "named formats": len(template_names()),
    "named prompt formats": len(template_names()),
    "wire formats": len(tool_format_names()),
    "model families": len(FAMILIES),
    "families": len(FAMILIES),
    "model types": len(DECODERS),
}
_COUNT = re.compile(rf"(\d+) ({'|'.join(COUNTS)})\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_counts(page: Page) -> None:
    wrong = [
        (number, what) for number, what in _COUNT.findall(page.text) if int(number) != COUNTS[what]
    ]
    assert wrong == []


def test_there_are_some() -> None:
    assert sum(len(_COUNT.findall(page.text)) for page in PAGES) > 5
