"""What is recorded of real chat templates goes together with the manifest, and with what is promised."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.template.real import table, templates
from tests.template.real.conversations import ANSWERS, CONVERSATIONS
from tests.template.real.records import (
    DROPS_TOOLS,
    READING,
    RENDERING,
    RIGHT,
    read_records,
    write_records,
)
from tests.template.real.templates import Source, digest, fetch, python_string, read_manifest

SOURCES, RECORDS = read_manifest(), read_records()
_UNQUOTED = "its strings have no quotes: what ends one, and what is a number, cannot be told"
UNREAD = {
    "llama.cpp/NVIDIA-Nemotron-Nano-v2": "a call is a message of its own, after one of the thought",
    "vllm/tool_chat_template_gemma3_pythonic": "it leaves out the comma between two arguments",
    "vllm/tool_chat_template_llama3.2_pythonic": _UNQUOTED,
    "vllm/tool_chat_template_toolace": _UNQUOTED,
}
"""Templates of which some answers are not read, each with the reason."""


def test_the_manifest_names_each_text_once() -> None:
    assert len({source.name for source in SOURCES}) == len(SOURCES) >= 250
    assert len({source.sha256 for source in SOURCES}) == len(SOURCES)
    for source in SOURCES:
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
        assert re.fullmatch(r"[0-9a-f]{40}|v[\d.]+", source.revision), "a branch would move"


def test_the_records_are_of_these_texts() -> None:
    assert [(name, found.sha256) for name, found in RECORDS.items()] == [
        (source.name, source.sha256) for source in SOURCES
    ]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_whole(name: str) -> None:
    found = RECORDS[name]
    assert len(found.renderings) == len(found.hashes) == len(CONVERSATIONS)
    assert len(found.readings) == len(ANSWERS)
    assert set(found.renderings) <= set(RENDERING)
    assert set(found.readings) <= set(READING)
    assert (found.vllm is not None) == found.shows_calls


def test_what_is_promised() -> None:
    calling = [found for found in RECORDS.values() if found.shows_calls]
    assert sum(found.renders for found in RECORDS.values()) >= 250
    assert {found.name for found in calling if not found.reads} == set(UNREAD)
    assert [name for name, found in RECORDS.items() if DROPS_TOOLS in found.renderings] == []
    families: dict[str, Counter[str]] = {}
    for found in calling:
        if found.refuses_calls:
            continue
        assert found.vllm is not None
        counts = families.setdefault(found.vllm.tool_parser, Counter())
        counts["quire"] += found.readings.count(RIGHT)
        counts["vLLM"] += found.vllm.readings.count(RIGHT)
    assert [name for name, count in families.items() if count["quire"] < count["vLLM"]] == []


def test_the_tables_have_a_row_for_each() -> None:
    assert len(table.templates_table()) == len(RECORDS) + 2
    last = table.sets_table()[-1]
    assert last.startswith(f"| **all** | {len(RECORDS)} |")
    assert len(table.parsers_table()) > 10


def test_records_come_back(tmp_path: Path) -> None:
    write_records(RECORDS.values(), tmp_path / "records.json")
    assert read_records(tmp_path / "records.json") == RECORDS


def test_a_template_in_a_python_file() -> None:
    source = 'a = "x"\nb = a + "y" + \\\n"z"\nc = f(b)\n'
    assert python_string(source, "b") == "xyz"
    with pytest.raises(LookupError):
        python_string(source, "c")


def test_what_is_fetched_is_held_to_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there.jinja"
    there.write_text("{{ x }}\n", encoding="utf-8")
    monkeypatch.setattr(templates, "_RAW", "file:///{repository}/{revision}/{path}")
    places = {"repository": str(tmp_path.parent)[1:], "revision": tmp_path.name, "path": there.name}
    right = Source("a/right", **places, sha256=digest("{{ x }}\n"))
    wrong = Source("a/wrong", **places, sha256=digest("{{ y }}\n"))
    missing = Source("a/missing", **{**places, "path": "nowhere"}, sha256="0" * 64)
    said = list(fetch([right, wrong, missing], tmp_path / "to"))
    assert [line.split(":")[0] for line in said] == ["a/wrong", "a/missing"]
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["a--right.jinja"]
