"""Rows of data sets as conversations: by LLaMA-Factory's rules, and one row's fault is that row's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire.batch.rows import PairRow
from quire.errors import ConfigError
from quire.messages import read_conversation
from tests.batch.inputs.helpers import chat, content_of, data_set, fault, source

SHAREGPT = {"formatting": "sharegpt"}
OPENAI = {"formatting": "openai"}
TAGGED = {
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
    },
}
ADD = {"name": "add", "description": "", "parameters": {"type": "object", "properties": {}}}
CALL = '{"name": "add", "arguments": {"a": 1}}'


def conv(*turns: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **more}


# --- alpaca ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"instruction": "a", "input": "b"}, "a\nb"),
        ({"instruction": "a", "input": ""}, "a"),
        ({"instruction": "", "input": "b"}, "b"),
        ({"instruction": None, "input": None}, ""),
        ({"instruction": "a"}, "a"),
        ({"input": "b"}, "b"),
        ({"instruction": " a ", "input": "\n"}, " a \n\n"),
    ],
)
def test_the_question_is_instruction_and_input(
    tmp_path: Path, row: dict[str, Any], question: str
) -> None:
    (found,) = data_set(tmp_path, [row])
    assert chat(found).request.messages == ({"role": "user", "content": question},)


@pytest.mark.parametrize(
    ("output", "label"),
    [("", ""), ("x", "x"), (None, None), (3, "3"), ({"a": 1}, '{"a": 1}'), (False, "false")],
)
def test_a_label_is_text_or_the_json_text_of_what_it_is(
    tmp_path: Path, output: Any, label: str | None
) -> None:
    """Kinds 4 and 5."""
    (found,) = data_set(tmp_path, [{"instruction": "hi", "output": output}])
    answer = chat(found).answer
    assert (None if answer is None else answer["content"]) == label
    assert bool(found.notes) == (not isinstance(output, (str, type(None))))


def test_a_row_without_output_is_answered(tmp_path: Path) -> None:
    (found,) = data_set(tmp_path, [{"instruction": "hi", "sample_id": 7}])
    assert chat(found).answer is None
    assert found.columns == {"instruction": "hi", "sample_id": 7}


def test_columns_that_are_not_named_are_none(tmp_path: Path) -> None:
    """Rule 2: where `columns` is there, the defaults are gone."""
    rows = [{"q": "a", "input": "not read", "output": "not read"}]
    (found,) = data_set(tmp_path, rows, {"columns": {"prompt": "q"}})
    assert chat(found).request.messages == ({"role": "user", "content": "a"},)
    assert chat(found).answer is None


def test_history_is_pairs_before_the_question(tmp_path: Path) -> None:
    entry = {"columns": {"prompt": "q", "history": "h", "system": "s"}}
    rows = [
        {"q": "c", "h": [["a", "b"]], "s": "S"},
        {"q": "c", "h": None, "s": None},
        {"q": "c"},
        {"q": "c", "h": [["a"]]},
        {"q": "c", "h": [["a", None]]},
        {"q": "c", "h": "a"},
        {"q": "c", "s": 3},
    ]
    found = data_set(tmp_path, rows, entry)
    assert chat(found[0]).request.messages == (
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    )
    assert [chat(row).request.system for row in found[:3]] == ["S", None, None]
    assert "entry 0 is no pair" in fault(found[3])
    assert "entry 0 is no pair" in fault(found[4])
    assert "'h' holds text, not a list" in fault(found[5])
    assert "'s' holds a number, not text" in fault(found[6])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "answer": "b"}, "no column 'instruction' or 'input'; its columns are: "),
        ({"instruction": 5}, "'instruction' holds a number"),
        ({"instruction": ["a"]}, "'instruction' holds a list"),
        (["a"], "must be an object with columns, not a list"),
        (None, "not null"),
        ("a", "not text"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(tmp_path: Path, row: Any, message: str) -> None:
    """Kinds 14 and a missing column: the other rows stay, in their places."""
    found = data_set(tmp_path, [{"instruction": "a"}, row, {"instruction": "b"}])
    assert message in fault(found[1])
    assert [one.index for one in found] == [0, 1, 2]
    assert found[1].error is not None
    assert found[1].error.stage == "convert"
    assert found[1].error.line == 1
    assert chat(found[2]).request.messages == ({"role": "user", "content": "b"},)


# --- csv ---------------------------------------------------------------------------------------


def test_lists_in_csv_cells_are_read_as_json_or_refused_by_name(tmp_path: Path) -> None:
    """Kinds 16 and 17."""
    entry = {"columns": {"prompt": "q", "response": "a", "history": "h", "kto_tag": "t"}}
    content = b'q,a,h,t\nc,NA,"[[""x"",""y""]]",true\nc,02,,False\nc,,x y,\n'
    found = data_set(tmp_path, content, entry, name="a.csv")
    assert [content_of(one) for one in chat(found[0]).request.messages] == ["x", "y", "c"]
    assert chat(found[0]).answer == {"role": "assistant", "content": "NA"}
    assert chat(found[1]).answer == {"role": "assistant", "content": "02"}
    assert "bad one" in found[1].notes[0]
    assert "'h' must hold JSON" in fault(found[2])


# --- sharegpt ----------------------------------------------------------------------------------


def test_roles_out_of_order_are_that_rows_error(tmp_path: Path) -> None:
    """Kind 3: LLaMA-Factory drops the row, and later ones move up."""
    rows = [
        conv(("gpt", "a"), ("human", "b"), ("gpt", "c")),
        conv(("human", "a"), ("gpt", "b")),
        conv(("human", "a"), ("human", "b"), ("gpt", "c")),
        conv(("human", "a"), ("gpt", "b"), ("gpt", "c")),
        conv(("human", "a"), ("system", "b")),
        conv(),
        conv(("system", "a")),
        conv(("observation", "a"), ("gpt", "b")),
    ]
    found = data_set(tmp_path, rows, SHAREGPT)
    assert [row.index for row in found] == [*range(8)]
    assert [row.index for row in found if row.error is None] == [1]
    assert "Message 0 is of the role 'assistant'" in fault(found[0])
    assert "Message 1 is of the role 'user'" in fault(found[2])
    assert "no message" in fault(found[5])
    assert "begins with a tool's result" in fault(found[7])


def test_a_system_message_wins_over_the_column(tmp_path: Path) -> None:
    entry = {**SHAREGPT, "columns": {"messages": "conversations", "system": "s"}}
    rows = [
        conv(("system", "first"), ("human", "a"), ("gpt", "b"), s="column"),
        conv(("human", "a"), ("gpt", "b"), s="column"),
    ]
    found = data_set(tmp_path, rows, entry)
    assert [chat(row).request.system for row in found] == ["first", "column"]


def test_a_role_without_a_tag_names_the_tag(tmp_path: Path) -> None:
    """Kinds 22 and 23."""
    rows = [
        {"messages": [{"role": role, "content": "x"}, {"role": "user", "content": "y"}]}
        for role in ("system", "tool", "function_call", "narrator")
    ]
    found = data_set(tmp_path, rows, {**SHAREGPT, **TAGGED})
    assert "the role 'system'; the data set's tags are 'user', 'assistant'" in fault(found[0])
    assert "and system_tag is not set" in fault(found[0])
    assert "and observation_tag is not set" in fault(found[1])
    assert "and function_tag is not set" in fault(found[2])
    assert fault(found[3]).endswith("tags are 'user', 'assistant'.")


def test_a_message_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    rows = [
        {"conversations": [{"role": "user", "content": "a"}]},
        {"conversations": [{"from": "human"}]},
        conv(("human", None)),
        conv(("human", {"a": 1})),
        {"conversations": ["a"]},
        {"conversations": "a"},
        {"other": 1},
        conv(("human", "a"), ("function_call", "<thought>b</thought>{not json")),
        conv(("human", "a"), ("function_call", '{"name": "x"}')),
    ]
    found = data_set(tmp_path, rows, SHAREGPT)
    expected = [
        "Message 0 has no key 'from' for its role; its keys are 'role', 'content'",
        "Message 0 has no key 'value'",
        "Message 0 (user) has null",
        "Message 0 (user)",
        "Message 0 is text, not an object",
        "'conversations' holds text, not a list",
        "no column 'conversations'; its columns are: 'other'",
        "Message 1 (function)",
        "Message 1 (function)",
    ]
    for row, message in zip(found, expected, strict=True):
        assert message in fault(row)


def test_calls_and_their_thoughts_become_tool_calls(tmp_path: Path) -> None:
    """Kind 20: a thought before the call's JSON is text."""
    rows = [
        conv(("human", "a"), ("function_call", CALL), ("observation", "2"), ("gpt", "b")),
        conv(("human", "a"), ("function_call", f"<think>\nt\n</think>\n\n{CALL}")),
        conv(("human", "a"), ("function_call", f"[{CALL}, {CALL}]"), ("observation", "2")),
    ]
    found = data_set(tmp_path, rows, SHAREGPT)
    function = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert chat(found[0]).request.messages[1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [function],
    }
    assert chat(found[0]).request.messages[2] == {"role": "tool", "content": "2"}
    assert chat(found[1]).answer == {
        "role": "assistant",
        "content": "<think>\nt\n</think>\n\n",
        "tool_calls": [function],
    }
    assert chat(found[2]).answer is None
    for row in found:
        read_conversation(chat(row).request.messages)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ("", None),
        (" ", None),
        (None, None),
        (json.dumps([ADD]), [ADD]),
        ([ADD], [ADD]),
        ("[]", "[]"),
        ([], None),
    ],
)
def test_tools_are_lists_or_their_text(tmp_path: Path, tools: Any, expected: Any) -> None:
    """Kinds 18 and 19."""
    entry = {**SHAREGPT, "columns": {"messages": "conversations", "tools": "tools"}}
    (found,) = data_set(tmp_path, [conv(("human", "a"), ("gpt", "b"), tools=tools)], entry)
    assert chat(found).request.tools == expected


