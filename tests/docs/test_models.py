"""The table of docs/models.md is that of the registries."""

from __future__ import annotations

from docs import model_table
from quire.engines.native.models.registry import DECODERS


def test_the_page_is_that_of_the_registries() -> None:
    found = model_table.PAGE.read_text(encoding="utf-8")
    assert found == model_table.page(), "run: python docs/model_table.py"


def test_every_type_has_a_row_and_a_name() -> None:
    text = model_table.PAGE.read_text(encoding="utf-8")
    assert [one for one in DECODERS if f"| `{one}` | " not in text] == []
    assert all(one.models.strip() for one in DECODERS.values())
