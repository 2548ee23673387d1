"""The batches of a server's clients: checked, run behind all other requests, ended.

    validating ──► in_progress ──► finalizing ──► completed
        │              │   │
        ▼              │   └──(its time is over)──► finalizing ──► expired
      failed           ▼
                  cancelling ──► cancelled

Each state is on the disk before anything is done in it, and what is done can be done again: a server
that is started again goes on where the last one was, within a batch by the journal of its job.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from quire.batch.answering import Answerer, Prepared
from quire.batch.api_lines import ApiLines, ApiSettings
from quire.batch.arguments import BatchArgs, get_batch_args
from quire.batch.inputs import open_file
from quire.batch.job import BatchJob, BatchResult, JobFiles
from quire.batch.journal import NAME as JOURNAL_NAME
from quire.batch.journal import Counts, Journal, Record
from quire.batch.rows import Row, RowError
from quire.errors import BatchError, EngineError, QuireError
from quire.server.arguments import ServerArguments
from quire.server.batches.answering import Answer, ApiAnswerer
from quire.server.batches.store import ENDED, BatchStore, StoredBatch, StoredFile, sync
from quire.server.batches.validation import LineFault, validate
from quire.server.call import Caller
from quire.server.errors import NotReady, problem_of
from quire.server.service import Service
from quire.server.threads import in_thread

logger = logging.getLogger("quire")

FindCaller: TypeAlias = Callable[[str], Caller | None]
"""The caller of an owner; None where the key is none of the server's any more."""

TICK = 1.0  # seconds between two looks at times that may be over
_READY_PAUSE = 0.25
_WINDOW = 64  # rows that are read ahead, in a thread that holds the interpreter's lock
_STUCK_PAUSE = 60.0  # seconds until a batch is tried again whose end could not be written
_CLOSING = 10.0  # seconds that jobs may take to write what they have, at the server's end

_UNRUN = {
    "cancelling": ("batch_cancelled", "The batch was cancelled before this request was answered."),
    "in_progress": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}
"""Code and message of the requests that a batch leaves unanswered, by its last state."""


