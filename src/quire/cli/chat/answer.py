"""One answer as far as it came: its parts, and when they came."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quire.messages import ToolCall
from quire.outputs import DeltaSum, TextPart, ThoughtPart, calls_of, text_of

if TYPE_CHECKING:
    from quire.chat import ChatDelta


@dataclass
class Answer:
    """An answer as far as it came. Times are seconds on a monotonic clock."""

    asked_at: float = 0.0
    first_at: float | None = None
    """When the first token came."""
    last_at: float = 0.0
    interrupted: bool = False
    sum: DeltaSum = field(default_factory=DeltaSum)

    def add(self, delta: ChatDelta, now: float) -> None:
        """Add the next delta, which came `now`."""
        if self.first_at is None and (delta.token_ids or delta.text):
            self.first_at = now
        self.last_at = now
        self.sum.add(delta)

    @property
    def content(self) -> str:
        """The answer's own text."""
        return text_of(self.sum.parts, TextPart)

    @property
    def reasoning(self) -> str:
        """The thought's text."""
        return text_of(self.sum.parts, ThoughtPart)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls, in order."""
        return calls_of(self.sum.parts)

    @property
    def count(self) -> int:
        """How many tokens were written."""
        usage = self.sum.usage
        return usage.completion_tokens if usage else self.sum.token_count

    @property
    def writing(self) -> float:
        """Seconds from the first token to the last."""
        return 0.0 if self.first_at is None else self.last_at - self.first_at

    def stats(self) -> str:
        """Tokens, time to first token, and tokens a second after it, in words."""
        if self.first_at is None:
            return "no tokens"
        tokens, usage = self.count, self.sum.usage
        parts = [
            f"{tokens} token{'' if tokens == 1 else 's'}",
            f"first after {self.first_at - self.asked_at:.2f} s",
        ]
        if tokens > 1 and self.writing > 0:
            parts.append(f"{(tokens - 1) / self.writing:,.0f} tokens/s")
        if usage:
            cached = f", {usage.cached_tokens} cached" if usage.cached_tokens else ""
            parts.append(f"prompt {usage.prompt_tokens} tokens{cached}")
        return " · ".join(parts)


def total(answers: Iterable[Answer]) -> tuple[int, float]:
    """The tokens of all answers, and the seconds that writing them took one after the other."""
    answers = list(answers)
    return sum(answer.count for answer in answers), sum(answer.writing for answer in answers)


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