@pytest.mark.parametrize("tools", ["[{", 5, '[{"description": "no name"}]'])
def test_tools_that_cannot_be_read_are_that_rows_error(tmp_path: Path, tools: Any) -> None:
    entry = {**SHAREGPT, "columns": {"messages": "conversations", "tools": "tools"}}
    rows = [conv(("human", "a"), ("gpt", "b"), tools=tools), conv(("human", "a"), ("gpt", "b"))]
    found = data_set(tmp_path, rows, entry)
    assert "tools" in fault(found[0])
    assert found[1].error is None


# --- openai ------------------------------------------------------------------------------------


def _message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def test_openai_roles_are_known_without_tags(tmp_path: Path) -> None:
    """Kind 22, and rule 3: LLaMA-Factory looks for `from` and `value` here."""
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    rows = [
        {
            "messages": [
                _message("developer", "S"),
                _message("user", "a"),
                _message("assistant", "b"),
            ]
        },
        {"messages": [_message("user", "a"), _message("assistant", None, tool_calls=calls)]},
        conv(("human", "a"), ("gpt", "b")),
        {"messages": [_message("robot", "a")]},
    ]
    found = data_set(tmp_path, rows, OPENAI)
    assert chat(found[0]).request.system == "S"
    assert chat(found[1]).answer == _message("assistant", None, tool_calls=calls)
    assert chat(found[2]).answer == _message("assistant", "b")
    assert "the role 'robot'" in fault(found[3])


