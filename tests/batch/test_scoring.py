"""A file of answers scored: what is read, what is left out, and what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from cyclopts import App

from quire.batch import answer_file, scoring_pool
from quire.batch.metrics import score_row
from quire.batch.rows import ChatRow, Row, SeeChunk
from quire.batch.scoring import Speed, score_file, write_scores
from quire.batch.scoring_pool import score_chunks
from quire.chat import ChatModel
from quire.cli.batch_score import score
from quire.cli.main import main
from quire.errors import ConfigError
from tests.batch.sources import Questions, run_job
from tests.polling import wait_until

WriteLines = Callable[[Iterable[Any]], Path]

ROWS: list[dict[str, Any]] = [
    {"prompt": "p", "predict": "The cat sat.", "label": "The cat sat on."},
    {"prompt": "p", "predict": "", "label": "abc"},
    {"prompt": "p", "predict": "abcd", "label": "abcd"},
    {"prompt": "p", "predict": "今天天气很好", "label": "今天天气不错"},
]


@pytest.fixture
def write_lines(tmp_path: Path) -> WriteLines:
    """Writes a file of lines: objects as JSON, bytes as they are."""

    def write(rows: Iterable[Any]) -> Path:
        path = tmp_path / "answers.jsonl"
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


def test_a_file_of_llamafactory(write_lines: WriteLines) -> None:
    scores = score_file(write_lines(ROWS))
    assert (scores.answers, scores.scored, scores.bad_lines) == (4, 4, 0)
    for name in ("bleu-4", "rouge-1", "rouge-2", "rouge-l", "exact_match"):
        values = [score_row(row)[name] for row in ROWS]
        assert scores.means[name] == sum(values) / 4
    assert scores.means["bleu-4"] == pytest.approx((71.9202 + 0 + 100 + 50.8133) / 4, abs=1e-9)


def test_a_file_of_quire(write_lines: WriteLines) -> None:
    call = {"name": "f", "arguments": '{"a": 1}'}
    rows = [
        {"id": "a", "index": 0, "predict": "Hm, Paris", "content": "Paris", "label": "Paris",
         "finish_reason": "stop", "thought": "Hm,", "tool_calls": None},
        {"id": "b", "index": 1, "predict": "?", "label": "?", "tool_calls": [{"function": call}],
         "label_tool_calls": [call]},
        {"id": "c", "index": 2, "predict": "unlabelled", "label": None},
        {"id": "d", "index": 3, "predict": None, "label": "x", "error": {"message": "too long"}},
        {"id": "e", "index": 4, "error": {"message": "too long"}},
    ]  # fmt: skip
    scores = score_file(write_lines(rows))
    assert (scores.answers, scores.scored, scores.without_label, scores.failed) == (3, 2, 1, 2)
    assert scores.means["exact_match"] == scores.means["tool_call_match"] == 100.0
    assert "json_valid" not in scores.means


def test_a_reward_models_file(write_lines: WriteLines) -> None:
    rows = [
        {"chosen": 1.5, "rejected": -0.25},
        {"chosen": 0.5, "rejected": 0.5},
        {"chosen": 2, "rejected": 1},
        {"chosen": None, "rejected": None, "error": {}},
        {"chosen": "1", "rejected": 0},
        {"chosen": 1.0},
    ]
    scores = score_file(write_lines(rows))
    assert scores.means == {"accuracy": 2 / 3}
    assert (scores.answers, scores.failed, scores.bad_lines) == (3, 1, 2)


def test_valid_json_where_no_row_has_a_label(write_lines: WriteLines) -> None:
    scores = score_file(write_lines([{"predict": '{"a": 1}'}, {"predict": '{"a"'}]))
    assert (scores.means, scores.scored) == ({"json_valid": 50.0}, 0)


def test_lines_without_an_answer_are_counted_and_named(
    write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_file, "_MAX_LINE_BYTES", 10_000)
    good = ROWS[2]
    lines = [
        b"\xef\xbb\xbf" + json.dumps(good).encode(),
        b"",
        b"null",
        b"\xff",
        b'{"predict": "a", "lab',
        {"predicted": "a", "label": "a"},
        {"predict": "a", "label": "a", "tool_calls": 3},
        b'{"predict": "' + b"a" * 30_000 + b'"}',
        b"[" * 5_000,
        json.dumps(good).encode() + b"\r",
        '{"predict": "x\u2028y", "label": "x\u2028y"}'.encode(),
        {"predict": "\ud800", "label": "\ud800"},
        {"predict": "3", "label": 3},
        b'{"predict": "torn',
    ]
    scores = score_file(write_lines(lines))
    assert (scores.answers, scores.means["exact_match"], scores.bad_lines) == (5, 100.0, 8)
    named = {bad.line: bad.reason for bad in scores.first_bad_lines}
    assert list(named) == [3, 4, 5, 6, 7, 8, 9, 14]
    assert "column 18" in named[5]
    assert "did you mean 'predicted'" in named[6]
    assert "MiB" in named[8]


def test_only_the_first_bad_lines_are_kept(write_lines: WriteLines) -> None:
    scores = score_file(write_lines([b"x"] * 500 + ROWS))
    assert (scores.bad_lines, scores.answers) == (500, 4)
    assert [bad.line for bad in scores.first_bad_lines] == [*range(1, 11)]


def test_an_empty_file_scores_nothing(write_lines: WriteLines) -> None:
    scores = score_file(write_lines([]))
    assert (scores.means, scores.answers) == ({}, 0)
    assert scores.as_json()["predict_samples"] == 0


def test_a_parquet_file(tmp_path: Path, write_lines: WriteLines) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    calls = [{"name": "f", "arguments": "{}"}]
    rows = [{**row, "tool_calls": calls, "vector": [1.0]} for row in ROWS]
    rows.append({"prompt": "p", "predict": None, "label": "x", "tool_calls": None, "vector": None})
    path = tmp_path / "answers.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    scores = score_file(path)
    assert (scores.answers, scores.failed) == (4, 1)
    lines = score_file(write_lines(rows))
    assert scores == lines

    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "p", "predicted": "a"}]), path)
    with pytest.raises(ConfigError, match="no column predict; did you mean 'predicted'"):
        score_file(path)
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ConfigError, match="no parquet file"):
        score_file(path)


@dataclass
class LabelledQuestions(Questions):
    """Questions of which every second has an answer, and every fourth calls in it."""

    def rows(self, see_chunk: SeeChunk | None = None) -> Iterator[Row]:
        for row in super().rows(see_chunk):
            answer: dict[str, Any] = {"role": "assistant", "content": f"It is {row.index}."}
            if row.index % 4 == 0:
                function = {"name": "number", "arguments": '{"of": 3}'}
                answer["tool_calls"] = [{"id": "a", "type": "function", "function": function}]
            if isinstance(row.work, ChatRow) and row.index % 2 == 0:
                row = replace(row, work=replace(row.work, answer=answer))
            yield row


def test_files_that_a_batch_writes(folder: Path, echo: Callable[..., ChatModel]) -> None:
    pytest.importorskip("pyarrow")
    source = LabelledQuestions(20, broken=frozenset({3, 7}))
    words = {"every_row": True}
    lines = run_job(folder / "lines", source, echo(), words)
    scores = score_file(lines.files.answers)
    assert (scores.answers, scores.scored, scores.failed, scores.bad_lines) == (18, 10, 2, 0)
    assert 0 < scores.means["bleu-4"] < 100
    assert scores.means["tool_call_match"] == 0.0  # a question is none of the calls
    parquet = run_job(folder / "p", source, echo(), {**words, "save_name": "answers.parquet"})
    assert score_file(parquet.files.answers) == scores


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        score_file(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="directory"):
        score_file(tmp_path)


# --- several processes ---------------------------------------------------------------------------


def test_several_processes_score_the_same(write_lines: WriteLines) -> None:
    rows = [
        {**row, "predict": row["predict"] + "x" * (index % 7)}
        for index, row in enumerate(ROWS * 60)
    ]
    rows[100] = {"predict": "a", "label": "a", "tool_calls": 3}
    path = write_lines(rows)
    alone, together = score_file(path, workers=1), score_file(path, workers=2)
    assert together == alone  # to the last digit
    assert [bad.line for bad in together.first_bad_lines] == [101]


def test_processes_run_nothing_of_the_users_program(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    """A program without `if __name__ == "__main__"` is run once."""
    path = write_lines(ROWS * 40)
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from quire.batch.scoring import score_file\n"
        "print('begins')\n"
        f"print(score_file(Path({str(path)!r}), workers=2).answers)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("begins\n160\n", "")


def test_a_process_that_dies_costs_no_row(
    write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ask = scoring_pool._ask
    killed: list[int] = []

    def kill_first(process: subprocess.Popen[bytes], rows: scoring_pool.Rows) -> bytes:
        if not killed:
            killed.append(process.pid)
            process.kill()
        return ask(process, rows)

    path = write_lines(ROWS * 60)
    expected = score_file(path, workers=1)
    monkeypatch.setattr(scoring_pool, "_ask", kill_first)
    assert score_file(path, workers=2) == expected
    assert "this one does it" in caplog.text
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert score_file(path, workers=2) == expected


def test_leaving_early_ends_the_processes() -> None:
    before = {child.pid for child in psutil.Process().children()}
    scores: Any = score_chunks(([{"predict": "a", "label": "a"}] for _ in range(1000)), workers=2)
    next(scores)
    started = {child.pid for child in psutil.Process().children()} - before
    assert started
    scores.close()
    assert not started & {child.pid for child in psutil.Process().children()}


def test_a_process_ends_with_the_one_that_started_it() -> None:
    """However that ends: no signal reaches it, only the end of its input."""
    code = (
        "import time\nfrom quire.batch.scoring_pool import _start\n"
        "print(_start().pid, flush=True)\ntime.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


def test_an_error_of_a_process_is_raised_here(
    write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = b'{"error": "ROUGE needs jieba."}\n'
    monkeypatch.setattr(scoring_pool, "_ask", lambda process, rows: reply)
    with pytest.raises(ConfigError, match="needs jieba"):
        score_file(write_lines(ROWS), workers=2)


def test_memory_does_not_depend_on_the_number_of_rows(
    write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(count: int) -> int:
        path = write_lines({"predict": "a" * 100, "label": "b" * 100} for _ in range(count))
        tracemalloc.start()
        try:
            assert score_file(path, workers=1).answers == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is imported and kept once
    assert peak(3000) < 1.5 * peak(300) + 100_000  # other threads of the process allocate, too


# --- what is written -----------------------------------------------------------------------------


def test_names_are_those_of_llamafactory(write_lines: WriteLines, tmp_path: Path) -> None:
    scores = score_file(write_lines(ROWS))
    path = tmp_path / "scores.json"
    path.write_text("old")
    write_scores(path, scores, Speed(runtime=2.0, preparation_time=0.5, steps=1))
    written = json.loads(path.read_text())
    assert list(written) == sorted(written)
    assert set(written) >= {
        "predict_bleu-4", "predict_rouge-1", "predict_rouge-2", "predict_rouge-l",
        "predict_model_preparation_time", "predict_runtime", "predict_samples_per_second",
        "predict_steps_per_second",
    }  # fmt: skip
    assert (written["predict_samples_per_second"], written["predict_steps_per_second"]) == (
        2.0,
        0.5,
    )
    assert written["predict_samples"] == 4
    assert [one.name for one in tmp_path.iterdir() if one.suffix == ".part"] == []


def test_scores_that_cannot_be_written_leave_what_was_there(
    write_lines: WriteLines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = score_file(write_lines(ROWS))
    path = tmp_path / "scores.json"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_scores(path, scores)
    assert path.read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["answers.jsonl", "scores.json"]
    with pytest.raises(ConfigError, match="Cannot write"):
        write_scores(tmp_path / "no" / "scores.json", scores)


# --- the command ---------------------------------------------------------------------------------


def run(*words: str) -> Any:
    app = App()
    app.command(score)
    return app(
        ["score", *words],
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
    )


def test_the_command_prints_a_table(
    write_lines: WriteLines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lines([*ROWS, b"torn", {"predict": "a"}, {"predict": None, "error": {}}])
    before = sorted(tmp_path.iterdir())
    assert run(str(path)) == 0
    output, aside = capsys.readouterr()
    lines = dict(
        line.split("│") if "│" in line else line.rsplit(None, 1) for line in output.splitlines()
    )
    assert {key.strip(): value.strip() for key, value in lines.items()} == {
        "BLEU-4": "55.6834", "ROUGE-1": "57.2222", "ROUGE-2": "14.2857", "ROUGE-L": "57.2222",
        "exact match, %": "25.0000",
        "4 answers scored; 1 without a label; 1": "failed.",
    }  # fmt: skip
    assert "line 5 holds no answer: no JSON at column 1" in aside
    assert sorted(tmp_path.iterdir()) == before  # nothing is written unasked


def test_the_command_writes_where_asked(write_lines: WriteLines, tmp_path: Path) -> None:
    output = tmp_path / "predictions_score.json"
    assert run(str(write_lines(ROWS)), "--output", str(output), "--workers", "1") == 0
    written: Mapping[str, Any] = json.loads(output.read_text())
    assert written["predict_exact_match"] == 25.0
    assert "predict_runtime" not in written


def test_the_command_is_one_of_quires(
    write_lines: WriteLines, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", "score", str(write_lines(ROWS)), "--workers", "1"]) == 0
    assert "4 answers scored." in capsys.readouterr().out
    assert main(["batch", "score", "nowhere.jsonl"]) == 2
    assert capsys.readouterr().err == "quire: No such file: nowhere.jsonl.\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "one file"),
        (("a.jsonl", "b.jsonl"), "one file"),
        (("nowhere.jsonl",), "No such file"),
        (("{file}", "--workers", "0"), "--workers must be an integer of at least 1"),
        (("{file}", "--output", "{file}/x.json"), "no file can be written there"),
        (("{file}", "--output", "{file}"), "that is the file of answers"),
        (("--outputs",), "Unknown option '--outputs'"),
    ],
)
def test_wrong_words(words: tuple[str, ...], said: str, write_lines: WriteLines) -> None:
    path = str(write_lines(ROWS))
    with pytest.raises(ConfigError, match=said):
        run(*(word.format(file=path) for word in words))


def test_a_file_of_something_else_is_an_error(write_lines: WriteLines) -> None:
    with pytest.raises(ConfigError, match=r"holds no answers: line 1: no JSON object"):
        run(str(write_lines([[1, 2]])))
