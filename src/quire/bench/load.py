"""One turn of one load: many streamed answers at once."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from quire.bench.figures import AnswerTimes, LoadTimes
from quire.chat import ChatModel
from quire.errors import GenerationError


def run_load(model: ChatModel, questions: Sequence[str], options: Mapping[str, Any]) -> LoadTimes:
    """Ask all questions at once, and take the time of each token.

    Raises:
        QuireError: the engine refused a request or failed; the others are aborted.
    """
    return asyncio.run(_run(model, questions, options))


async def _run(model: ChatModel, questions: Sequence[str], options: Mapping[str, Any]) -> LoadTimes:
    began = time.perf_counter()
    answers = await asyncio.gather(*(_answer(model, text, options) for text in questions))
    return LoadTimes(time.perf_counter() - began, tuple(answers))


async def _answer(model: ChatModel, text: str, options: Mapping[str, Any]) -> AnswerTimes:
    began = time.perf_counter()
    arrivals: list[tuple[float, int]] = []
    usage = None
    stream = model.astream([{"role": "user", "content": text}], **options)
    async with aclosing(stream):
        async for delta in stream:
            # A server that sends text alone tells of no tokens: a piece of text counts as one.
            count = len(delta.token_ids) or int(bool(delta.text))
            if count:
                arrivals.append((time.perf_counter() - began, count))
            usage = delta.usage or usage
    if not arrivals:
        raise GenerationError("An answer had no token at all: there is nothing to measure.")
    seen = sum(count for _, count in arrivals)
    return AnswerTimes(
        first=arrivals[0][0],
        last=arrivals[-1][0],
        tokens=usage.completion_tokens if usage else seen,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        gaps=tuple(_gaps(arrivals)),
    )


def _gaps(arrivals: Sequence[tuple[float, int]]) -> list[float]:
    """Seconds between tokens after the first arrival."""
    found: list[float] = []
    for (before, _), (now, count) in itertools.pairwise(arrivals):
        found += [(now - before) / count] * count
    return found