def test_the_last_results_of_tools_stay_in_the_prompt(tmp_path: Path) -> None:
    """Kind 21: LLaMA-Factory loses them, and takes the call for the label."""
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    turns = [
        _message("user", "a"),
        _message("assistant", "I shall.", tool_calls=calls),
        _message("tool", "2", tool_call_id="1"),
    ]
    (found,) = data_set(tmp_path, [{"messages": turns}], OPENAI)
    assert chat(found).request.messages == tuple(turns)
    assert chat(found).answer is None
    (compat,) = data_set(tmp_path, [{"messages": turns}], OPENAI, compat=True)
    assert chat(compat).request.messages == tuple(turns[:1])
    assert chat(compat).answer == _message("assistant", None, tool_calls=calls)


def test_each_row_keeps_its_own_arguments(tmp_path: Path) -> None:
    """Kind 8: Arrow gives each row the keys of all rows."""
    rows = [
        {
            "messages": [
                _message("user", "a"),
                _message(
                    "assistant", "", tool_calls=[{"function": {"name": "f", "arguments": one}}]
                ),
            ]
        }
        for one in ({"x": 1}, {"y": 2})
    ]
    found = data_set(tmp_path, rows, OPENAI)
    answers = [chat(row).answer or {} for row in found]
    assert [one["tool_calls"][0]["function"]["arguments"] for one in answers] == [
        {"x": 1},
        {"y": 2},
    ]


