"""A batch from its arguments: the input is opened and looked at, before any model is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from quire.arguments import ArgumentSource
from quire.batch.arguments import BatchArgs, get_batch_args
from quire.batch.job import BatchJob, BatchResult, JobFiles, MakeModel
from quire.batch.rows import RowSource
from quire.chat.chat_model import ChatModel
from quire.errors import BatchError


def run_batch(
    args: ArgumentSource,
    *,
    rows: Iterable[Mapping[str, Any]] | None = None,
    model: ChatModel | None = None,
    make_model: MakeModel = ChatModel,
    compat: bool = False,
) -> BatchResult:
    """Answer all rows, or go on where an equal batch was ended.

    Args:
        args: keys and values, the path of a YAML or JSON file, or words; see `BatchArguments`.
        rows: conversations, in the place of `input` and data sets: `{"messages": [...]}`, with `id`,
            `system` and `tools` where they are wanted.
        model: a model that is loaded already; it stays open.
        make_model: makes the model from its arguments.
        compat: whether LLaMA-Factory's `vllm_infer.py` is followed where quire does better.

    Returns:
        Where the files are, and how many rows were answered.

    Raises:
        ConfigError: the arguments are wrong, or the input cannot be read.
        BatchError: the files are another job's, another process works on it, too many rows fail, or
            the files cannot be written.
        ModelError, EngineError: the model cannot be loaded, or has died for good.
    """
    return open_job(args, rows=rows, model=model, make_model=make_model, compat=compat).run()


def open_job(
    args: ArgumentSource,
    *,
    rows: Iterable[Mapping[str, Any]] | None = None,
    model: ChatModel | None = None,
    make_model: MakeModel = ChatModel,
    compat: bool = False,
) -> BatchJob:
    """A job that is ready to run; see `run_batch`.

    Raises:
        ConfigError, BatchError: see `run_batch`.
    """
    from quire.batch.inputs import check_source, open_rows, open_source

    read = get_batch_args(args, has_rows=rows is not None, has_model=model is not None)
    files = JobFiles.of(read.batch)
    files.make_folder()
    if rows is not None:
        source = open_rows(rows, spool=files.folder / "input")
    else:
        source = open_source(read, spool=files.folder / "input", compat=compat)
    check_source(source)
    _check_room(read, source, files)
    return BatchJob(read, source, make_model=make_model, model=model, compat=compat)


def _check_room(args: BatchArgs, source: RowSource, files: JobFiles) -> None:
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
