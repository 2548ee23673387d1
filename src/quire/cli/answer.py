"""One answer shown while it streams, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from quire.cli.markdown import MarkdownStream
from quire.cli.terminal import harmless
from quire.cli.thought import ThoughtStream
from quire.messages import ToolCall
from quire.outputs import FinishReason, Usage

if TYPE_CHECKING:
    from quire.chat import ChatDelta


@dataclass
class Answer:
    """An answer as far as it came. Times are seconds on a monotonic clock."""

    asked_at: float = 0.0
    first_at: float | None = None
    last_at: float = 0.0
    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    tokens: int = 0
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    interrupted: bool = False

    def add(self, delta: ChatDelta, now: float) -> None:
        if self.first_at is None and (delta.token_ids or delta.text):
            self.first_at = now
        self.last_at = now
        self.content += delta.content
        self.reasoning += delta.reasoning
        self.calls.extend(delta.tool_calls)
        self.tokens += len(delta.token_ids)
        self.usage = delta.usage or self.usage
        self.finish_reason = delta.finish_reason or self.finish_reason

    @property
    def count(self) -> int:
        """How many tokens were written."""
        return self.usage.completion_tokens if self.usage else self.tokens

    @property
    def writing(self) -> float:
        """Seconds from the first token to the last."""
        return 0.0 if self.first_at is None else self.last_at - self.first_at

    def stats(self) -> str:
        """Tokens, time to the first of them, and the rate after it."""
        if self.first_at is None:
            return "no tokens"
        tokens = self.count
        parts = [f"{tokens} tokens", f"first after {self.first_at - self.asked_at:.2f} s"]
        if tokens > 1 and self.writing > 0:
            parts.append(f"{(tokens - 1) / self.writing:,.0f} tokens/s")
        if self.usage:
            cached = f", {self.usage.cached_tokens} cached" if self.usage.cached_tokens else ""
            parts.append(f"prompt {self.usage.prompt_tokens} tokens{cached}")
        return " · ".join(parts)


def total(answers: Iterable[Answer]) -> tuple[int, float]:
    """The tokens of all answers, and the seconds that writing them took one after the other."""
    answers = list(answers)
    return sum(answer.count for answer in answers), sum(answer.writing for answer in answers)


class AnswerView:
    """Shows an answer's deltas: the thought dimmed, the content as Markdown, calls as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._markdown = MarkdownStream(console)
        self._thought = ThoughtStream(console)

    def show(self, delta: ChatDelta) -> None:
        if delta.reasoning:
            self._thought.add(delta.reasoning)
        if delta.content:
            self._thought.finish()
            self._markdown.add(delta.content)
        for call in delta.tool_calls:
            self.finish()
            show_call(self._console, call)

    def finish(self) -> None:
        """Print what is left, and leave the terminal as it was."""
        self._thought.finish()
        self._markdown.finish()


def show_call(console: Console, call: ToolCall) -> None:
    """Show a call of a tool in one line."""
    line = Text.assemble(("⚙ ", "cyan"), (call.name, "bold cyan"), (f" {call.arguments}", "cyan"))
    console.print(Text(harmless(line.plain), spans=line.spans), soft_wrap=True)


def receive(
    deltas: Iterable[ChatDelta],
    show: Callable[[ChatDelta], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    answer: Answer | None = None,
) -> Answer:
    """Take an answer's deltas, showing each; Ctrl-C ends it and keeps what came."""
    answer = answer or Answer()
    answer.asked_at = clock()
    try:
        for delta in deltas:
            answer.add(delta, clock())
            show(delta)
    except KeyboardInterrupt:
        answer.interrupted = True
    return answer