# --- pairs and marked answers ------------------------------------------------------------------

RANKING = {"ranking": True, "columns": {"prompt": "q", "chosen": "yes", "rejected": "no"}}


def test_pairs_are_scored_with_stage_rm_alone(tmp_path: Path) -> None:
    """Kind 39."""
    rows = [
        {"q": "a", "yes": "b", "no": "c"},
        {"q": "a", "yes": "b"},
        {"q": "a", "yes": 1, "no": ""},
    ]
    found = data_set(tmp_path, rows, RANKING, stage="rm")
    pair = found[0].work
    assert isinstance(pair, PairRow)
    assert pair.chosen.request is pair.rejected.request
    assert [one.answer and one.answer["content"] for one in (pair.chosen, pair.rejected)] == [
        "b",
        "c",
    ]
    assert "no column 'no'" in fault(found[1])
    assert "'yes' holds a number, not text" in fault(found[2])
    (first, *_) = data_set(tmp_path, rows[:1], RANKING)
    assert chat(first).answer == _message("assistant", "b")
    assert first.notes == ("The label is the chosen one of two answers.",)


def test_pairs_of_messages(tmp_path: Path) -> None:
    entry = {
        **SHAREGPT,
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    }
    good, bad = {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}
    rows = [
        conv(("human", "a"), chosen=good, rejected={"from": "function_call", "value": CALL}),
        conv(("human", "a"), chosen=good, rejected=bad),
        conv(("human", "a"), ("gpt", "b"), chosen=good, rejected=good),
        conv(("human", "a"), chosen="b", rejected="c"),
    ]
    found = data_set(tmp_path, rows, entry, stage="rm")
    assert isinstance(found[0].work, PairRow)
    assert "'rejected' holds a message of the user" in fault(found[1])
    assert "must not end with an answer" in fault(found[2])
    assert "'chosen' holds text, not a message" in fault(found[3])


@pytest.mark.parametrize(
    ("entry", "arguments", "compat"),
    [({}, {"stage": "rm"}, False), (RANKING, {}, True)],
)
def test_a_set_that_does_not_fit_the_stage_is_refused(
    tmp_path: Path, entry: dict[str, Any], arguments: dict[str, Any], compat: bool
) -> None:
    """Rule 11."""
    with pytest.raises(ConfigError, match="does not fit stage"):
        data_set(tmp_path, [{"q": "a"}], entry, compat=compat, **arguments)


def test_only_true_and_false_mark_an_answer(tmp_path: Path) -> None:
    """Rule 24; LLaMA-Factory's script leaves the labels of marked answers empty."""
    entry = {**SHAREGPT, "columns": {"messages": "conversations", "kto_tag": "tag"}}
    rows = [conv(("human", "a"), ("gpt", "b"), tag=tag) for tag in (True, False, "true", 1, None)]
    labels = [(chat(row).answer or {})["content"] for row in data_set(tmp_path, rows, entry)]
    assert labels == ["b"] * 5
    compat = data_set(tmp_path, rows, entry, compat=True)
    assert [(chat(row).answer or {})["content"] for row in compat] == ["", "", "b", "b", "b"]


def test_without_a_response_the_label_is_null_and_in_compat_that_of_nothing(
    tmp_path: Path,
) -> None:
    """Rule 14."""
    (ours,) = data_set(tmp_path, [{"instruction": "a"}])
    (theirs,) = data_set(tmp_path, [{"instruction": "a"}], compat=True)
    assert chat(ours).answer is None
    assert chat(theirs).answer == _message("assistant", "")


# --- media -------------------------------------------------------------------------------------

IMAGES = {"columns": {"prompt": "q", "images": "i"}}


