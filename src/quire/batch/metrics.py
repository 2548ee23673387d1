"""The scores of one answer: BLEU-4 and ROUGE with LLaMA-Factory's numbers, and matches.

BLEU (Papineni et al., 2002) is of characters, smoothed geometrically where an order has no match
(Chen and Cherry, 2014, method 3). ROUGE (Lin, 2004) is of jieba's words.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from quire.batch.answer_text import read_answer
from quire.batch.words import rouge_words
from quire.errors import ConfigError

_ORDERS = 4
_BLOCK = 4096
"""Words that one integer stands for: more of them take memory that grows with their square."""


def score_row(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores of one answer, each from 0 to 100, those alone that it can have.

    Args:
        row: `predict`, and `label` if there is one, each the whole text. If known, also `content`, the
            answer without thought and calls, and `tool_calls` and `label_tool_calls`, as data.

    Raises:
        ConfigError: a text has Han characters, and jieba is not installed.
        ValueError: the calls are no list of calls.
    """
    predict, label = row["predict"], row.get("label")
    answer = read_answer(predict, row.get("content"), row.get("tool_calls"))
    is_valid = is_json(answer.text)
    if label is None:
        return {"json_valid": 100.0 * is_valid}
    scores = text_scores(predict, label)
    wanted = read_answer(label, calls=row.get("label_tool_calls"))
    same_text = answer.text == wanted.text
    same_calls = answer.calls == wanted.calls
    if same_text and not answer.calls and row.get("label_tool_calls") is None:
        same_calls = True  # what looks like a call in the label is none in the very same answer
    same_rest = same_text or (bool(wanted.calls) and answer.rest == wanted.rest)
    scores["exact_match"] = 100.0 * (same_calls and same_rest)
    if wanted.text.startswith(("{", "[")) and is_json(wanted.text):
        scores["json_valid"] = 100.0 * is_valid
    if answer.calls or wanted.calls:
        scores["tool_call_match"] = 100.0 * same_calls
    return scores


def score_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, float] | str]:
    """The scores of several answers; of one that cannot be scored, what is wrong with it.

    Raises:
        ConfigError: see `score_row`.
    """
    results: list[dict[str, float] | str] = []
    for row in rows:
        try:
            results.append(score_row(row))
        except ConfigError:  # of the machine, and a ValueError too
            raise
        except ValueError as error:
            results.append(str(error))
        except RecursionError:
            results.append("its tool calls nest too deeply")
    return results


def text_scores(predict: str, label: str) -> dict[str, float]:
    """BLEU-4 and ROUGE of whole texts, in percent, rounded to four places as LLaMA-Factory does."""
    rouge = rouge_scores(rouge_words(predict), rouge_words(label))
    scores = {"bleu-4": bleu_4(predict, label), **rouge}
    return {name: round(value * 100, 4) for name, value in scores.items()}


def is_json(text: str) -> bool:
    """Whether a text is JSON, and nothing else."""
    try:
        # Numbers are not computed: Python refuses those of thousands of digits.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


# --- BLEU ----------------------------------------------------------------------------------------


def bleu_4(predict: str, label: str) -> float:
    """BLEU of up to four characters, from 0 to 1."""
    logarithms: list[float] = []
    unmatched = 0
    for order in range(1, _ORDERS + 1):
        matches = _clipped_matches(predict, label, order)
        if order == 1 and not matches:
            return 0.0
        total = max(1, len(predict) - order + 1)
        if matches:
            precision = matches / total
        else:
            unmatched += 1
            precision = 1 / (2**unmatched * total)
        logarithms.append(math.log(precision) / _ORDERS)
    brevity = 1.0 if len(predict) > len(label) else math.exp(1 - len(label) / len(predict))
    return brevity * math.exp(math.fsum(logarithms))


def _clipped_matches(predict: str, label: str, order: int) -> int:
    """How many n-grams of the answer the label has too, each at most as often as there."""
    found = Counter(_grams(predict, order))
    known = Counter(_grams(label, order))
    return sum(min(found[gram], known[gram]) for gram in found.keys() & known.keys())


def _grams(text: str, order: int) -> list[str]:
    return [text[start : start + order] for start in range(len(text) - order + 1)]


# --- ROUGE ---------------------------------------------------------------------------------------


def rouge_scores(predict: Sequence[str], label: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2 and -L of words, each from 0 to 1; all are 0 where either text has no word."""
    if not predict or not label:
        return {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}
    common = lcs_length(predict, label)
    return {
        "rouge-1": _overlap(set(predict), set(label)),
        "rouge-2": _overlap(_pairs(predict), _pairs(label)),
        "rouge-l": _f_score(common / len(predict), common / len(label)),
    }


def _pairs(words: Sequence[str]) -> set[tuple[str, str]]:
    return set(pairwise(words))


def _overlap(predict: set[Any], label: set[Any]) -> float:
    common = len(predict & label)
    return _f_score(common / max(1, len(predict)), common / max(1, len(label)))


def _f_score(precision: float, recall: float) -> float:
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    A row of the table of lengths grows by 0 or 1 from one column to the next, so that one bit a column
    holds it, and a few operations on an integer make the next row of it (Hyyrö, 2004). Only one row is
    kept. Columns are taken in blocks, between which one carry a row is handed on, so that memory grows
    with the number of words and not with its square.
    """
    carries = bytearray(len(second))
    return sum(
        _block_length(first[start : start + _BLOCK], second, carries)
        for start in range(0, len(first), _BLOCK)
    )


def _block_length(block: Sequence[str], second: Sequence[str], carries: bytearray) -> int:
    """The columns of a block at which the last row grows; `carries` are read and replaced."""
    width = len(block)
    full = (1 << width) - 1
    columns: dict[str, int] = {}
    for column, word in enumerate(block):
        columns[word] = columns.get(word, 0) | 1 << column
    flat = full  # the columns at which the row does not grow
    for row, word in enumerate(second):
        matches = columns.get(word, 0)
        if not (matches or carries[row]):
            continue
        total = flat + (flat & matches) + carries[row]
        carries[row] = total >> width
        flat = (total | (flat & ~matches)) & full
    return width - flat.bit_count()
