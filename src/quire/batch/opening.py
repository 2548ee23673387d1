"""A batch from its arguments: the input is opened and looked at, before any model is loaded."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quire.arguments import ArgumentSource
from quire.batch.arguments import BatchArgs, get_batch_args
from quire.batch.files import whole_file
from quire.batch.inputs import BatchSource, check_source, holds_requests, open_file, open_source
from quire.batch.job import BatchJob, BatchResult, JobFiles, MakeApiAnswerer
from quire.batch.job_engine import MakeModel
from quire.batch.rows import RowSource
from quire.chat.chat_model import ChatModel
from quire.errors import BatchError, ConfigError

logger = logging.getLogger("quire")


def run_batch(
    args: ArgumentSource,
    *,
    rows: Iterable[Mapping[str, Any]] | None = None,
    model: ChatModel | None = None,
    make_model: MakeModel = ChatModel,
    make_api_answerer: MakeApiAnswerer | None = None,
    compat: bool = False,
) -> BatchResult:
    """Answer all rows, or go on where an equal batch was ended.

    Args:
        args: keys and values, the path of a YAML or JSON file, or words; see `BatchArguments`.
        rows: conversations, in the place of `input` and data sets: `{"messages": [...]}`, with `id`,
            `system` and `tools` where they are wanted.
        model: a model that is loaded already; it stays open.
        make_model: makes the model from its arguments.
        make_api_answerer: answers the requests of OpenAI's batch files:
            `quire.server.batches.make_api_answerer`.
        compat: whether LLaMA-Factory's `vllm_infer.py` is followed where quire does better.

    Returns:
        Where the files are, and how many rows were answered.

    Raises:
        ConfigError: the arguments are wrong, or the input cannot be read.
        BatchError: the files are another job's, another process works on it, too many rows fail, or
            the files cannot be written.
        ModelError, EngineError: the model cannot be loaded, or has died for good.
    """
    job = open_job(
        args,
        rows=rows,
        model=model,
        make_model=make_model,
        make_api_answerer=make_api_answerer,
        compat=compat,
    )
    return job.run()


def open_job(
    args: ArgumentSource,
    *,
    rows: Iterable[Mapping[str, Any]] | None = None,
    model: ChatModel | None = None,
    make_model: MakeModel = ChatModel,
    make_api_answerer: MakeApiAnswerer | None = None,
    compat: bool = False,
) -> BatchJob:
    """A job that is ready to run; see `run_batch`.

    Raises:
        ConfigError, BatchError: see `run_batch`.
    """
    loaded = None if model is None else model.engine.arguments
    read = get_batch_args(args, has_rows=rows is not None, loaded=loaded)
    files = JobFiles.of(read.batch)
    files.make_folder()
    if rows is not None:
        source = _source_of(rows, files.folder / "rows.jsonl", read)
    else:
        source = open_source(read, spool=files.folder / "input.jsonl", compat=compat)
    for line in check_source(source):
        logger.warning("%s", line)
    _check_room(source, files)
    if read.cutoff_len is not None and not compat:
        logger.warning(
            "cutoff_len: prompts that have more than %s tokens with their labels lose their end, as with "
            "LLaMA-Factory; each is marked (cut), and counted. Without cutoff_len they are refused.",
            f"{read.cutoff_len:,}",
        )
    if not holds_requests(source):
        make_api_answerer = None
    elif make_api_answerer is None:
        raise BatchError(
            "These rows are requests of OpenAI's batch file, which the server's APIs answer: pip install "
            "'quire-llm[server]' for `quire batch`, and in a program give run_batch "
            "make_api_answerer=quire.server.batches.make_api_answerer."
        )
    else:
        _check_requests(read)
    return BatchJob(
        read,
        source,
        make_model=make_model,
        model=model,
        make_api_answerer=make_api_answerer,
        compat=compat,
    )


def _check_requests(args: BatchArgs) -> None:
    """Refuse arguments that mean nothing for requests, which say all of themselves.

    Raises:
        ConfigError: there are any.
    """
    batch = args.batch
    refused = {
        **dict.fromkeys(args.options, "each request has its own options"),
        "keep_columns": batch.keep_columns and "a request has no columns beside its custom_id",
        "matrix_save_name": batch.matrix_save_name and "a request has no label to be scored by",
        "do_predict": batch.do_predict and "a request has no label to be scored by",
        "cutoff_len": args.cutoff_len and "each request is the prompt that it is",
        "save_name": batch.save_name.endswith(".parquet") and "OpenAI's form is .jsonl",
        "stage": args.infer.finetuning.stage == "rm" and "a request is no pair of answers",
        "batch_backend": batch.batch_backend == "ray" and "actors answer conversations alone",
    }
    for name, reason in refused.items():
        if reason:
            raise ConfigError(
                f"{name} is not for a file of OpenAI's batch requests: {reason}. Leave it out."
            )


def _source_of(rows: Iterable[Mapping[str, Any]], path: Path, args: BatchArgs) -> BatchSource:
    """Rows of the caller, written to a file of the job first, so that it can be gone on with.

    Raises:
        ConfigError: a row holds what JSON does not.
        BatchError: the file cannot be written.
    """
    try:
        with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
            for number, row in enumerate(rows):
                try:
                    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
                    file.write(f"{line}\n")
                except (TypeError, ValueError) as error:
                    raise ConfigError(f"Row {number} cannot be written as JSON: {error}.") from None
    except OSError as error:
        raise BatchError(f"{path} cannot be written: {error.strerror}.") from None
    return open_file(path, args, name="rows")


def _check_room(source: RowSource, files: JobFiles) -> None:
    """Refuse a disk that is certainly too small: prompts are written twice, to journal and file.

    Raises:
        BatchError: it is.
    """
    if source.total is None:
        return
    least = 2 * 200 * source.total  # bytes of a line with next to nothing in it
    free = shutil.disk_usage(files.folder).free
    if free < least:
        raise BatchError(
            f"The disk of {files.folder} has {free / 1e9:,.1f} GB free, and {source.total:,} rows need "
            f"at least {least / 1e9:,.1f} GB: make room, or choose another output_dir."
        )
