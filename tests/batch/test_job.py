"""A job from its beginning to its end, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quire.batch.files import LinesFile
from quire.batch.job import BatchJob, JobFiles, read_status
from quire.batch.lock import JobLock
from quire.batch.rows import Row, SeeChunk
from quire.batch.runner import BatchRunner, Ending
from quire.chat import ChatModel
from quire.errors import BatchError, JobChangedError, JobRunningError
from tests.batch.sources import Questions, batch_args, lines_of, run_job

MakeEcho = Callable[..., ChatModel]
ROOT = Path(__file__).parents[2]


def test_every_row_has_its_line(folder: Path, echo: MakeEcho) -> None:
    result = run_job(folder, Questions(50, broken=frozenset({0, 7, 49})), echo())
    assert result.ending == "finished"
    answers, errors = lines_of(result.files.answers), lines_of(result.files.errors)
    assert [one["index"] for one in errors] == [0, 7, 49]
    assert [one["index"] for one in answers] == [n for n in range(50) if n not in (0, 7, 49)]
    assert list(answers[0])[:3] == ["prompt", "predict", "label"]
    assert answers[4]["id"] == "q5"
    assert "Question 5: what is its number?" in answers[4]["predict"]
    assert errors[1] == {
        "index": 7,
        "stage": "read",
        "code": "invalid_row",
        "message": "This line is no JSON.",
        "line": 8,
    }
    counts = result.counts
    assert (counts.rows, counts.failed, counts.answered) == (50, 3, 47)
    assert counts.tokens_in == sum(one["prompt_tokens"] for one in answers)
    assert counts.tokens_out == sum(one["completion_tokens"] for one in answers)


def test_a_row_that_cannot_be_asked_or_answered_harms_no_other(
    folder: Path, echo: MakeEcho
) -> None:
    asked = run_job(
        folder / "long", Questions(3, text="word " * 5000), echo(), {"stop_after_failures": 0}
    )
    assert [one["stage"] for one in lines_of(asked.files.errors)] == ["prepare"] * 3
    assert lines_of(asked.files.errors)[0]["code"] == "prompt_too_long"
    failed = run_job(folder / "fault", Questions(3), echo(fail_at=1), {"stop_after_failures": 0})
    told = lines_of(failed.files.errors)
    assert [(one["stage"], one["code"]) for one in told] == [("generate", "generation")] * 3
    assert "a made-up fault" in told[0]["message"]


@pytest.mark.parametrize("order", ["input", "completion"])
def test_the_order_is_the_inputs_or_that_of_the_ends(
    folder: Path, echo: MakeEcho, order: str
) -> None:
    result = run_job(folder, Questions(100), echo(), {"output_order": order})
    indices = [one["index"] for one in lines_of(result.files.answers)]
    assert sorted(indices) == list(range(100))
    assert order == "completion" or indices == list(range(100))


def test_a_line_for_every_row_and_columns_of_the_source(folder: Path, echo: MakeEcho) -> None:
    source = Questions(3, broken=frozenset({1}))
    result = run_job(folder, source, echo(), {"every_row": True, "keep_columns": "number,other"})
    answers = lines_of(result.files.answers)
    assert [one["index"] for one in answers] == [0, 1, 2]
    assert answers[1]["predict"] is None
    assert answers[1]["error"] == "This line is no JSON."
    assert answers[2]["columns"] == {"number": 2, "other": None}


def test_a_finished_job_is_said_to_be_finished(folder: Path, echo: MakeEcho) -> None:
    before = run_job(folder, Questions(5), echo())
    written = before.files.answers.read_bytes()
    model = echo(reply="something else")
    again = run_job(folder, Questions(5), model)
    assert again.ending == "was finished"
    assert again.counts == before.counts
    assert again.files.answers.read_bytes() == written
    before.files.answers.unlink()
    with pytest.raises(BatchError, match=r"is finished, and .* is gone"):
        run_job(folder, Questions(5), model)
    anew = run_job(folder, Questions(5), model, {"overwrite_output_dir": True})
    assert anew.ending == "finished"
    assert {one["predict"] for one in lines_of(anew.files.answers)} == {"something else"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"temperature": 0.5}, "temperature (0.95 before, 0.5 now)"),
        ({"seed": 7}, "seed (42 before, 7 now)"),
        ({"max_new_tokens": 5}, "max_new_tokens (1024 before, 5 now)"),
        ({"min_p": 0.1}, "options.min_p (null before, 0.1 now)"),
        ({"every_row": True}, "every_row (false before, true now)"),
    ],
)
def test_a_job_with_other_settings_is_refused(
    folder: Path, echo: MakeEcho, changed: dict[str, object], told: str
) -> None:
    run_job(folder, Questions(3), echo())
    with pytest.raises(JobChangedError) as caught:
        run_job(folder, Questions(3), echo(), changed)
    assert told in str(caught.value)
    assert "overwrite_output_dir=true" in str(caught.value)
    run_job(folder, Questions(3), echo(), {**changed, "overwrite_output_dir": True})


def test_settings_that_change_no_answer_may_change(folder: Path, echo: MakeEcho) -> None:
    run_job(folder, Questions(3), echo())
    result = run_job(folder, Questions(3), echo(), {"native_num_threads": 1, "max_in_flight": 2})
    assert result.ending == "was finished"


def test_somebody_elses_file_is_not_written_over(folder: Path, echo: MakeEcho) -> None:
    folder.mkdir()
    (folder / "generated_predictions.jsonl").write_text("mine\n")
    with pytest.raises(JobChangedError, match="no batch of quire has begun it"):
        run_job(folder, Questions(3), echo())
    assert (folder / "generated_predictions.jsonl").read_text() == "mine\n"
    result = run_job(folder, Questions(3), echo(), {"overwrite_output_dir": True})
    assert len(lines_of(result.files.answers)) == 3


def stopped(folder: Path, echo: MakeEcho, rows: int, after: int, **values: object) -> JobFiles:
    """A job that was drained when about so many of its rows had their answer."""
    args = batch_args(folder, max_in_flight=4, batch_size=8, **values)
    job: BatchJob

    class Stopping(Questions):
        def rows(self, see_chunk: SeeChunk | None = None) -> Iterator[Row]:
            for row in super().rows(see_chunk):
                if row.index >= after and not drained.is_set():
                    while job.progress.done < min(after, row.index - 16):
                        time.sleep(0.001)
                    drained.set()
                    job.drain()
                yield row

    drained = threading.Event()
    job = BatchJob(args, Stopping(rows, broken=frozenset({1})), model=echo())
    assert job.run().ending == "drained"
    return job.files


def test_a_run_that_has_ended_may_be_drained(
    folder: Path, echo: MakeEcho, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who drains a job has its runner in hand when that ends."""
    runners: list[BatchRunner] = []
    run = BatchRunner.run

    async def run_and_keep(self: BatchRunner) -> Ending:
        runners.append(self)
        return await run(self)

    monkeypatch.setattr(BatchRunner, "run", run_and_keep)
    job = BatchJob(batch_args(folder), Questions(3), model=echo())
    assert job.run().ending == "finished"
    runners[0].drain(patience=0.0)
    job.drain()


