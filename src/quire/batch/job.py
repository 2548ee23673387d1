"""A job: its files, its lock, its journal; begun, gone on with, or found finished."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from quire.batch.answering import Answerer, answerer_for
from quire.batch.api_lines import ApiSettings
from quire.batch.arguments import BatchArgs, BatchArguments
from quire.batch.binding import changes, settings_of
from quire.batch.files import LinesFile, has_failed, index_of, read_lines, write_parquet
from quire.batch.job_engine import JobEngine, MakeModel, ModelEngine
from quire.batch.journal import NAME as JOURNAL_NAME
from quire.batch.journal import Counts, Journal, Record
from quire.batch.lock import JobLock, read_holder
from quire.batch.rows import Row, RowSource
from quire.batch.runner import BatchRunner, Ending, Limits, Progress, Restart, Turn
from quire.batch.writer import Writer
from quire.chat.chat_model import ChatModel
from quire.errors import BatchError, JobChangedError, QuireError

logger = logging.getLogger("quire")

MakeApiAnswerer: TypeAlias = Callable[[ChatModel, ApiSettings], Answerer]
"""Makes what answers the requests of a batch file on a model, as a server would."""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """Where the files of a job lie."""

    answers: Path
    errors: Path
    folder: Path
    """The journal, the lock, and what was read from standard input."""

    @classmethod
    def of(cls, arguments: BatchArguments) -> JobFiles:
        """The files that the arguments name."""
        answers = Path(arguments.output_dir or ".").expanduser() / arguments.save_name
        return cls.beside(answers)

    @classmethod
    def beside(cls, answers: Path) -> JobFiles:
        """The files of the job that writes this file of answers."""
        errors = answers.with_name(f"{answers.stem}.errors.jsonl")
        return cls(answers, errors, answers.with_name(f"{answers.name}.job"))

    def make_folder(self) -> None:
        """Make the folder of the journal.

        Raises:
            BatchError: it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BatchError(f"{self.folder} cannot be made: {error.strerror}.") from None

    @property
    def is_parquet(self) -> bool:
        """Whether the answers become a parquet file, at the end."""
        return self.answers.suffix == ".parquet"

    @property
    def lines(self) -> Path:
        """The file to which answers are appended."""
        return self.folder / "answers.jsonl" if self.is_parquet else self.answers


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What came of a batch."""

    ending: Ending | Literal["was finished"]
    files: JobFiles
    counts: Counts
    """Of all its runs."""


class BatchJob:
    """One job, from its arguments to its files."""

    def __init__(
        self,
        args: BatchArgs,
        source: RowSource,
        *,
        make_model: MakeModel = ChatModel,
        model: ChatModel | None = None,
        make_api_answerer: MakeApiAnswerer | None = None,
        open_engine: Callable[[], JobEngine] | None = None,
        compat: bool = False,
    ) -> None:
        """Make a job.

        Args:
            make_model: makes the model, and another one where it dies.
            model: a model that is there already; it stays open.
            make_api_answerer: given where the rows are requests of a batch file.
            open_engine: gives what answers the rows, in the place of any model.
            compat: whether LLaMA-Factory's `vllm_infer.py` is followed: one seed for all rows.
        """
        self._args, self._source = args, source
        self._make_model, self._model = make_model, model
        self._make_api_answerer = make_api_answerer
        self._open_engine = open_engine or self._open_model
        self._compat = compat
        self.files = JobFiles.of(args.batch)
        self.progress = Progress()
        self._anew = False  # whether this run has written answers
        self._runner: BatchRunner | None = None
        self._drain: tuple[float | None] | None = None

    @property
    def is_answering(self) -> bool:
        """Whether rows may be in flight."""
        return self._runner is not None

    @property
    def drain_timeout(self) -> float:
        """Seconds that rows in flight may still take after SIGTERM."""
        return self._args.batch.drain_timeout

    def drain(self, patience: float | None = None) -> None:
        """Begin no more rows; see `BatchRunner.drain`. Any thread may call it, at any time."""
        self._drain = (patience,)
        runner = self._runner  # which the job's own thread may take away meanwhile
        if runner is not None:
            runner.drain(patience=patience)

    def run(self) -> BatchResult:
        """Run the job to its end, or go on where it was ended.

        Raises:
            BatchError: the files are another job's, another process works on it, it fails too often,
                or its files cannot be written.
            ConfigError: the input cannot be read.
            ModelError, EngineError: the model cannot be loaded, or has died for good.
        """
        self.files.make_folder()
        lock = JobLock(self.files.folder)
        try:
            journal = self._open_journal()
            try:
                result = self._run(journal, lock)
                if result.ending != "drained":
                    self._score(journal)
                return result
            except sqlite3.Error as error:
                raise BatchError(
                    f"The journal {journal.path} cannot be written: {error}. All that was kept before is "
                    "kept: make room, or mend the disk, and start the batch again."
                ) from None
            finally:
                journal.close()
        finally:
            lock.close()

    def _score(self, journal: Journal) -> None:
        """Write the metrics that were asked for. The answers are written by then, and stay."""
        wanted = [path for path in self._metrics_files() if not path.exists() or self._anew]
        if not wanted:
            return
        from quire.batch.scoring import Speed, score_file, write_scores

        facts = journal.facts()
        speed = Speed(
            facts.get("runtime", 0.0), facts.get("preparation_time", 0.0), self._steps(journal)
        )
        try:
            scores = score_file(self.files.answers)
            for path in wanted:
                write_scores(path, scores, speed)
        except QuireError as error:
            logger.warning(
                "The answers are written, and could not be scored: %s `quire batch score %s` tries again.",
                error,
                self.files.answers,
            )

    def _metrics_files(self) -> list[Path]:
        batch, folder = self._args.batch, self.files.answers.parent
        if batch.matrix_save_name is not None:
            return [folder / batch.matrix_save_name]
        if batch.do_predict:  # LLaMA-Factory's files of `do_predict`
            return [folder / "predict_results.json", folder / "all_results.json"]
        return []

    def _steps(self, journal: Journal) -> int:
        return -(-journal.counts().rows // self._args.batch.batch_size)

    # --- the files -------------------------------------------------------------------------------

    def _open_journal(self) -> Journal:
        """The job's journal, new or gone on with.

        Raises:
            JobChangedError: the files are of another job, and are not to be written over.
        """
        files, batch = self.files, self._args.batch
        now = settings_of(
            self._args,
            self._source.describe(),
            {"compat": self._compat, "cutoff_len": self._args.cutoff_len},
        )
        begun = (files.folder / JOURNAL_NAME).exists()
        if not begun and files.answers.exists() and files.answers.stat().st_size:
            if not batch.overwrite_output_dir:
                raise JobChangedError(
                    f"{files.answers} is there already, and no batch of quire has begun it: choose "
                    "another save_name, or write over it with overwrite_output_dir=true."
                )
            self._begin_anew()
        try:
            journal = Journal(files.folder)
        except BatchError:
            if not batch.overwrite_output_dir:
                raise
            self._begin_anew()
            journal = Journal(files.folder)
        before = journal.facts().get("settings")
        if before is not None and before != now:
            if not batch.overwrite_output_dir:
                journal.close()
                raise JobChangedError(
                    f"{files.answers} belongs to a batch with other settings: "
                    f"{'; '.join(changes(before, now))}. Choose another save_name, or write over it with "
                    "overwrite_output_dir=true."
                )
            journal = self._replaced(journal)
        elif before is not None and journal.is_finished and batch.overwrite_output_dir:
            journal = self._replaced(journal)
        journal.set_facts({"settings": now})
        return journal

    def _replaced(self, journal: Journal) -> Journal:
        journal.close()
        self._begin_anew()
        return Journal(self.files.folder)

    def _begin_anew(self) -> None:
        """Remove the files of the job, but for its lock, which is held."""
        for path in (self.files.answers, self.files.errors, self.files.lines):
            path.unlink(missing_ok=True)
        # The database last: its log alone would be taken for that of the next one.
        for path in sorted(self.files.folder.glob(f"{JOURNAL_NAME}*"), reverse=True):
            path.unlink()

    # --- the run ---------------------------------------------------------------------------------

    def _run(self, journal: Journal, lock: JobLock) -> BatchResult:
        if self._args.batch.retry_failed:
            self._retry_failed(journal)
        if journal.is_finished:
            if not self.files.answers.exists():
                raise BatchError(
                    f"This batch is finished, and {self.files.answers} is gone: bring it back, or begin anew "
                    "with overwrite_output_dir=true."
                )
            return BatchResult("was finished", self.files, journal.counts())
        journal.set_facts({"total": self._source.total})
        self.progress.total = self._own_total()
        counts = journal.counts()
        self.progress.before = counts.rows
        part, parts = self._args.batch.shard or (1, 1)
        answers, errors = LinesFile(self.files.lines), LinesFile(self.files.errors)
        try:
            writer = Writer(
                journal,
                answers,
                errors,
                lock,
                order=self._args.batch.output_order,
                first=part - 1,
                step=parts,
                sync_interval=self._args.batch.sync_interval,
            )
            self._anew = True
            ending = self._answer_rest(writer, journal)
            if ending == "finished":
                self._finish(journal)
        finally:
            answers.close()
            errors.close()
        return BatchResult(ending, self.files, journal.counts())

    def _answer_rest(self, writer: Writer, journal: Journal) -> Ending:
        """Answer what the journal does not have yet, and add up the time that the batch has taken."""
        begun = time.monotonic()
        try:
            known = set_of(journal.indices())
            if self._args.batch.batch_backend == "ray":
                return asyncio.run(self._answer_on_ray(writer, known))
            return self._answer_all(writer, known)
        finally:
            writer.close()
            facts = journal.facts()
            waited = self.progress.started - begun
            spent = max(time.monotonic() - self.progress.started, 0.0)
            journal.set_facts(
                {
                    "preparation_time": facts.get("preparation_time", 0.0) + waited,
                    "runtime": facts.get("runtime", 0.0) + spent,
                }
            )

    def _own_total(self) -> int | None:
        """How many rows this job answers; None where only reading them tells."""
        part, parts = self._args.batch.shard or (1, 1)
        total = self._source.total
        return None if total is None else len(range(part - 1, total, parts))

    def _answer_all(self, writer: Writer, known: IndexSet) -> Ending:
        engine = self._open_engine()
        try:
            in_flight = self._args.batch.max_in_flight or engine.at_once
            run = self._answer_by(
                engine.answerer(), writer, known, in_flight, restart=engine.restart
            )
            return asyncio.run(run)
        finally:
            engine.close()

    async def _answer_by(
        self,
        answerer: Answerer,
        writer: Writer,
        known: IndexSet,
        in_flight: int,
        *,
        restart: Restart | None = None,
        turn: Turn = nullcontext,
    ) -> Ending:
        """Answer the rows that have no record yet."""
        self._runner = BatchRunner(
            self._own_rows(writer, known),
            answerer,
            writer.put,
            self._limits(in_flight),
            self.progress,
            restart=restart,
            turn=turn,
        )
        self.progress.started = time.monotonic()
        try:
            return "drained" if self._drain is not None else await self._runner.run()
        finally:
            self._runner = None

    def _open_model(self) -> ModelEngine:
        model, make = self._model, None
        if model is None:
            make = self._make_model
            model = make(self._args.model)
        return ModelEngine(model, make, self._args.model, self._answerer)

    async def _answer_on_ray(self, writer: Writer, known: IndexSet) -> Ending:
        from quire.batch.ray_backend import ray_answerer

        total = self.progress.total
        engines = ray_answerer(
            self._args,
            self._make_model,
            rows=None if total is None else total - self.progress.before,
            compat=self._compat,
            is_ended=lambda: self._drain is not None,
        )
        async with engines as answerer:
            if answerer is None:
                return "drained"
            return await self._answer_by(
                answerer, writer, known, answerer.in_flight, turn=answerer.turn
            )

    def _own_rows(self, writer: Writer, known: IndexSet) -> Iterator[Row]:
        """The rows of this job's part that have no record yet."""
        part, parts = self._args.batch.shard or (1, 1)
        for row in self._source.rows(writer.see_chunk):
            if row.index % parts == part - 1 and row.index not in known:
                yield row

    def _answerer(self, model: ChatModel) -> Answerer:
        if self._make_api_answerer is not None:
            return self._make_api_answerer(model, self._args.batch.api_settings)
        return answerer_for(self._args, model, compat=self._compat)

    def _limits(self, in_flight: int) -> Limits:
        batch = self._args.batch
        return Limits(
            batch.batch_size,
            in_flight,
            batch.stop_after_failures,
            batch.max_failure_rate,
            batch.max_engine_restarts,
        )

    def _finish(self, journal: Journal) -> None:
        if self.files.is_parquet:
            write_parquet(self.files.answers, read_lines(self.files.lines))
        journal.finish()

    def _retry_failed(self, journal: Journal) -> None:
        """Forget the rows that failed. The lines of a finished job are read back from its files."""
        finished = journal.is_finished
        if not journal.forget_failed():
            return
        if finished:
            journal.restore_lines(_answer_lines(self.files.lines))
        journal.set_facts({"state": "running", "written": {}})


