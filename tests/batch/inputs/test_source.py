"""The rows of a job: in order, by their ids, from several sets, and from standard input."""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.batch.arguments import get_batch_args
from quire.batch.inputs import check_source, open_file, open_source
from quire.batch.inputs import source as source_module
from quire.batch.inputs.identity import SeenIds, row_id
from quire.errors import ConfigError
from tests.batch.inputs.helpers import chat, content_of, fault, source


def lines(*rows: Any) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def questions(rows: Any) -> list[str]:
    return [str(content_of(chat(row).request.messages[0])) for row in rows]


@pytest.fixture
def sets(tmp_path: Path) -> str:
    """Three data sets of 3, 5 and 4 rows, whose questions are the letter and the row."""
    info: dict[str, Any] = {}
    for name, count in (("a", 3), ("b", 5), ("c", 4)):
        rows = [{"instruction": f"{name}{index}", "id": index} for index in range(count)]
        (tmp_path / f"{name}.jsonl").write_text(lines(*rows), encoding="utf-8")
        info[name] = {"file_name": f"{name}.jsonl"}
        info[f"{name}_some"] = {"file_name": f"{name}.jsonl", "num_samples": 2}
        info[f"{name}_part"] = {"file_name": f"{name}.jsonl", "split": "train[1:3]"}
        info[f"{name}_last"] = {"file_name": f"{name}.jsonl", "split": "train[-2:]"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return str(tmp_path)


# --- several sets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dataset": "a, b"}, "a0 a1 a2 b0 b1 b2 b3 b4"),
        ({"dataset": "a,b", "max_samples": 2}, "a0 a1 b0 b1"),
        ({"dataset": "a,b", "mix_strategy": "interleave_under"}, "a0 b0 a1 b1 a2 b2"),
        ({"dataset": "b,a", "mix_strategy": "interleave_once"}, "b0 a0 b1 a1 b2 a2 b3 b4"),
        ({"dataset": "b_part,a_last"}, "b1 b2 a1 a2"),
        ({"dataset": "b_part", "max_samples": 1}, "b1"),
        ({"dataset": "b_some"}, "b1 b4"),
        ({"dataset": "a", "eval_dataset": "c"}, "c0 c1 c2 c3"),
        ({"dataset": "b", "val_size": 2}, "b1 b3"),
    ],
)
def test_sets_become_one_input(
    tmp_path: Path, sets: str, arguments: dict[str, Any], expected: str
) -> None:
    made = source(tmp_path, dataset_dir=sets, **arguments)
    rows = list(made.rows())
    if "_some" in arguments["dataset"] or "val_size" in arguments:
        assert len(rows) == 2
        assert set(questions(rows)) <= {f"b{index}" for index in range(5)}
    else:
        assert questions(rows) == expected.split()
    assert [row.index for row in rows] == [*range(len(rows))]
    assert made.total == len(rows)
    assert next(row.source for row in rows) in arguments["dataset"] + str(arguments)
    again = list(source(tmp_path, dataset_dir=sets, **arguments).rows())
    assert questions(again) == questions(rows)
    told: dict[str, int] = {}
    list(made.rows(lambda name, number, _: told.update({name: number})))
    assert set(told.values()) == {0} or arguments.get("max_samples")


def test_the_seed_decides_about_samples(tmp_path: Path, sets: str) -> None:
    found = {
        seed: questions(source(tmp_path, dataset_dir=sets, dataset="b_some", seed=seed).rows())
        for seed in (1, 2, 3, 4)
    }
    assert len({tuple(one) for one in found.values()}) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "a", "eval_dataset": "b", "val_size": 2}, "not of eval_dataset"),
        ({"dataset": "a,b", "interleave_probs": "0.5,0.5"}, "needs mix_strategy"),
        ({"dataset": "a,x"}, "no data set 'x'"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    tmp_path: Path, sets: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        source(tmp_path, dataset_dir=sets, **arguments)


def test_an_input_of_no_rows_is_told(tmp_path: Path, sets: str) -> None:
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"x": {"file_name": "a.jsonl", "split": "train[10:20]"}}), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="No rows are left of x"):
        list(source(tmp_path, dataset_dir=sets, dataset="x").rows())