def test_a_changed_input_is_noticed(folder: Path, echo: MakeEcho) -> None:
    files = stopped(folder, echo, 100, 20)
    kept = files.answers.read_bytes()
    other = Questions(100, broken=frozenset({1}), text="Another question {}?")
    with pytest.raises(JobChangedError, match="questions has changed since this batch began"):
        run_job(folder, other, echo())
    assert files.answers.read_bytes() == kept


@pytest.mark.parametrize("order", ["input", "completion"])
def test_a_drained_job_goes_on(folder: Path, echo: MakeEcho, order: str) -> None:
    files = stopped(folder, echo, 100, 30, output_order=order)
    # At row 30 at least 14 had been answered, of which one is an error.
    assert 13 <= len(lines_of(files.answers)) < 60
    assert any("ended before its end" in line for line in read_status(files))
    source = Questions(100, broken=frozenset({1}))
    result = run_job(folder, source, echo(), {"output_order": order})
    assert result.ending == "finished"
    undisturbed = run_job(folder.with_name("other"), source, echo(), {"output_order": order})
    key = lambda one: one["index"]  # noqa: E731
    assert sorted(lines_of(files.answers), key=key) == sorted(
        lines_of(undisturbed.files.answers), key=key
    )
    if order == "input":
        assert files.answers.read_bytes() == undisturbed.files.answers.read_bytes()
    assert any("finished" in line for line in read_status(files))