class BatchManager:
    """Runs the batches of all clients. It lives in the event loop of its service."""

    def __init__(
        self,
        service: Service,
        store: BatchStore,
        find_caller: FindCaller,
    ) -> None:
        self.store, self._service, self._find_caller = store, service, find_caller
        self.arguments: ServerArguments = service.arguments
        self._running: dict[str, asyncio.Task[None]] = {}
        self._owners: dict[str, str] = {}
        self._jobs: dict[str, BatchJob] = {}
        self._asked: set[str] = set()  # those whose jobs ask the engine
        # Those whose end could not be written, and when they are tried again, on the monotonic clock.
        self._stuck: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._draining = False
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on with all batches that have not ended, in the running loop."""
        self._loop_task = asyncio.ensure_future(self._schedule())

    def drain(self) -> None:
        """Begin no more requests; those in flight end as all others do."""
        self._draining = True
        for job in self._jobs.values():
            job.drain(self.arguments.drain_timeout)

    async def close(self) -> None:
        """End all jobs where they are; what they have is kept."""
        self._draining = True
        for job in self._jobs.values():
            job.drain(0.0)
        tasks = [*self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSING)
        for task in filter(None, [self._loop_task, *tasks]):
            task.cancel()
        await asyncio.gather(*tasks, *filter(None, [self._loop_task]), return_exceptions=True)
        await asyncio.to_thread(self.store.close)

    @property
    def running(self) -> int:
        """Batches that run."""
        return len(self._running)

    # --- for the API -----------------------------------------------------------------------------

    async def add(self, batch: StoredBatch) -> None:
        """Take a new batch."""
        await asyncio.to_thread(self.store.add_batch, batch)
        self._wake.set()

    async def cancel(self, batch_id: str) -> StoredBatch | None:
        """Cancel a batch; returns it, or None where it is not in a state to be cancelled."""
        changes = {"status": "cancelling", "cancelling_at": int(time.time())}
        within = ("validating", "in_progress")
        changed = await asyncio.to_thread(
            lambda: self.store.update_batch(batch_id, changes, within=within)
        )
        if changed is not None:
            self._stop(batch_id)
            self._wake.set()
        return changed

    def _stop(self, batch_id: str) -> None:
        job = self._jobs.get(batch_id)
        if job is not None:
            job.drain(0.0)

    # --- which batch is next ---------------------------------------------------------------------

    async def _schedule(self) -> None:
        while not self._draining:
            try:
                await self._look()
            except Exception as error:  # such as a full disk, which somebody may mend
                logger.error("Batches cannot be looked at: %s", error, exc_info=error)
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK)

    async def _look(self) -> None:
        """Start batches as long as more may run, and end those whose time is over."""
        await asyncio.to_thread(self._remove_expired_files)
        waiting = await asyncio.to_thread(self.store.open_batches)
        now = time.time()
        for batch in waiting:
            if batch.id in self._asked and _is_late(batch, now):
                self._stop(batch.id)
        moment = time.monotonic()
        self._stuck = {name: until for name, until in self._stuck.items() if until > moment}
        passed = {*self._running, *self._stuck}
        waiting = [batch for batch in waiting if batch.id not in passed]
        while waiting and len(self._running) < self.arguments.max_running_batches:
            counts = Counter(self._owners.values())
            # The oldest of those with fewest.
            batch = min(waiting, key=lambda one: counts[one.owner])
            waiting.remove(batch)
            self._owners[batch.id] = batch.owner
            self._running[batch.id] = asyncio.ensure_future(self._run_one(batch))

    def _remove_expired_files(self) -> None:
        expired = self.store.expired_files()
        if expired:
            read = {batch.document["input_file_id"] for batch in self.store.open_batches()}
            for file in expired:
                if file.id not in read:
                    self.store.remove_file(file.id)

    # --- one batch -------------------------------------------------------------------------------

    async def _run_one(self, batch: StoredBatch) -> None:
        try:
            await self._advance(batch)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not self._draining:
                await self._fail(batch, error)
        finally:
            del self._running[batch.id], self._owners[batch.id]
            self._wake.set()

    async def _fail(self, batch: StoredBatch, error: Exception) -> None:
        message = _FAILED
        # Its text may name the folder, which is nobody's affair.
        if isinstance(error, BatchError):
            message = str(error).replace(str(self._folder(batch)), "the batch")
        elif isinstance(error, EngineError):
            message = problem_of(error).message
        logger.error("The batch %s has failed: %s", batch.id, error, exc_info=error)
        try:
            await self._failed(batch, [LineFault("batch_failed", message)])
        except Exception as again:  # such as a full disk
            self._stuck[batch.id] = time.monotonic() + _STUCK_PAUSE
            logger.error("The end of batch %s cannot be written: %s", batch.id, again)

    async def _failed(self, batch: StoredBatch, faults: list[LineFault]) -> None:
        """End a batch as failed. The lines that its job has written are kept."""
        errors = {"object": "list", "data": [fault.shown() for fault in faults]}
        changes = {"status": "failed", "failed_at": int(time.time()), "errors": errors}
        await asyncio.to_thread(self._end, batch, changes)

    async def _update(self, batch: StoredBatch, changes: Mapping[str, Any]) -> StoredBatch | None:
        return await asyncio.to_thread(self.store.update_batch, batch.id, changes)

    async def _advance(self, batch: StoredBatch) -> None:
        """Bring a batch to its end, from whatever state it is in."""
        if batch.status == "validating":
            await self._validate(batch)
        while (current := await asyncio.to_thread(self.store.batch, batch.id)) is not None:
            if current.status in ENDED or self._draining:
                return
            if current.status == "finalizing":
                await asyncio.to_thread(self._finalize, current)
                return
            caller = self._find_caller(current.owner)
            if caller is None:
                gone = "The key that began this batch is none of the server's any more."
                await self._failed(current, [LineFault("invalid_api_key", gone)])
                return
            late = _is_late(current, time.time())
            if current.status == "cancelling" or late:
                await self._close_early(current, caller)
            elif not await self._answer(current, caller):
                return

    async def _validate(self, batch: StoredBatch) -> None:
        args = self._args(batch)
        path = self.store.content(batch.document["input_file_id"])
        most = self.arguments.max_batch_requests
        count, faults = await in_thread(
            lambda: validate(path, args, batch.document["endpoint"], most), "quire-batch"
        )
        if faults:
            await self._failed(batch, faults)
            return
        changes = {
            "status": "in_progress",
            "in_progress_at": int(time.time()),
            "request_counts": {"total": count, "completed": 0, "failed": 0},
        }
        within = ("validating",)
        await asyncio.to_thread(lambda: self.store.update_batch(batch.id, changes, within=within))

    async def _answer(self, batch: StoredBatch, caller: Caller) -> bool:
        """Answer a batch's requests; returns whether there is more to be done for it."""
        if not await self._until_ready(batch):
            return not self._draining
        loop = asyncio.get_running_loop()
        engine = ServiceEngine(self._service, self._settings(batch), caller, loop)
        self._asked.add(batch.id)
        try:
            result = await self._run_job(batch, lambda: engine)
        finally:
            self._asked.discard(batch.id)
        if result.ending != "drained":
            await self._finalizing(batch, result.counts, "completed")
        return not self._draining or result.ending != "drained"

    async def _close_early(self, batch: StoredBatch, caller: Caller) -> None:
        """Let all requests that have no answer fail, and end the batch with those that have one."""
        code, message = _UNRUN[batch.status]
        error = RowError("generate", message, code)
        if batch.document["request_counts"]["total"]:
            unrun = NotRun(self._settings(batch), error)
            result = await self._run_job(batch, lambda: unrun)
            if result.ending == "drained":  # the server ends, or the batch was cancelled, too
                return
            counts = result.counts
        else:
            counts = Counts()
        outcome = "cancelled" if batch.status == "cancelling" else "expired"
        await self._finalizing(batch, counts, outcome)

    async def _run_job(self, batch: StoredBatch, open_engine: Callable[[], Any]) -> BatchResult:
        args = self._args(batch)
        path = self.store.content(batch.document["input_file_id"])
        source = await asyncio.to_thread(open_file, path, args, name="requests")
        job = BatchJob(args, source, open_engine=open_engine)
        self._jobs[batch.id] = job
        try:
            # It may have been cancelled, or the server drained, since the state was read.
            current = await asyncio.to_thread(self.store.batch, batch.id)
            if self._draining or (current is not None and current.status != batch.status):
                job.drain(0.0)
            return await in_thread(job.run, "quire-batch")
        finally:
            del self._jobs[batch.id]

    async def _finalizing(self, batch: StoredBatch, counts: Counts, outcome: str) -> None:
        shown = batch.document["request_counts"] | {
            "completed": counts.answered,
            "failed": counts.failed,
        }
        await self._update(
            batch,
            {
                "status": "finalizing",
                "finalizing_at": int(time.time()),
                "request_counts": shown,
                "outcome": outcome,
            },
        )

    def _finalize(self, batch: StoredBatch) -> None:
        """Make files of the answers and errors. It may be done again where it was cut off."""
        outcome = batch.document["outcome"]
        self._end(batch, {"status": outcome, f"{outcome}_at": int(time.time())})

    def _end(self, batch: StoredBatch, changes: Mapping[str, Any]) -> None:
        files = JobFiles.of(self._args(batch).batch)
        kept = {
            "output_file_id": self._keep(batch, "output", files.answers),
            "error_file_id": self._keep(batch, "error", files.errors),
        }
        self.store.update_batch(batch.id, {**kept, **changes})
        shutil.rmtree(self._folder(batch), ignore_errors=True)

    def _keep(self, batch: StoredBatch, kind: str, path: Path) -> str | None:
        """Make a file of what a job has written; None where it has written nothing."""
        file_id = "file-" + hashlib.sha256(f"{batch.id}:{kind}".encode()).hexdigest()[:24]
        content = self.store.content(file_id)
        if path.exists():
            path.replace(content)
            sync(content)
        size = content.stat().st_size if content.exists() else 0
        if not size:
            content.unlink(missing_ok=True)
            return None
        now, life = int(time.time()), batch.output_lifetime
        expires = None if life is None else now + life
        name = f"{batch.id}_{kind}.jsonl"
        self.store.add_file(
            StoredFile(file_id, batch.owner, name, "batch_output", size, now, expires)
        )
        return file_id

    async def _until_ready(self, batch: StoredBatch) -> bool:
        """Wait for an engine, which is being loaded or started again.

        Returns:
            Whether there is one; False where the batch is not to be answered any more.
        """
        while not self._draining:
            with suppress(NotReady):
                self._service.admission.check_open()
                if self._service.is_attached:
                    return True
            await asyncio.sleep(_READY_PAUSE)
            current = await asyncio.to_thread(self.store.batch, batch.id)
            if current is None or current.status != batch.status or _is_late(current, time.time()):
                return False
        return False

    # --- the job of a batch ----------------------------------------------------------------------

    def _folder(self, batch: StoredBatch) -> Path:
        return self.store.jobs_folder / batch.id

    def _args(self, batch: StoredBatch) -> BatchArgs:
        seed = int.from_bytes(hashlib.sha256(batch.id.encode()).digest()[:6], "big")
        values = {
            "output_dir": str(self._folder(batch)),
            "model_name_or_path": "the model of the server",
            "save_name": "answers.jsonl",
            "id_column": "custom_id",
            "seed": seed,
            "batch_size": _WINDOW,
            "max_line_bytes": self.arguments.max_body_bytes,
            "stop_after_failures": 0,
        }
        return get_batch_args(values, has_rows=True)

    def _settings(self, batch: StoredBatch) -> ApiSettings:
        settings = self._args(batch).batch.api_settings
        return replace(settings, created=batch.document["created_at"])

    def counts(self, batch: StoredBatch) -> dict[str, int]:
        """How many requests of a batch have ended; it reads the journal of one that runs."""
        shown: dict[str, int] = batch.document["request_counts"]
        folder = JobFiles.of(self._args(batch).batch).folder
        if (
            batch.status not in ("in_progress", "cancelling")
            or not (folder / JOURNAL_NAME).exists()
        ):
            return shown
        with suppress(QuireError, sqlite3.Error):
            journal = Journal(folder, read_only=True)
            try:
                counts = journal.counts()
            finally:
                journal.close()
            return shown | {"completed": counts.answered, "failed": counts.failed}
        return shown


