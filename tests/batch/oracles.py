"""LLaMA-Factory's metrics by the packages that it uses: jieba, nltk and rouge-chinese."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest


def _import(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def jieba_words(text: str) -> list[str]:
    jieba = _import("jieba")
    jieba.setLogLevel(logging.CRITICAL)
    return list(jieba.cut(text))


def reference_scores(predict: str, label: str) -> dict[str, float]:
    """What LLaMA-Factory scores one row with."""
    bleu, rouge = _import("nltk.translate.bleu_score"), _import("rouge_chinese")
    hypothesis, reference = " ".join(jieba_words(predict)), " ".join(jieba_words(label))
    names = ("rouge-1", "rouge-2", "rouge-l")
    scores: dict[str, float] = dict.fromkeys(names, 0.0)
    if hypothesis.split() and reference.split():
        (found,) = rouge.Rouge().get_scores(hypothesis, reference)
        scores = {name: found[name]["f"] for name in names}
    smoothing = bleu.SmoothingFunction().method3
    scores["bleu-4"] = bleu.sentence_bleu(
        [list(label)], list(predict), smoothing_function=smoothing
    )
    return {name: round(value * 100, 4) for name, value in scores.items()}