class IndexSet:
    """A set of indices, in one bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, index: int) -> None:
        """Add an index."""
        byte = index >> 3
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits)))
        self._bits[byte] |= 1 << (index & 7)

    def __contains__(self, index: int) -> bool:
        byte = index >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (index & 7) & 1)


def set_of(indices: Iterable[int]) -> IndexSet:
    """A set of these indices."""
    made = IndexSet()
    for index in indices:
        made.add(index)
    return made


def _answer_lines(path: Path) -> Iterator[Record]:
    """The answers of a finished job, from its file."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            content = json.loads(line)
            index = index_of(content)
            if index is not None and not has_failed(content):
                yield Record(index, line.rstrip("\n"))


def read_status(files: JobFiles) -> Iterator[str]:
    """What a job's journal says, in lines for people.

    Raises:
        BatchError: there is no such job.
    """
    if not (files.folder / JOURNAL_NAME).exists():
        raise BatchError(f"No batch has begun {files.answers}.")
    journal = Journal(files.folder, read_only=True)
    try:
        facts, counts = journal.facts(), journal.counts()
    finally:
        journal.close()
    total = facts.get("total")
    holder = read_holder(files.folder)
    if facts.get("state") == "finished":
        state = "finished"
    elif holder:
        state = f"running as process {holder.get('pid')} on {holder.get('host')}"
    else:
        state = "ended before its end; the same command goes on with it"
    yield f"{files.answers}: {state}"
    yield f"  rows       {counts.rows:,}{'' if total is None else f' of {total:,}'}"
    yield f"  failed     {counts.failed:,}"
    yield f"  tokens     {counts.tokens_in:,} in, {counts.tokens_out:,} out"
    if counts.tokens_in:
        yield f"  cached     {counts.cached / counts.tokens_in:.0%} of the prompts' tokens"
    yield f"  by length  {counts.ended_by_length:,}, which ended at their limit of tokens"
    if counts.cut:
        yield f"  cut        {counts.cut:,} prompts"
