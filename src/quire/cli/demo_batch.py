"""Several questions asked of one model at once, and their answers shown as they grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from quire.cli.answer import Answer
from quire.cli.terminal import can_redraw, harmless

if TYPE_CHECKING:
    from quire.chat import ChatModel


def ask_at_once(
    model: ChatModel, questions: Sequence[str], options: Mapping[str, Any], console: Console
) -> tuple[list[Answer], float]:
    """Ask all questions in the same moment; return the answers, and the seconds that they took."""
    answers = [Answer() for _ in questions]
    live = (
        Live(console=console, auto_refresh=False, transient=True) if can_redraw(console) else None
    )

    def show() -> None:
        if live is not None:
            live.update(_lines(questions, answers, console.width), refresh=True)

    with live or nullcontext():
        seconds = asyncio.run(_ask_all(model, questions, options, answers, show))
    console.print(_lines(questions, answers, console.width), soft_wrap=True)
    return answers, seconds


async def _ask_all(
    model: ChatModel,
    questions: Sequence[str],
    options: Mapping[str, Any],
    answers: Sequence[Answer],
    show: Callable[[], None],
) -> float:
    start = time.monotonic()
    asking = asyncio.gather(
        *(
            _ask(model, question, options, answer)
            for question, answer in zip(questions, answers, strict=True)
        )
    )
    while not asking.done():
        show()
        await asyncio.wait([asking], timeout=1 / 15)
    await asking
    return max(answer.last_at for answer in answers) - start


async def _ask(model: ChatModel, question: str, options: Mapping[str, Any], answer: Answer) -> None:
    answer.asked_at = time.monotonic()
    stream = model.astream([{"role": "user", "content": question}], **options)
    async with aclosing(stream) as deltas:
        async for delta in deltas:
            answer.add(delta, time.monotonic())


def _lines(questions: Sequence[str], answers: Sequence[Answer], width: int) -> Text:
    """One line for each question; what is too long for the window is cut."""
    column = min(max(map(len, questions)), width * 2 // 5)
    lines: list[Text] = []
    for question, answer in zip(questions, answers, strict=True):
        asked = Text(question, style="green")
        asked.truncate(column, overflow="ellipsis", pad=True)
        written = Text(harmless(" ".join((answer.content or answer.reasoning).split())))
        written.truncate(max(width - column - 2, 1), overflow="ellipsis")
        lines.append(Text.assemble(asked, "  ", written))
    return Text("\n").join(lines)