def test_torn_files_are_cut_back_at_whatever_byte(folder: Path, echo: MakeEcho) -> None:
    source = Questions(40, broken=frozenset({1}))
    whole = run_job(folder.with_name("whole"), source, echo()).files
    files = stopped(folder, echo, 40, 20)
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    lines = files.answers.read_bytes().splitlines(keepends=True)
    size = files.answers.stat().st_size
    model = echo()
    for cut in [*range(0, size, 499), *range(size - len(lines[-1]), size + 1)]:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        os.truncate(files.answers, cut)
        run_job(folder, source, model)
        assert files.answers.read_bytes() == whole.answers.read_bytes(), cut
        assert files.errors.read_bytes() == whole.errors.read_bytes(), cut


def test_a_torn_journal_is_cut_back_at_whatever_byte(folder: Path, echo: MakeEcho) -> None:
    """The log of a process that was killed, cut at every byte of its last records."""
    source = Questions(30, broken=frozenset({1}))
    whole = run_job(folder.with_name("whole"), source, echo()).files
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from quire.batch.journal import Journal, Record\n"
        "from quire.batch.job import *\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "lines = [eval(line) for line in sys.stdin]\n"
        "for index, answer, error in lines:\n"
        "    journal.add([Record(index, answer, error)])\n"
        "os._exit(9)\n"
    )
    files = stopped(folder, echo, 30, 1)
    answers = {one["index"]: json.dumps(one, ensure_ascii=False) for one in lines_of(whole.answers)}
    more = "".join(f"{(n, answers[n], None)!r}\n" for n in range(10, 13))
    subprocess.run(
        [sys.executable, "-c", script, str(files.folder)],
        input=more,
        text=True,
        cwd=ROOT,
        check=False,
    )
    log = files.folder / "journal.sqlite-wal"
    size = log.stat().st_size
    assert size > 3000
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    model = echo()
    for cut in [*range(0, size, 1999), *range(size - 12, size + 1)]:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        os.truncate(log, cut)
        (files.folder / "journal.sqlite-shm").unlink(missing_ok=True)
        run_job(folder, source, model)
        assert files.answers.read_bytes() == whole.answers.read_bytes(), cut


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_or_broken_disk_loses_nothing(
    folder: Path, echo: MakeEcho, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = Questions(60, broken=frozenset({1}))
    whole = run_job(folder.with_name("whole"), source, echo()).files
    write, count = LinesFile.write, 0

    def failing(self: LinesFile, line: str) -> None:
        nonlocal count
        count += 1
        if count > 20:
            write(self, line[: len(line) // 2])  # half a line stands in the file
            self.flush()
            raise OSError(number, os.strerror(number))
        write(self, line)

    monkeypatch.setattr(LinesFile, "write", failing)
    with pytest.raises(BatchError, match=os.strerror(number)):
        run_job(folder, source, echo())
    monkeypatch.undo()
    files = run_job(folder, source, echo()).files
    assert files.answers.read_bytes() == whole.answers.read_bytes()
    assert files.errors.read_bytes() == whole.errors.read_bytes()


def test_two_at_once_are_refused(folder: Path, echo: MakeEcho) -> None:
    folder.mkdir()
    files = JobFiles.of(batch_args(folder).batch)
    files.make_folder()
    lock = JobLock(files.folder)
    with pytest.raises(JobRunningError, match=f"process {os.getpid()} on "):
        run_job(folder, Questions(3), echo())
    lock.close()
    assert run_job(folder, Questions(3), echo()).ending == "finished"


def test_a_holder_on_another_host_counts_as_long_as_its_heart_beats(
    folder: Path, echo: MakeEcho
) -> None:
    files = JobFiles.of(batch_args(folder).batch)
    files.make_folder()
    said = {"host": "another", "pid": 12, "heartbeat": 1e12}
    (files.folder / "lock").write_text(json.dumps(said))
    with pytest.raises(JobRunningError, match="process 12 on another"):
        run_job(folder, Questions(3), echo())
    (files.folder / "lock").write_text(json.dumps({**said, "heartbeat": 1.0}))
    assert run_job(folder, Questions(3), echo()).ending == "finished"


def test_rows_that_failed_are_tried_again(folder: Path, echo: MakeEcho) -> None:
    first = run_job(folder, Questions(9, broken=frozenset({2, 5})), echo())
    assert first.counts.failed == 2
    result = run_job(folder, Questions(9), echo(), {"retry_failed": True})
    assert (result.ending, result.counts.failed) == ("finished", 0)
    assert [one["index"] for one in lines_of(result.files.answers)] == list(range(9))
    assert result.files.errors.read_bytes() == b""
    whole = run_job(folder.with_name("whole"), Questions(9), echo())
    assert result.files.answers.read_bytes() == whole.files.answers.read_bytes()


def test_a_job_of_which_all_rows_fail_ends_early(folder: Path, echo: MakeEcho) -> None:
    source = Questions(1000, broken=frozenset(range(1000)))
    with pytest.raises(BatchError, match=r"The first 20 rows all failed.*no JSON"):
        run_job(folder, source, echo())
    with pytest.raises(BatchError, match="larger share than max_failure_rate"):
        run_job(
            folder.with_name("rate"),
            Questions(1000, broken=frozenset(range(0, 1000, 2))),
            echo(),
            {"max_failure_rate": 0.4},
        )


def test_parts_of_a_job_join_to_the_whole(folder: Path, echo: MakeEcho) -> None:
    from quire.batch.merging import merge

    source = Questions(31, broken=frozenset({4}))
    whole = run_job(folder / "whole", source, echo()).files
    parts = [run_job(folder / str(n), source, echo(), {"shard": f"{n}/3"}).files for n in (1, 2, 3)]
    merged = merge(folder / "merged.jsonl", [part.answers for part in parts])
    assert (merged.rows, merged.missing) == (30, 1)
    assert (folder / "merged.jsonl").read_bytes() == whole.answers.read_bytes()
    with pytest.raises(BatchError, match="both have row 0"):
        merge(folder / "twice.jsonl", [parts[0].answers, parts[0].answers])
    with pytest.raises(BatchError, match="is there already"):
        merge(folder / "merged.jsonl", [parts[0].answers])


def test_parquet(folder: Path, echo: MakeEcho) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    result = run_job(
        folder, Questions(9, broken=frozenset({2})), echo(), {"save_name": "a.parquet"}
    )
    rows = parquet.read_table(result.files.answers).to_pylist()
    assert [row["index"] for row in rows] == [0, 1, 3, 4, 5, 6, 7, 8]
    assert "Question 8" in rows[-1]["predict"]


def test_200_kills_lose_nothing_and_double_nothing(folder: Path, echo: MakeEcho) -> None:
    words = [sys.executable, "-m", "tests.batch.nursery", str(folder), "2000", "200", "1"]
    killed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(killed.stdout) >= 50, "the batch came to its end too early to show anything"
    source = Questions(2000, broken=frozenset({3, 1000}))
    whole = run_job(folder.with_name("whole"), source, echo()).files
    files = JobFiles.of(batch_args(folder).batch)
    assert files.answers.read_bytes() == whole.answers.read_bytes()
    assert files.errors.read_bytes() == whole.errors.read_bytes()