def test_what_decides_about_the_rows_is_described(tmp_path: Path, sets: str) -> None:
    def described(**arguments: Any) -> str:
        return json.dumps(source(tmp_path, dataset_dir=sets, **arguments).describe())

    one = described(dataset="a,b")
    assert one == described(dataset="a,b")
    others = [
        {"dataset": "b,a"},
        {"dataset": "a,b", "max_samples": 1},
        {"dataset": "a,b", "seed": 1},
        {"dataset": "a,b", "mix_strategy": "interleave_once"},
        {"dataset": "a,b", "id_column": "x"},
        {"dataset": "a,b", "media_dir": sets},
    ]
    assert len({one, *(described(**arguments) for arguments in others)}) == 7


def test_counts_that_a_table_knows_are_known_before_reading(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"prompt": ["x"] * 10}), path)
    assert source(tmp_path, input=str(path)).total == 10
    assert source(tmp_path, input=str(path), max_samples=4).total == 4
    (tmp_path / "a.jsonl").write_text(lines({"prompt": "a"}), encoding="utf-8")
    assert source(tmp_path, input=str(tmp_path / "a.jsonl")).total is None


# --- ids ---------------------------------------------------------------------------------------


def test_a_row_is_named_by_custom_id_or_id() -> None:
    assert row_id({"custom_id": "a", "id": "b"}) == "a"
    assert row_id({"id": 7}) == "7"
    assert row_id({"id": 12345678901234567890123}) == "12345678901234567890123"
    for other in (None, "", 1.5, True, [], {}):
        assert row_id({"id": other}) is None
    assert row_id([1]) is None
    assert row_id({"id": "a", "name": "b"}, ("name",)) == "b"


def test_ids_are_found_again_among_many() -> None:
    seen = SeenIds()
    assert [seen.first(f"id-{index}", index) for index in range(5000)] == [None] * 5000
    assert [seen.first(f"id-{index}", 0) for index in range(5000)] == [*range(5000)]


@pytest.mark.parametrize("api", [False, True])
def test_ids_that_repeat_are_told_with_both_lines(tmp_path: Path, api: bool) -> None:
    """Kind 43."""
    rows: list[dict[str, Any]] = [{"id": name, "prompt": name} for name in ("x", "y", "x")]
    if api:
        url = "/v1/embeddings"
        rows = [
            {"custom_id": row["id"], "method": "POST", "url": url, "body": {"input": "a"}}
            for row in rows
        ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + lines(*rows), encoding="utf-8")
    made = source(tmp_path, input=str(path))
    found = list(made.rows())
    message = "The id 'x' is there twice: first in line 2, and again in line 4."
    assert fault(found[2]) == message
    assert [row.id for row in found] == ["x", "y", None]
    assert found[2].error is not None
    assert found[2].error.code == ("duplicate_custom_id" if api else "duplicate_id")
    with pytest.raises(ConfigError, match="first in line 2, and again in line 4"):
        check_source(made)


def test_ids_in_several_files_of_a_set_name_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(lines({"instruction": "q", "id": 1}))
    info = {"x": {"file_name": "many"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    made = source(tmp_path, dataset="x", dataset_dir=str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"line 1 of .*a\.jsonl, and again in line 1 of .*b\.json"
    ):
        check_source(made)
    other = source(tmp_path, dataset="x", dataset_dir=str(tmp_path), id_column="")
    assert check_source(other) == ()
    assert [row.id for row in other.rows()] == [None, None]


def test_ids_of_different_sets_and_of_rows_that_are_drawn_twice_may_repeat(
    tmp_path: Path, sets: str
) -> None:
    made = source(tmp_path, dataset_dir=sets, dataset="a,b", mix_strategy="interleave_over")
    assert all(row.error is None for row in made.rows())


# --- before the model is loaded ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", " \n\n", "holds no rows"),
        ("a.json", "[]", "holds no rows"),
        ("a.csv", "q,a\n", "holds no rows"),
        ("a.jsonl", "<html>\n<body>\n", "All of the first 2 rows cannot be used. The first: No "),
        ("a.jsonl", '{"a": 1}\n{"a": 2}\n', "its columns are: 'a'"),
        ("a.jsonl", '{"prompt": "torn', "The only row cannot be used"),
    ],
)
def test_files_that_cannot_be_used_are_told_before_the_model_is_loaded(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        check_source(source(tmp_path, input=str(path)))


def test_faults_of_single_rows_are_told_and_end_nothing(tmp_path: Path) -> None:
    """Kinds 12 and 41."""
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"prompt": "a"}) * 3 + "{torn\n" + '{"prompt": "b"}\n', encoding="utf-8")
    (told,) = check_source(source(tmp_path, input=str(path)))
    assert "1 of the first 5 rows cannot be used" in told
    assert "line 4, column 2" in told
    assert len(list(source(tmp_path, input=str(path)).rows())) == 5


