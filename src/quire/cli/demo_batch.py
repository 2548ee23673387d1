"""Several questions asked of one model at once, and their answers shown as they grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
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
            live.update(_table(questions, answers), refresh=True)

    with live or nullcontext():
        seconds = asyncio.run(_ask_all(model, questions, options, answers, show))
    console.print(_table(questions, answers))
    return answers, seconds


async def _ask_all(
    model: ChatModel,
    questions: Sequence[str],
    options: Mapping[str, Any],
    answers: Sequence[Answer],
    show: Any,
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


def _table(questions: Sequence[str], answers: Sequence[Answer]) -> Table:
    """One line for each question; a long answer is cut to the window."""
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(style="green", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
    for question, answer in zip(questions, answers, strict=True):
        written = " ".join((answer.content or answer.reasoning).split())
        table.add_row(question, Text(harmless(written)))
    return table
