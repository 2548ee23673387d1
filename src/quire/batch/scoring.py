"""The scores of a file of answers: a step of its own, which only reads what a batch has written."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quire.batch.answer_file import AnswerRow, BadRecordError, read_records
from quire.batch.files import whole_file
from quire.batch.scoring_pool import RowScores, score_chunks
from quire.errors import ConfigError
from quire.machine.cpus import default_threads

_CHUNK_ROWS = 64
_CHUNK_CHARACTERS = 1 << 18
_SMALL_FILE = 1 << 20
"""Bytes of a file that is scored before other processes would have started."""
_MOST_WORKERS = 16
_BAD_LINES_NAMED = 10


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that holds no answer."""

    line: int
    """From 1; of a parquet file it is the row."""
    reason: str


@dataclass(frozen=True, slots=True)
class Speed:
    """How long a batch took, in seconds."""

    runtime: float
    preparation_time: float
    """Until the model and the first rows were there."""
    steps: int
    """Windows of `batch_size` rows."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a file of answers scores."""

    means: Mapping[str, float]
    """From 0 to 100 by name, such as `bleu-4`; `accuracy` from 0 to 1. What no row could have is not
    among them."""
    answers: int
    """Rows with an answer, or with the two scores of a reward model."""
    scored: int
    """Those of them that something is known to be compared with: a label, or the other score."""
    failed: int
    """Rows without an answer: they failed."""
    bad_lines: int
    first_bad_lines: tuple[BadLine, ...]
    """Ten of them at most."""

    @property
    def without_label(self) -> int:
        """Answers that there is no label for."""
        return self.answers - self.scored

    def as_json(self, speed: Speed | None = None) -> dict[str, float]:
        """All numbers by LLaMA-Factory's names, such as `predict_bleu-4`, and what was left out."""
        numbers: dict[str, float] = dict(self.means)
        if speed is not None:
            numbers["model_preparation_time"] = speed.preparation_time
            numbers["runtime"] = speed.runtime
            numbers["samples_per_second"] = _rate(self.answers, speed.runtime)
            numbers["steps_per_second"] = _rate(speed.steps, speed.runtime)
        numbers["samples"] = self.scored
        numbers["samples_without_label"] = self.without_label
        numbers["samples_failed"] = self.failed
        numbers["bad_lines"] = self.bad_lines
        return {f"predict_{name}": numbers[name] for name in sorted(numbers)}


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def score_file(path: Path, *, workers: int | None = None) -> Scores:
    """Score the answers in a file. Memory does not depend on how many there are.

    Args:
        path: lines of JSON with `predict` and `label`, as quire and LLaMA-Factory write them, or a
            parquet file with such columns. Where they are there, `content` (the answer without thought
            and calls), `tool_calls`, `label_tool_calls`, and a reward model's `chosen` and `rejected`
            are read, too.
        workers: processes that score; None takes one for each core, and for a small file none but
            this.

    Raises:
        ConfigError: the file cannot be read; or a text needs jieba, which is not installed.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror or error}.") from None
    if workers is None:
        workers = 1 if size <= _SMALL_FILE else min(default_threads(), _MOST_WORKERS)
    tally = _Tally()
    numbers: deque[Sequence[int]] = deque()  # of the rows of each chunk that is not scored yet

    def chunks() -> Iterator[list[AnswerRow]]:
        for chunk in _chunks(tally.to_score(read_records(path))):
            numbers.append([number for number, _ in chunk])
            yield [record for _, record in chunk]

    for results in score_chunks(chunks(), max(1, workers)):
        tally.add_scores(numbers.popleft(), results)
    return tally.scores()


def _chunks(records: Iterator[tuple[int, AnswerRow]]) -> Iterator[list[tuple[int, AnswerRow]]]:
    chunk: list[tuple[int, AnswerRow]] = []
    characters = 0
    for number, record in records:
        chunk.append((number, record))
        characters += len(record["predict"]) + len(record.get("label") or "")
        if len(chunk) == _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


class _Mean:
    """A mean of numbers that come one by one."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1


class _Tally:
    """Adds up what a file's rows are and score."""

    def __init__(self) -> None:
        self._labelled: dict[str, _Mean] = {}
        self._unlabelled: dict[str, _Mean] = {}
        self._accuracy = _Mean()
        self._answers = self._scored = self._failed = 0
        self._bad_count = 0
        self._bad: list[BadLine] = []

    def to_score(
        self, records: Iterator[tuple[int, AnswerRow | BadRecordError]]
    ) -> Iterator[tuple[int, AnswerRow]]:
        """The rows whose texts are to be scored; all others are counted here."""
        for number, record in records:
            if isinstance(record, BadRecordError):
                self._add_bad(number, str(record))
            elif "predict" in record:
                yield number, record
            elif "chosen" in record or "rejected" in record:
                self._add_pair(number, record)
            else:
                self._failed += 1

    def add_scores(self, numbers: Sequence[int], results: Sequence[RowScores]) -> None:
        """Add the scores of the rows with these numbers."""
        for number, result in zip(numbers, results, strict=True):
            if isinstance(result, str):
                self._add_bad(number, result)
                continue
            self._answers += 1
            is_labelled = "bleu-4" in result
            self._scored += is_labelled
            means = self._labelled if is_labelled else self._unlabelled
            for name, value in result.items():
                means.setdefault(name, _Mean()).add(value)

    def _add_pair(self, number: int, record: AnswerRow) -> None:
        pair = (record.get("chosen"), record.get("rejected"))
        if not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in pair):
            self._add_bad(number, "chosen and rejected are no two scores")
            return
        self._answers += 1
        self._scored += 1
        self._accuracy.add(record["chosen"] > record["rejected"])

    def _add_bad(self, number: int, reason: str) -> None:
        self._bad_count += 1
        if len(self._bad) < _BAD_LINES_NAMED:
            self._bad.append(BadLine(number, reason))

    def scores(self) -> Scores:
        # Whether an answer should be JSON its label says. Where no row has one, all of them count.
        means = dict(self._labelled or self._unlabelled)
        if self._accuracy.count:
            means["accuracy"] = self._accuracy
        return Scores(
            means={name: mean.total / mean.count for name, mean in means.items()},
            answers=self._answers,
            scored=self._scored,
            failed=self._failed,
            bad_lines=self._bad_count,
            first_bad_lines=tuple(sorted(self._bad, key=lambda bad: bad.line)),
        )


def write_scores(path: Path, scores: Scores, speed: Speed | None = None) -> None:
    """Write the scores as JSON: the whole file, or nothing of it.

    Raises:
        ConfigError: it cannot be written.
    """
    text = json.dumps(scores.as_json(speed), indent=4) + "\n"
    try:
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror or error}.") from None
