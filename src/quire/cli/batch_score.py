"""`quire batch score`: the metrics of a file of answers, again and alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cyclopts import Parameter

from quire.characters import harmless
from quire.cli.terminal import note
from quire.cli.words import Value, Words, read_integer
from quire.errors import ConfigError, sentence

if TYPE_CHECKING:
    from quire.batch.scoring import Scores

_LABELS = {
    "bleu-4": "BLEU-4",
    "rouge-1": "ROUGE-1",
    "rouge-2": "ROUGE-2",
    "rouge-l": "ROUGE-L",
    "exact_match": "exact match, %",
    "json_valid": "valid JSON, %",
    "tool_call_match": "tool calls match, %",
    "accuracy": "reward accuracy",
}
_BAD_LINES_SHOWN = 3


@Parameter(name="*")
@dataclass(frozen=True)
class BatchScoreOptions:
    """The command's own options, as they were given."""

    output: Value = None
    """Write the metrics to this JSON file, in LLaMA-Factory's names."""
    workers: Value = None
    """Processes that score; one for each core if not given, and for a small file none."""


_NONE = BatchScoreOptions()


def score(*words: Words, options: BatchScoreOptions = _NONE) -> int:
    """Score a file of answers: BLEU-4, ROUGE, exact match, valid JSON, tool calls.

    The file is one that quire batch or LLaMA-Factory wrote: lines of JSON with
    predict and label, or parquet. It is only read.

      quire batch score generated_predictions.jsonl
      quire batch score generated_predictions.jsonl --output predictions_score.json
    """
    write_table(score_words(words, options), sys.stdout)
    return 0


def score_words(words: Sequence[str], options: BatchScoreOptions) -> Scores:
    """The scores of the file that the words name, written where the options say.

    Raises:
        ConfigError: the words or options are wrong, the file cannot be read or holds no answers.
    """
    from quire.batch.scoring import score_file, write_scores

    path = _file_of(words)
    workers = None if options.workers is None else read_integer("--workers", options.workers, 1)
    output = None if options.output is None else Path(os.path.expanduser(options.output))
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise ConfigError(f"--output {output}: no file can be written there.")
    if output is not None and output.exists() and output.samefile(path):
        raise ConfigError(f"--output {output}: that is the file of answers.")
    scores = score_file(path, workers=workers)
    if not scores.answers and scores.bad_lines:
        bad = scores.first_bad_lines[0]
        raise ConfigError(sentence(f"{path} holds no answers: line {bad.line}: {bad.reason}"))
    if output is not None:
        write_scores(output, scores)
    _note_bad_lines(scores)
    return scores


def _file_of(words: Sequence[str]) -> Path:
    if len(words) != 1:
        raise ConfigError("quire batch score takes one file of answers; see --help.")
    if words[0].startswith("-"):
        raise ConfigError(f"Unknown option {words[0]!r}; there are --output and --workers.")
    path = Path(os.path.expanduser(words[0]))
    if not path.is_file():
        raise ConfigError(f"No such file: {path}.")
    return path


def _note_bad_lines(scores: Scores) -> None:
    for bad in scores.first_bad_lines[:_BAD_LINES_SHOWN]:
        note(f"quire: line {bad.line} holds no answer: {bad.reason}")
    more = scores.bad_lines - _BAD_LINES_SHOWN
    if more > 0:
        note(f"quire: {more} more lines hold none")


def write_table(scores: Scores, output: TextIO) -> None:
    """Write the scores for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False, show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for name, label in _LABELS.items():
        if name in scores.means:
            table.add_row(Text(harmless(label)), f"{scores.means[name]:.4f}")
    console = Console(file=output, highlight=False)
    if not console.is_terminal:
        console.width = 200  # a file or a pipe has no width to keep to
    if table.rows:
        console.print(table)
    left_out = {"without a label": scores.without_label, "failed": scores.failed}
    notes = [f"{count} {what}" for what, count in left_out.items() if count]
    console.print("; ".join([f"{scores.scored} answers scored", *notes]) + ".", style="dim")