def test_only_the_first_rows_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"prompt": "a"}) * 20 + "{torn\n", encoding="utf-8")
    assert check_source(source(tmp_path, input=str(path)), first_rows=10) == ()


@pytest.mark.parametrize(("name", "ends"), [("a.json", False), ("a.csv", True)])
def test_a_named_column_that_no_row_has_is_told_with_those_that_are_there(
    tmp_path: Path, name: str, ends: bool
) -> None:
    content = "q,a\nx,y\n" if name == "a.csv" else '[{"q": "x", "a": "y"}]'
    (tmp_path / name).write_text(content, encoding="utf-8")
    info = {"x": {"file_name": name, "columns": {"prompt": "q", "response": "answer"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    made = source(tmp_path, dataset="x", dataset_dir=str(tmp_path))
    expected = "x names the columns 'answer', which no row has; the columns are: 'q', 'a'."
    if ends:
        with pytest.raises(ConfigError, match=expected):
            check_source(made)
    else:
        assert check_source(made) == (expected,)


# --- standard input ----------------------------------------------------------------------------


class FakeInput(io.TextIOWrapper):
    def __init__(self, content: str, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content.encode()))
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def piped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, **more: Any
) -> Iterator[str]:
    terminal = more.pop("terminal", False)
    monkeypatch.setattr(sys, "stdin", FakeInput(content, terminal=terminal))
    yield from questions(source(tmp_path, input="-", **more).rows())


def test_standard_input_is_kept_so_that_a_job_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lines({"prompt": "a"}, {"prompt": "b"})
    assert [*piped(monkeypatch, tmp_path, first)] == ["a", "b"]
    assert [*piped(monkeypatch, tmp_path, "")] == ["a", "b"]
    assert [*piped(monkeypatch, tmp_path, "", terminal=True)] == ["a", "b"]
    assert [*piped(monkeypatch, tmp_path, first)] == ["a", "b"]
    other = lines({"prompt": "c"})
    with pytest.raises(ConfigError, match="is not that of this job's first start"):
        list(piped(monkeypatch, tmp_path, other))
    assert [*piped(monkeypatch, tmp_path, "")] == ["a", "b"]
    assert [*piped(monkeypatch, tmp_path, other, overwrite_output_dir=True)] == ["c"]
    assert not list((tmp_path / "spool").glob("*.part"))


@pytest.mark.parametrize("terminal", [True, False])
def test_an_empty_standard_input_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    with pytest.raises(ConfigError, match="nothing came from standard input"):
        list(piped(monkeypatch, tmp_path, "", terminal=terminal))


def test_a_named_pipe_is_kept_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(lines({"prompt": "a"}),))
    writer.start()
    made = source(tmp_path, input=str(pipe))
    writer.join()
    assert questions(made.rows()) == questions(made.rows()) == ["a"]


def test_a_spool_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "stdin", FakeInput("{}"))
    args = get_batch_args({"model_name_or_path": "none", "input": "-"})
    with pytest.raises(ConfigError, match="cannot be kept"):
        open_source(args, spool=tmp_path / "file" / "spool")


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"val_size": 0.5}])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, arguments: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    row = json.dumps({"prompt": "x" * 10_000})
    with path.open("w", encoding="utf-8") as file:
        file.write("[" + row + f",\n{row}" * 9_999 + "]")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    key = "dataset" if arguments else "input"
    made = source(tmp_path, **{key: str(path)}, **arguments)
    count = sum(1 for _ in made.rows(lambda *_: None))
    assert count == (5_000 if arguments else 10_000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 40 * 1024  # KiB: 100 MB were read


def test_a_file_of_a_client_is_opened_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "file-abc"
    body = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
    path.write_text(lines(body), encoding="utf-8")
    args = get_batch_args({"model_name_or_path": "none", "input": "unused"})
    (row,) = open_file(path, args, name="file-abc").rows()
    assert (row.id, row.source) == ("1", "file-abc")
    assert source_module.STANDARD_INPUT == "-"