_FAILED = "The server could not run this batch; its log says why."


def _is_late(batch: StoredBatch, now: float) -> bool:
    return bool(batch.status == "in_progress" and batch.document["expires_at"] <= now)


class ServiceEngine:
    """The engine of a server as what answers a job's rows; see `quire.batch.job_engine.JobEngine`."""

    def __init__(
        self,
        service: Service,
        settings: ApiSettings,
        caller: Caller,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._service, self._settings, self._loop = service, settings, loop
        self._caller = replace(caller, background=True)

    @property
    def at_once(self) -> int:
        return self._service.admission.background + 1  # one is ready when another has ended

    def answerer(self) -> Answerer:
        return ApiAnswerer(
            self._service, self._settings, self._on_loop, self._caller, is_restarted=True
        )

    async def _on_loop(self, request: Coroutine[Any, Any, Answer]) -> Answer:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(request, self._loop))

    async def restart(self) -> Answerer:
        """Wait for the server to start its engine again; its end ends the job, too."""
        while True:
            await asyncio.sleep(_READY_PAUSE)
            with suppress(NotReady):
                self._service.admission.check_open()
                if self._service.is_attached:
                    return self.answerer()

    def close(self) -> None: ...


class NotRun:
    """Answers nothing: each row that has no record yet fails with one error."""

    at_once = 1

    def __init__(self, settings: ApiSettings, error: RowError) -> None:
        self._lines, self._error = ApiLines(settings), error

    def answerer(self) -> Answerer:
        return self

    async def prepare(self, row: Row) -> Prepared:
        return Prepared(row, None)

    async def answer(self, prepared: Prepared, started: Callable[[], None] | None) -> Record:
        return self.failed(prepared.row, self._error)

    def failed(self, row: Row, error: RowError) -> Record:
        return self._lines.failed(row, error)

    async def restart(self) -> Answerer:
        return self

    def close(self) -> None: ...
