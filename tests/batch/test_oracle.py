"""Prompts and labels of data sets against those of LLaMA-Factory's own reader, token for token.

`oracle/record.py` recorded them. The rows whose prompts differ are named here, each kind with its
reason; all others are equal.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quire.batch.arguments import BatchArgs, get_batch_args
from quire.batch.inputs import open_source
from quire.batch.labels import label_ids
from quire.batch.rows import ChatRow
from quire.chat.preparation import ChatFormat, Preparation
from quire.engines.seam import EngineInfo
from quire.tools import llama3
from tests.batch.oracle.record_digest import DAY, digest, summary
from tests.batch.oracle.tokenizer import make_folder

ORACLE = Path(__file__).parent / "oracle"
RECORDED: dict[str, list[Any]] = json.loads((ORACLE / "renderings.json").read_text("utf-8"))

OURS_STAYS_TEXT = {9, 10}
"""Rows of `alpaca.json` with `{{idx}}` and with a control token in their text."""
JOINED_RESULTS = 3
"""The row of `openai.jsonl` whose results LLaMA-Factory joins in Qwen's words, whatever the format."""
WITH_QWEN_WORDS = {"qwen", "qwen3"}


@cache
def preparation(folder: Path, template: str) -> Preparation:
    args = arguments(folder, "alpaca", template)
    chat_format = ChatFormat.of_folder(folder, args.infer)
    return Preparation(chat_format, args.infer, EngineInfo("none", 1 << 16))


def arguments(
    folder: Path, name: str, template: str, dataset_dir: str = str(ORACLE / "data")
) -> BatchArgs:
    return get_batch_args(
        {
            "model_name_or_path": str(folder),
            "dataset": name,
            "dataset_dir": dataset_dir,
            "template": template,
        }
    )


@pytest.fixture(autouse=True)
def _day_of_the_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama3, "today", lambda: DAY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


def rendered(made: Preparation, row: ChatRow, *, thinks: bool) -> dict[str, Any]:
    """A row as the oracle has it."""
    row = replace(row, request=replace(row.request, options={"enable_thinking": thinks}))
    prompt = made.prepare_text(row.request).prompt.token_ids
    label = label_ids(made, row)
    return {
        "prompt": [len(prompt), digest(prompt), list(prompt[-6:])],
        "label": [len(label), digest(label), list(label[:6])],
    }


def kinds(name: str, template: str, index: int, wanted: Any, ours: Any) -> str:
    """In which way a row differs."""
    if wanted == ours:
        return "dropped" if wanted is None else "equal"
    if name.startswith("alpaca") and name != "alpaca_tools" and index in OURS_STAYS_TEXT:
        return "stays text"
    if name == "openai" and index == JOINED_RESULTS and template not in WITH_QWEN_WORDS:
        return "joined results"
    if isinstance(wanted, dict) and "error" in wanted and ours is not None:
        return "ends LLaMA-Factory's job"
    return "different"


@pytest.mark.parametrize("key", RECORDED)
def test_prompts_and_labels_are_llamafactorys(key: str, folder: Path, tmp_path: Path) -> None:
    name, template, mode = key.split("/")
    made, thinks = preparation(folder, template), mode == "thinking"
    args = arguments(folder, name, template)
    rows = list(open_source(args, spool=tmp_path / "spool", compat=True).rows())
    counts: Counter[str] = Counter()
    for row, wanted in zip(rows, RECORDED[key], strict=True):
        ours = rendered(made, row.work, thinks=thinks) if isinstance(row.work, ChatRow) else None
        counts[kinds(name, template, row.index, wanted, ours)] += 1
    assert counts["different"] == 0
    assert counts["stays text"] <= len(OURS_STAYS_TEXT)
    assert counts["ends LLaMA-Factory's job"] <= 1
    assert counts["equal"] >= len(rows) // 2
    dropped = {"sharegpt": 4, "sharegpt_tags": 1}
    assert counts["dropped"] == dropped.get(name, 0)


def test_without_compat_rows_that_a_template_can_render_are_answered(
    folder: Path, tmp_path: Path
) -> None:
    """What LLaMA-Factory drops, empties or rewrites, and what is done with it otherwise."""
    for name, unread in (("sharegpt", 2), ("sharegpt_tags", 1), ("openai", 0), ("kto", 0)):
        args = arguments(folder, name, "qwen")
        rows = list(open_source(args, spool=tmp_path / "spool").rows())
        assert [row.index for row in rows] == list(range(len(rows)))
        assert sum(row.error is not None for row in rows) == unread
    answers = [row.work.answer for row in rows if isinstance(row.work, ChatRow)]
    assert [answer and answer["content"] for answer in answers] == ["4", "5", "d"]
    assert rows[1].notes == ("The label is an answer that the data set marks as a bad one.",)


def test_systems_of_openai_rows_are_rewritten_in_compat_alone(folder: Path, tmp_path: Path) -> None:
    systems: dict[bool, list[str | None]] = {}
    for compat in (True, False):
        args = arguments(folder, "openai", "qwen")
        rows = open_source(args, spool=tmp_path / "spool", compat=compat).rows()
        systems[compat] = [row.work.request.system for row in rows if isinstance(row.work, ChatRow)]
    off = "detailed thinking off"
    assert systems[True][:2] == [off, f"Be kind.\n{off}"]
    assert systems[True][3] == "Use tools.\n"
    assert systems[False][:2] == [None, "Be kind."]
    assert systems[False][3] == "Use tools."
    assert systems[True][6] == systems[False][6] == "detailed thinking on"


DEMO_DATA = os.environ.get("LLAMA_FACTORY_DATA", "")
"""LLaMA-Factory's `data` folder, at the commit that `oracle/record.py` names."""
DEMO_RECORDED: dict[str, list[Any]] = json.loads(
    (ORACLE / "demo_renderings.json").read_text("utf-8")
)


@pytest.mark.skipif(not DEMO_DATA, reason="LLaMA-Factory's sets are not in this repository")
@pytest.mark.parametrize("key", DEMO_RECORDED)
def test_all_rows_of_llamafactorys_own_sets_are_equal(
    key: str, folder: Path, tmp_path: Path
) -> None:
    name, template, mode = key.split("/")
    made = preparation(folder, template)
    args = arguments(folder, name, template, DEMO_DATA)
    rows = open_source(args, spool=tmp_path / "spool", compat=True).rows()
    ours = [
        rendered(made, row.work, thinks=mode == "thinking")
        if isinstance(row.work, ChatRow)
        else None
        for row in rows
    ]
    assert summary(ours) == DEMO_RECORDED[key]
