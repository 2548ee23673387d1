"""What is measured of a loaded model: loads, perplexity, and the memory of its processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.bench.figures import AnswerTimes, LoadTimes
from quire.bench.text import Passage
from quire.errors import ConfigError, GenerationError, UnsupportedOptionError
from quire.prompt import Prompt
from quire.request import ChatRequest
from quire.sampling import SamplingParams

if TYPE_CHECKING:
    from quire.chat import ChatModel

WINDOW = 512
"""The most tokens of a bare text that are computed as one prompt; each window begins anew."""
_AT_ONCE = 8
"""Prompts that are scored at the same time."""
_PROCESSES = Path("/proc")

# --- one turn of one load ----------------------------------------------------------------------------


def run_load(
    model: ChatModel,
    questions: Sequence[str],
    options: Mapping[str, Any],
    clock: Callable[[], float] = time.perf_counter,
) -> LoadTimes:
    """Ask all questions at once, and take the time of each token.

    Args:
        options: of every request.
        clock: tells the time in seconds.

    Raises:
        QuireError: the engine refused a request or failed; the others are aborted.
    """

    async def run() -> LoadTimes:
        began = clock()
        answers = await asyncio.gather(
            *(_answer(model, text, options, clock) for text in questions)
        )
        return LoadTimes(clock() - began, tuple(answers))

    return asyncio.run(run())


async def _answer(
    model: ChatModel, text: str, options: Mapping[str, Any], clock: Callable[[], float]
) -> AnswerTimes:
    began = clock()
    arrivals: list[tuple[float, int]] = []
    usage = None
    stream = model.astream([{"role": "user", "content": text}], **options)
    async with aclosing(stream):
        async for delta in stream:
            # A remote server may send text without token ids: then each piece of text counts as one.
            count = len(delta.token_ids) or int(bool(delta.text))
            if count:
                arrivals.append((clock() - began, count))
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
    gaps: list[float] = []
    for (before, _), (now, count) in itertools.pairwise(arrivals):
        gaps += [(now - before) / count] * count
    return gaps


# --- perplexity --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Token ids of one prompt, of which those from `start` on are scored."""

    ids: tuple[int, ...]
    start: int


def run_quality(model: ChatModel, passages: Sequence[Passage]) -> list[float]:
    """The log-probability (natural) of every token that is scored, in order.

    The engine's own scores of prompts tell them. Of an answer all tokens are scored, after its question
    in the model's own format; of bare text all but the first of each window.

    Raises:
        ConfigError: there is nothing to score.
        PromptTooLongError: a question alone fills the context.
        UnsupportedOptionError: the engine has no tokenizer here, or scores no prompts.
    """
    if not model.engine.has_tokens:
        raise UnsupportedOptionError(
            "--quality and --text need the model's tokenizer: give model_name_or_path as its folder."
        )
    windows = [window for passage in passages for window in windows_of(model, passage)]
    if not windows:
        raise ConfigError("The text to measure the perplexity on has fewer than two tokens.")
    return asyncio.run(_score_all(model, windows))


def windows_of(model: ChatModel, passage: Passage) -> Iterator[Window]:
    """Cut one passage into prompts that fit the context. An answer that is too long loses its end."""
    engine = model.engine
    room = engine.info.context_length - 1
    ids = engine.tokenizer.encode_literal(passage.text)
    if passage.question is None:
        size = min(WINDOW, room)
        for start in range(0, len(ids) - 1, size):
            window = tuple(ids[start : start + size])
            if len(window) > 1:
                yield Window(window, 1)
        return
    messages = [{"role": "user", "content": passage.question}]
    request = ChatRequest(messages, options={"enable_thinking": False})
    asked = engine.tokens.preparation.prepare_text(request).prompt.token_ids
    whole = (*asked, *ids)[:room]
    if len(whole) > len(asked):
        yield Window(whole, len(asked))


async def _score_all(model: ChatModel, windows: Sequence[Window]) -> list[float]:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def score(window: Window) -> list[float]:
        async with slots:
            return await _score(model, window)

    scores = await asyncio.gather(*map(score, windows))
    return list(itertools.chain.from_iterable(scores))


async def _score(model: ChatModel, window: Window) -> list[float]:
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, streamed=False)
    stream = model.acomplete(Prompt(window.ids), params)
    async with aclosing(stream):
        async for delta in stream:
            if delta.finish_reason == "error":
                raise GenerationError(delta.error or "The engine failed while it scored the text.")
            if delta.prompt_logprobs is not None:
                entries = delta.prompt_logprobs[window.start :]
                return [entry.logprob for entry in entries if entry is not None]
    raise UnsupportedOptionError(
        "This engine gives no log-probabilities of a prompt, which --quality and --text need."
    )


# --- memory ------------------------------------------------------------------------------------------


def peak_rss(pid: int | None = None, root: Path = _PROCESSES) -> int | None:
    """The memory that a process and its children have held, in bytes: the sum of each one's own peak.

    Args:
        pid: the process; None is this one.
        root: where Linux shows its processes.

    Returns:
        None where the system does not tell.
    """
    first = os.getpid() if pid is None else pid
    peaks = [_peak(root / str(number)) for number in (first, *_descendants(first, root))]
    known = [size for size in peaks if size is not None]
    return sum(known) if known else None


def _descendants(pid: int, root: Path) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for folder in root.glob("[0-9]*"):
        parent = _field(folder, "PPid:")
        if parent is not None:
            children.setdefault(parent, []).append(int(folder.name))
    waiting = list(children.get(pid, ()))
    while waiting:
        number = waiting.pop()
        yield number
        waiting += children.get(number, ())


def _peak(folder: Path) -> int | None:
    kibibytes = _field(folder, "VmHWM:")
    return None if kibibytes is None else kibibytes * 1024


def _field(folder: Path, name: str) -> int | None:
    """A number of a process's status; None for a process that has ended meanwhile."""
    try:
        for line in (folder / "status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