def test_media_are_looked_for_in_the_sets_folder_then_as_they_are(tmp_path: Path) -> None:
    """Kinds 24 and 25, and rule 28: one is a list of one, and each row may have its own form."""
    (tmp_path / "data").mkdir()
    inside, outside = tmp_path / "data" / "a.jpg", tmp_path / "b.jpg"
    inside.write_bytes(b"1")
    outside.write_bytes(b"2")
    media = [
        "a.jpg",
        ["a.jpg", str(outside)],
        [],
        None,
        [["a.jpg", "a.jpg"]],
        ["https://example.org/x.png", "data:image/png;base64,AA=="],
        [{"bytes": None, "path": "a.jpg"}],
        ["gone.jpg"],
        [5],
        [""],
    ]
    found = data_set(tmp_path, [{"q": "<image>", "i": one} for one in media], IMAGES)
    images = [None if row.error else chat(row).request.media.images for row in found]
    assert images[:7] == [
        [str(inside)],
        [str(inside), str(outside)],
        None,
        None,
        [[str(inside), str(inside)]],
        media[5],
        [str(inside)],
    ]
    assert "There is no file 'gone.jpg', which the column 'i' names" in fault(found[7])
    assert "'i' holds a number" in fault(found[8])
    assert "empty path" in fault(found[9])


def test_media_outside_of_media_dir_are_refused(tmp_path: Path) -> None:
    allowed = tmp_path / "media"
    allowed.mkdir()
    (allowed / "a.jpg").write_bytes(b"1")
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"2")
    (allowed / "link.jpg").symlink_to(secret)
    paths = ["a.jpg", str(allowed / "a.jpg"), "../secret.jpg", str(secret), "link.jpg"]
    rows = [{"q": "<image>", "i": [path]} for path in paths]
    found = data_set(tmp_path, rows, IMAGES, media_dir=str(allowed))
    assert [row.error is None for row in found] == [True, True, False, False, False]
    assert all("outside of media_dir" in fault(row) for row in found[2:])


# --- plain files -------------------------------------------------------------------------------


def plain(tmp_path: Path, rows: list[Any], **arguments: Any) -> list[Any]:
    path = tmp_path / "plain.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return list(source(tmp_path, input=str(path), **arguments).rows())


def test_rows_of_a_plain_file_say_what_they_are(tmp_path: Path) -> None:
    user, answer = _message("user", "a"), _message("assistant", "b")
    rows = [
        [user],
        {"messages": [user, answer], "tools": [ADD], "system": "S", "id": 7},
        {"prompt": "a", "label": "b"},
        conv(("human", "a"), ("gpt", "b")),
        {"instruction": "a", "output": "b"},
        {"text": "a"},
        {"question": "a"},
        5,
        {"messages": [{"from": "human", "value": "a"}]},
        {"prompt": [user]},
    ]
    found = plain(tmp_path, rows)
    for row in (*found[:6], *found[8:]):
        assert chat(row).request.messages == (user,)
    assert [chat(row).answer for row in found[:6]] == [None, answer, answer, answer, answer, None]
    assert (chat(found[1]).request.system, chat(found[1]).request.tools) == ("S", [ADD])
    assert found[1].id == "7"
    assert "none of the columns 'messages', 'conversations'" in fault(found[6])
    assert "its columns are: 'question'" in fault(found[6])
    assert "not a number" in fault(found[7])


def test_lines_of_a_batch_file_are_checked(tmp_path: Path) -> None:
    """Kinds 41, 44: a bad line is that line's error, and all four addresses are known."""
    good = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": []},
    }
    others = ("/v1/completions", "/v1/embeddings", "/v1/responses")
    rows: list[Any] = [good]
    rows += [{**good, "custom_id": url, "url": url} for url in others]
    bad: list[tuple[dict[str, Any], str]] = [
        ({"url": "/v1/images"}, "invalid_url"),
        ({"method": "GET"}, "invalid_method"),
        ({"body": []}, "invalid_body"),
        ({"custom_id": 5}, "invalid_custom_id"),
        ({"url": None}, "missing_required_parameter"),
    ]
    for number, (change, _) in enumerate(bad):
        rows.append({**good, "custom_id": f"bad {number}", **change})
    found = plain(tmp_path, rows)
    assert [row.id for row in found[:4]] == ["1", *others]
    assert all(row.error is None for row in found[:4])
    assert [row.error.code for row in found[4:]] == [code for _, code in bad]
