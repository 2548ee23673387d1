"""Rows that tests make up, and models that answer them at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quire.batch.arguments import BatchArgs, get_batch_args
from quire.batch.job import BatchJob, BatchResult
from quire.batch.rows import ChatRow, Row, RowError, RowSource, SeeChunk
from quire.chat import ChatModel
from quire.demo import demo_model_path
from quire.request import ChatRequest
from quire.tokenizer import Tokenizer

ROWS_OF_A_CHUNK = 8


@dataclass
class Questions:
    """`count` questions; those in `broken` cannot be read."""

    count: int
    broken: frozenset[int] = frozenset()
    text: str = "Question {}: what is its number?"
    options: Mapping[str, Any] = field(default_factory=dict)
    knows_total: bool = True

    @property
    def total(self) -> int | None:
        return self.count if self.knows_total else None

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "questions"}

    def rows(self, see_chunk: SeeChunk | None = None) -> Iterator[Row]:
        for index in range(self.count):
            if index % ROWS_OF_A_CHUNK == 0 and see_chunk is not None:
                chunk = f"{self.text}{index}".encode()
                see_chunk("questions", index // ROWS_OF_A_CHUNK, hashlib.sha256(chunk).digest())
            if index in self.broken:
                yield Row(index, error=RowError("read", "This line is no JSON.", line=index + 1))
                continue
            messages = [{"role": "user", "content": self.text.format(index)}]
            request = ChatRequest(messages, options=self.options)
            yield Row(index, ChatRow(request), id=f"q{index}", columns={"number": index})


def batch_args(folder: Path, **values: Any) -> BatchArgs:
    """Arguments of a batch that writes to a folder."""
    given = {"output_dir": str(folder), "model_name_or_path": "echo", **values}
    return get_batch_args(given, has_rows=True)


def make_tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(demo_model_path())


def run_job(
    folder: Path, source: RowSource, model: ChatModel, words: Mapping[str, Any] | None = None
) -> BatchResult:
    """Run a batch on a model that is there already."""
    return BatchJob(batch_args(folder, **(words or {})), source, model=model).run()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, as they were written."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
