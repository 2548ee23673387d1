"""`quire batch`: a data set in, answers out; how far it is; its parts joined."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cyclopts import App

from quire.characters import harmless
from quire.cli.batch_score import score
from quire.cli.signals import handled, suspendable
from quire.cli.terminal import can_redraw, note, show_log
from quire.cli.words import MakeModel, Words
from quire.errors import ConfigError

if TYPE_CHECKING:
    from quire.batch.job import BatchJob, BatchResult, MakeApiAnswerer

USAGE = "Usage: quire batch CONFIG.yaml | FOLDER [KEY=VALUE | --KEY VALUE ...]"

BATCH_COMMANDS = ("status", "score", "merge")

TELL_EVERY = 10.0  # seconds between two lines of progress where none can be drawn over
DRAW_EVERY = 0.25


def batch_app(make_model: MakeModel) -> App:
    """The command with its subcommands."""
    app = App(name="batch", usage=USAGE, help_format="plaintext")

    @app.default
    def batch(*words: Words) -> int:
        """Answer all rows of data sets, or of a file, and lose none of them.

        First comes a configuration, such as one of LLaMA-Factory for do_predict, or a
        model's folder. The rows come from `dataset` (names of dataset_info.json in
        dataset_dir), or from `input` (a file of conversations, of OpenAI's batch
        requests, or - for standard input):

          quire batch predict.yaml
          quire batch saves/my-model dataset=alpaca_en_demo max_samples=100
          quire batch saves/my-model input=questions.jsonl save_name=answers.jsonl

        A batch that was ended, by Ctrl-C or by a power cut, goes on where it was when
        the same command is given again.
        """
        return run(words, make_model)

    app.command(status, usage="Usage: quire batch status [FILE]")
    app.command(score, usage="Usage: quire batch score FILE [--output FILE] [--workers N]")
    app.command(merge, usage="Usage: quire batch merge OUTPUT PART PART ...")
    return app


def run(words: Sequence[str], make_model: MakeModel) -> int:
    """Run a batch to its end; Ctrl-C ends it after the rows in flight."""
    from quire.arguments import read_arguments
    from quire.batch import open_job

    show_log(logging.WARNING)
    if not words:
        raise ConfigError(f"Which model, and which rows? {USAGE}.")
    arguments = read_arguments(list(words))
    return run_job(
        open_job(arguments, make_model=make_model, make_api_answerer=_make_api_answerer())
    )


def _make_api_answerer() -> MakeApiAnswerer | None:
    """What answers requests of OpenAI's batch files; None without the server's packages."""
    try:
        from quire.server.batches import make_api_answerer
    except ImportError:
        return None
    return make_api_answerer


def run_job(job: BatchJob) -> int:
    """Run a job to its end, tell how far it is, and return the exit code."""
    with _signals(job), _told(job):
        result = job.run()
    _tell(result)
    if result.ending == "drained":
        note("The batch was ended; the same command goes on with it.")
        return 130
    return 0


@contextmanager
def _signals(job: BatchJob) -> Generator[None]:
    """Ctrl-C and SIGTERM let rows in flight end; a second Ctrl-C does not wait for them."""
    patience = job.drain_timeout

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not job.is_answering:  # nothing is in flight that could be lost
            raise KeyboardInterrupt
        signal.signal(signal.SIGINT, give_up)
        note("Ending after the rows in flight; Ctrl-C again ends at once.")
        job.drain()

    def give_up(number: int, frame: FrameType | None) -> None:
        job.drain(0.0)

    def terminate(number: int, frame: FrameType | None) -> None:
        note(f"Ending after the rows in flight, within {patience:g} s.")
        job.drain(patience)

    with handled({signal.SIGINT: interrupt, signal.SIGTERM: terminate}), suspendable():
        yield


@contextmanager
def _told(job: BatchJob) -> Generator[None]:
    """Shows how far the batch is: a line drawn over on a terminal, else one line every ten seconds."""
    from rich.console import Console

    from quire.batch.progress import Rates
    from quire.cli.foreground import SpinningLine

    console = Console(file=sys.stderr)
    rates, ended = Rates(), threading.Event()

    def tell_lines() -> None:
        while not ended.wait(TELL_EVERY):
            if job.progress.done:
                note(rates.line(job.progress))

    def watch() -> None:
        if not can_redraw(console):
            tell_lines()
            return
        with SpinningLine(console) as line:
            while not ended.wait(DRAW_EVERY):
                line.tell(rates.line(job.progress))

    thread = threading.Thread(target=watch, name="quire batch progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tell(result: BatchResult) -> None:
    """Say what came of a batch."""
    counts, files = result.counts, result.files
    if result.ending == "was finished":
        note("This batch is finished already; overwrite_output_dir=true begins it anew.")
    note(f"{counts.answered:,} of {counts.rows:,} rows have an answer: {files.answers}")
    if counts.failed:
        note(f"{counts.failed:,} have none: {files.errors} (retry_failed=true tries them again)")
    if counts.ended_by_length:
        note(
            f"Answers that ended at their limit of tokens: {counts.ended_by_length:,}. Raise "
            "max_new_tokens where they should be whole."
        )
    if counts.cut:
        note(f"Prompts that were cut to cutoff_len: {counts.cut:,}.")


def status(*words: Words) -> int:
    """Say how far a batch is.

    quire batch status                     generated_predictions.jsonl, in this folder
    quire batch status saves/answers.jsonl
    """
    from quire.batch.arguments import BatchArguments
    from quire.batch.job import JobFiles, read_status

    if len(words) > 1:
        raise ConfigError("One file of answers, please: quire batch status FILE.")
    answers = Path(words[0]) if words else Path(BatchArguments().save_name)
    if answers.is_dir():
        answers = answers / BatchArguments().save_name
    for line in read_status(JobFiles.beside(answers)):
        sys.stdout.write(f"{harmless(line)}\n")
    return 0


def merge(*words: Words) -> int:
    """Join the files of a batch's parts, which `shard=1/4` and so on have written.

    quire batch merge answers.jsonl part-1.jsonl part-2.jsonl part-3.jsonl part-4.jsonl
    """
    from quire.batch.merging import merge as merge_files

    if len(words) < 2:
        raise ConfigError("Which files? quire batch merge OUTPUT PART PART ...")
    output, *parts = map(Path, words)
    merged = merge_files(output, parts)
    note(f"{merged.rows:,} rows: {output}")
    if merged.missing:
        note(f"{merged.missing:,} rows before the last one are in none of the files.")
    return 0
