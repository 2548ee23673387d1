"""JSON in lines, lists and objects: what is read equals `json.loads` of the whole, faults stay in rows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.batch.inputs import json_text
from quire.batch.inputs.json_text import read_lines
from tests.batch.inputs.helpers import records, values

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**40), max_value=10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json")


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(JSON, max_size=6),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    piece=st.integers(1, 9),
)
def test_a_list_is_read_as_the_whole_would_be(
    folder: Path, rows: list[Any], ascii_only: bool, indent: int | None, piece: int
) -> None:
    text = json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
    if json_text._is_line_of_list(text.encode()):  # pyright: ignore[reportPrivateUsage]
        return
    # Pieces of a few bytes cut escapes and characters in two.
    with mock.patch.object(json_text, "_READ", piece):
        found = records(folder / "a.json", text)
    assert values(found) == json.loads(text)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(JSON, max_size=6), ascii_only=st.booleans(), bom=st.booleans())
def test_lines_are_read_as_each_would_be(
    folder: Path, rows: list[Any], ascii_only: bool, bom: bool
) -> None:
    rows = [{"row": row} for row in rows]
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    content = ("\ufeff" if bom else "") + "".join(f"{line}\n" for line in lines)
    if content:
        found = records(folder / "a.jsonl", content)
        assert values(found) == rows
        assert [one.line for one in found] == [*range(1, len(rows) + 1)]
        whole = content.encode()
        for one, line in zip(found, lines, strict=True):
            assert whole[one.byte or 0 :].startswith(line.encode())


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=5))
def test_objects_of_several_lines_are_read_one_after_another(folder: Path, rows: list[Any]) -> None:
    rows = [{"a": 1}, *rows]
    text = "\n".join(json.dumps(row, indent=1) for row in rows)
    assert values(records(folder / "a.json", text)) == rows


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60), limit=st.integers(1, 40))
def test_lines_are_split_at_line_feeds_alone(content: bytes, limit: int) -> None:
    found = list(read_lines(io.BufferedReader(io.BytesIO(content)), 0, limit))
    expected = content.split(b"\n")
    expected = expected[:-1] if expected[-1] == b"" else expected
    assert [line.content for line in found] == [
        line if len(line) <= limit else None for line in expected
    ]
    for line, text in zip(found, expected, strict=True):
        assert content[line.byte :].startswith(text)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_list_that_is_cut_off_loses_only_its_last_row(folder: Path, data: st.DataObject) -> None:
    rows = [{"a": "x,]}", "b": [1, {"c": '\\"'}]}, {"d": "é\u2028"}, {"e": 3}]
    content = json.dumps(rows, ensure_ascii=False).encode()
    cut = data.draw(st.integers(1, len(content) - 1))
    found = records(folder / "a.json", content[:cut])
    good = [one.value for one in found if one.error is None]
    assert good == rows[: len(good)]
    assert found[-1].error is not None
    assert len(found) == len(good) + 1
    assert "ends" in found[-1].error.message or "UTF-8" in found[-1].error.message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        pytest.param("a.json", '\ufeff[{"a":1}]', [{"a": 1}], id="10 a mark before a list"),
        pytest.param("a.jsonl", '\ufeff{"a":1}', [{"a": 1}], id="42 a mark before a line"),
        pytest.param("a.json", '\ufeff \r\n\n[{"a":1}]', [{"a": 1}], id="space before a list"),
        pytest.param("a.jsonl", '[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}], id="5 a list in .jsonl"),
        pytest.param("a.json", '{"a":1}\n{"a":2}\n', [{"a": 1}, {"a": 2}], id="5 lines in .json"),
        pytest.param("a.json", '{\n"a": 1\n}', [{"a": 1}], id="one object over lines"),
        pytest.param("a.jsonl", '{"a":"x\u2028y\x85z"}\n', [{"a": "x\u2028y\x85z"}], id="11"),
        pytest.param("a.jsonl", '{"a":1}\r\n\r\n{"a":2}', [{"a": 1}, {"a": 2}], id="CRLF"),
        pytest.param(
            "a.jsonl",
            '{"a":12345678901234567890123}',
            [{"a": 12345678901234567890123}],
            id="15 an integer of 23 digits",
        ),
        pytest.param(
            "a.jsonl", '{"a":"1"}\n{"a":2}', [{"a": "1"}, {"a": 2}], id="7 two types in a column"
        ),
        pytest.param(
            "a.json",
            '[{"a":"2024-05-01T10:00:00"}]',
            [{"a": "2024-05-01T10:00:00"}],
            id="6 a date is text",
        ),
        pytest.param(
            "a.jsonl",
            '{"x":{"a":1}}\n{"x":{"b":2}}',
            [{"x": {"a": 1}}, {"x": {"b": 2}}],
            id="8 each row its own keys",
        ),
        pytest.param("a.json", "[]", [], id="an empty list"),
        pytest.param(
            "a.jsonl",
            '[{"role":"user"}]\n[{"role":"user"}]',
            [[{"role": "user"}], [{"role": "user"}]],
            id="a conversation on each line",
        ),
        pytest.param("a.jsonl", '[{"role":"user"}]', [[{"role": "user"}]], id="one conversation"),
        pytest.param(
            "a.jsonl", '{"a":"\\ud83d\\ude00"}', [{"a": "😀"}], id="a pair is a character"
        ),
    ],
)
def test_what_is_written_is_read(
    tmp_path: Path, name: str, content: str, expected: list[Any]
) -> None:
    assert values(records(tmp_path / name, content)) == expected


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_repeated_key_counts_last_in_lines_and_lists_and_is_noted(
    tmp_path: Path, name: str
) -> None:
    row = '{"a":"1","b":{"c":1,"c":2},"a":"2"}'
    content = row if name == "a.jsonl" else f"[{row}]"
    (found,) = records(tmp_path / name, content)
    assert found.value == {"a": "2", "b": {"c": 2}}
    assert found.notes == (
        "The key 'a' is there twice; the last value counts.",
        "The key 'c' is there twice; the last value counts.",
    )


@pytest.mark.parametrize(
    ("name", "content", "at", "message", "line", "byte"),
    [
        ("a.jsonl", b'{"a":1}\n{"a":\n{"a":3}\n', 1, "line 2, column 6, byte 13", 2, 13),
        ("a.jsonl", b'{"a":1}\n{"a":"to', 1, "the file ends in the middle of a row", 2, 13),
        ("a.json", b'[{"a":1},\n {"a" 2},\n {"a":3}]', 1, "line 2, column 7, byte 16", 2, 16),
        ("a.json", b'[{"a":1},\n {"a":3},]', 2, "a comma too much, at line 2, column 10", 2, 19),
        ("a.json", b'[{"a":"x},\n {"a":2},\n {"a":3}]', 0, "control character", 1, 10),
        ("a.json", b'[{"a":1}] {"a":2}', 1, "the list ends before line 1, byte 10", 1, 10),
        ("a.jsonl", b'{"a":1}\n{"a":"\\ud800"}\n{"a":3}', 1, "\\ud800", 2, 8),
        ("a.json", b'[{"a":1},{"a":"\\udfff"}]', 1, "\\udfff", 1, 9),
        ("a.jsonl", b'{"a":1}\n{"a":"\xff"}\n', 1, "Not UTF-8 at byte 14", 2, 14),
        ("a.jsonl", b'{"a":1}\n{"a":NaN}\n', 1, "NaN", 2, 8),
        ("a.jsonl", b'{"a":1}\n{"a":1e999}\n', 1, "1e999 is too large", 2, 8),
        ("a.jsonl", b'{"a":1}\n' + b"[" * 100_000, 1, "nests too deeply", 2, 8),
        ("a.jsonl", b'{"a":1}\n{"a":"' + b"x" * 2000 + b'"}\n{"a":3}', 1, "1,000 bytes", 2, 8),
        ("a.json", b'[{"a":1},\n{"a":"' + b"x" * 300_000 + b'"},{"a":3}]', 1, "1,000 bytes", 2, 10),
    ],
)
def test_one_rows_fault_is_that_rows(
    tmp_path: Path, name: str, content: bytes, at: int, message: str, line: int, byte: int
) -> None:
    found = records(tmp_path / name, content, limit=1000 if b"xxxx" in content else 1 << 20)
    error = found[at].error
    assert error is not None
    assert message in error.message
    assert (error.stage, error.line, error.byte) == ("read", line, byte)
    others = [one for index, one in enumerate(found) if index != at]
    assert others
    assert all(one.error is None for one in others)


def test_a_row_that_is_too_large_is_not_held(tmp_path: Path) -> None:
    """The bytes of a value above the limit are counted and forgotten, over many pieces."""
    big = b"[" + b'"\\\\x",\n' * 5_000 + b"1]"
    content = b'[{"b":1},\n' + big + b',{"c":2}]'
    with mock.patch.object(json_text, "_READ", 64):
        found = records(tmp_path / "a.json", content, limit=500)
    assert found[0].value == {"b": 1}
    assert found[-1].value == {"c": 2}
    assert found[-1].line == 5_002
    assert found[-1].byte == content.index(b'{"c"')
