"""The tables that the documentation takes from the code."""

from __future__ import annotations

import re

import pytest

from docs import reference


@pytest.mark.parametrize("name", reference.groups())
def test_every_argument_has_its_row_and_says_what_it_means(name: str) -> None:
    rows = [line.split(" | ") for line in reference.table(name)[2:]]
    fields = reference.groups()[name].model_fields
    assert [re.findall(r"`(\w+)`", row[0]) for row in rows] == [[field] for field in fields]
    without = [field for field, row in zip(fields, rows, strict=True) if not row[3].strip(" |")]
    assert not without


def test_every_request_option_has_its_row() -> None:
    from quire.options import REQUEST_OPTIONS

    text = "\n".join(reference.table("options"))
    assert set(re.findall(r'<span id="(\w+)">', text)) == REQUEST_OPTIONS


def test_the_errors_are_those_of_the_tree() -> None:
    lines = reference.error_tree()
    drawn = re.findall(r"\w+Error\b", "\n".join(lines[: lines.index("```")]))
    described = re.findall(r"^::: quire\.errors\.(\w+)", "\n".join(lines), re.M)
    assert sorted({name for name in drawn if name not in ("ValueError", "RuntimeError")}) == sorted(
        described
    )


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "ge": 1}, "integer, at least 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number, above 0, at most 1"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "true or false"),
        ({"type": "string", "enum": ["a", "b"]}, "`a`, `b`"),
        ({"type": "string", "format": "password"}, "secret"),
    ],
)
def test_types_in_words(schema: dict[str, object], words: str) -> None:
    assert reference.type_words(schema) == words


def test_defaults_as_they_are_written() -> None:
    defaults = [("max_body_bytes", 2**25), ("top_p", 0.7), ("do_sample", True), ("stop", ())]
    assert [reference.shown(*one) for one in defaults] == ["32 MiB", "0.7", "true", "none"]


def test_links_of_the_roots_pages() -> None:
    text = "[a](docs/media.md#models) [b](CHANGELOG.md) [c](https://a.example/docs/x.md)"
    assert reference.from_docs(text) == (
        "[a](media.md#models) [b](changelog.md) [c](https://a.example/docs/x.md)"
    )
